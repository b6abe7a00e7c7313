"""Evaluation against labels: the objective's loss, and metrics by form of output."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reinforge.bundle.task import Reading
from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock
from reinforge.core.modes import evaluating
from reinforge.core.seeds import undisturbed
from reinforge.evaluation.intervals import REPLICATES, interval
from reinforge.evaluation.metrics.metric import Metric, metrics_for
from reinforge.models.heads import build_head
from reinforge.objectives.supervised import Supervised
from reinforge.registry import Options
from reinforge.schema.signature import Signature

# Output's name and values (rows, 1) to the same in the units of the data, (rows,): a pipeline's `inverse`.
Units = Callable[[str, Tensor], Any]
# What metrics look at instead of a head's raw output, by the form of output: an entry of what the head decodes.
DECODED = {"count": "value", "ordinal": "label", "span": "span"}


@dataclass(frozen=True)
class Judged:
    """What was said of one output's valid rows, as metrics take it, and what is true; `rows` (n,) are their numbers."""

    output: Tensor
    target: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Judgement:
    """What a model says of `rows` rows: the total loss, that of each output, and each output's valid rows."""

    loss: float
    losses: Mapping[str, float]
    outputs: Mapping[str, Judged]
    rows: int


class SupervisedEvaluator:
    """Loss and metrics of the learner's model on `data`, all rows as one batch; the model takes `size` rows at a time.

    "loss" is the weighted total, as in training. With one output a metric stands under its own name, with several
    under "output/metric", and so does each output's own loss. Metrics: all that fit an output's form, and of `more`
    those that do; while training only those that are watched, and the `wanted`. Of numbers in the data's own units
    where `units` is given. What the model says of all rows is held in memory, and nothing else of its outputs.
    """

    def __init__(
        self,
        objective: Supervised,
        signature: Signature,
        data: Batch,
        *,
        more: Sequence[Options] = (),
        wanted: Collection[str] = (),
        units: Units | None = None,
        size: int = 4096,
    ) -> None:
        batches.check(data)
        self.objective, self.signature, self.data, self.units, self.size = objective, signature, data, units, size
        self.wanted = set(wanted)
        self.metrics = {name: metrics_for(output.form, more) for name, output in signature.outputs.items()}

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """Watched metrics by name; a target without a valid row gives none. Leaves modes and random state as they
        were."""
        return self.measure(self.judge(learner), watched=True)

    def judge(self, learner: nn.Module, parts: Iterable[Batch] | None = None) -> Judgement:
        """What the learner's model says of all rows, or of those of `parts`, which need not be in memory at once.
        Leaves modes and random state as they were."""
        with undisturbed(), torch.no_grad(), evaluating(learner):
            return self._judge(learner, batches.split(self.data, self.size) if parts is None else parts)

    def measure(
        self, judgement: Judgement, readings: Mapping[str, Reading] | None = None, *, watched: bool = False
    ) -> dict[str, float]:
        """Metrics by name, of outputs read as `readings` say."""
        alone = len(self.signature.outputs) == 1
        results = {"loss": judgement.loss}
        for name, judged in judgement.outputs.items():
            prefix = "" if alone else f"{name}/"
            if not alone:
                results[f"{name}/loss"] = judgement.losses[name]
            reading = (readings or {}).get(name, Reading())
            for kind, metric in self.metrics[name].items():
                if watched and not getattr(metric, "watched", True) and prefix + kind not in self.wanted:
                    continue
                value = metric(read(judged.output, metric, reading), judged.target)
                if watched or not math.isnan(value) or getattr(metric, "watched", True):
                    results[prefix + kind] = value
        return results

    def intervals(
        self, judgement: Judgement, readings: Mapping[str, Reading] | None = None, replicates: int = REPLICATES
    ) -> dict[str, list[float]]:
        """The bootstrap interval [low, high] of each metric that has one, by the metric's name."""
        alone = len(self.signature.outputs) == 1
        found = {}
        for name, judged in judgement.outputs.items():
            reading = (readings or {}).get(name, Reading())
            for kind, metric in self.metrics[name].items():
                around = interval(metric, read(judged.output, metric, reading), judged.target, replicates=replicates)
                if around is not None:
                    found[kind if alone else f"{name}/{kind}"] = [around.low, around.high]
        return found

    def _judge(self, learner: nn.Module, parts: Iterable[Batch]) -> Judgement:
        model, first = learner.get_submodule("model"), next(learner.parameters(), torch.empty(0))
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        weights: dict[str, float] = {}
        collected: dict[str, list[Judged]] = {name: [] for name in self.signature.outputs}
        done = 0
        for part in (small for large in parts for small in batches.split(large, self.size)):
            outputs, _ = model(_like(batches.section(part, "inputs"), first))
            there, rows = batches.to(part, first.device), batches.rows(part)
            counted = self.objective.counts(there)
            for name, term in self.objective.terms(learner, outputs, there, counted).items():
                count = rows if term.coupled else float(counted[name])
                sums[name] = sums.get(name, 0.0) + float(term.sum.double()) * (rows if term.coupled else 1)
                counts[name] = counts.get(name, 0.0) + count
                weights[name] = float(term.weight)
            for name, judged in collected.items():
                judged.append(self._said(name, outputs[name], learner, part, done))
            done += rows
        means = {name: total / max(counts[name], 1.0) for name, total in sums.items()}
        joined = {name: _joined(judged) for name, judged in collected.items() if judged}
        there_are = {name: judged for name, judged in joined.items() if len(judged.target)}
        return Judgement(sum(weights[name] * mean for name, mean in means.items()), means, there_are, done)

    def _said(self, name: str, output: Tensor, learner: nn.Module, part: Batch, start: int) -> Judged:
        """Of the valid rows of one part, whose first is row `start`."""
        form = self.signature.outputs[name].form
        if form in DECODED:
            heads = getattr(learner.get_submodule("model"), "heads", {})
            head = heads[name] if name in heads else build_head(self.signature.outputs[name])
            output = head.decode(output)[DECODED[form]]
            output = output.view(len(output), -1) if form == "count" else output
        output, target = output.cpu(), batches.section(part, "targets")[name].cpu()
        output = output.float() if output.is_floating_point() else output
        rows, mask = torch.arange(len(output)), batches.section(part, "valid").get(name)
        if isinstance(mask, Tensor):
            rows = mask.cpu().nonzero()[:, 0]
            output, target = output[rows], target[rows]
        if self.units is not None and form == "number" and len(rows):
            output, target = (torch.as_tensor(self.units(name, values)).view_as(output) for values in (output, target))
        return Judged(output, target, rows + start)


def _joined(parts: Sequence[Judged]) -> Judged:
    return Judged(*(torch.cat(each) for each in zip(*((part.output, part.target, part.rows) for part in parts))))


def read(output: Tensor, metric: Metric, reading: Reading) -> Tensor:
    """The output as a reading has it for a metric: cooled by the temperature, and for what is decided moved by the
    thresholds too. Other forms than category and labels are as they are."""
    if metric.form not in ("category", "labels"):
        return output
    if getattr(metric, "decides", False):
        return decide(output, metric.form, reading)
    return output / reading.temperature if reading.temperature != 1.0 else output


def decide(output: Tensor, form: str, reading: Reading) -> Tensor:
    """Logits moved so that the highest of a category, or those above 0 of labels, are what the reading decides."""
    if reading.temperature != 1.0:
        output = output / reading.temperature
    if form == "category" and reading.threshold is not None and output.shape[1] == 2:
        return output - output.new_tensor([0.0, _logit(reading.threshold)])
    if form == "labels" and reading.thresholds is not None:
        return output - output.new_tensor([_logit(threshold) for threshold in reading.thresholds])
    return output


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _like(inputs: Batch, parameter: Tensor) -> Batch:
    """On the parameters' device, and as bf16 where they are."""

    def move(leaf: batches.Leaf) -> batches.Leaf:
        half = parameter.dtype == torch.bfloat16 and isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(parameter.device).bfloat16() if half else leaf.to(parameter.device)  # type: ignore[union-attr]

    return batches.apply(inputs, move)
