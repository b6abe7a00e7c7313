"""Evaluation against labels: the objective's loss, and metrics by form of output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock
from reinforge.core.seeds import undisturbed
from reinforge.errors import ComponentError
from reinforge.evaluation.metrics import Metric, metrics_for
from reinforge.objectives.supervised import Supervised
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature

# Output's name and values (rows, 1) to the same in the units of the data, (rows,): a pipeline's `inverse`.
Units = Callable[[str, Tensor], Any]


class SupervisedEvaluator:
    """Loss and metrics of the learner's model on `data`, all rows as one batch; the model takes `size` rows at a time.

    "loss" is the weighted total, as in training. With one output a metric stands under its own name, with several
    under "output/metric", and so does each output's own loss. Metrics: those given by output, else all that fit its
    form; of numbers in the data's own units where `units` is given. Outputs of all rows are held in memory.
    """

    def __init__(
        self,
        objective: Supervised,
        signature: Signature,
        data: Batch,
        *,
        metrics: Mapping[str, Sequence[Options]] | None = None,
        units: Units | None = None,
        size: int = 4096,
    ) -> None:
        batches.check(data)
        self.objective, self.signature, self.data, self.units, self.size = objective, signature, data, units, size
        chosen = metrics or {}
        self.metrics: dict[str, dict[str, Metric]] = {
            name: _build(chosen[name], name, output.form) if name in chosen else metrics_for(output.form)
            for name, output in signature.outputs.items()
        }

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """Metrics by name; a target without a valid row gives none. Leaves modes and random state as they were."""
        modes = [(module, module.training) for module in learner.modules()]
        with undisturbed(), torch.no_grad():
            learner.eval()
            try:
                outputs = self._outputs(learner)
                return self._measure(learner, outputs)
            finally:
                for module, training in modes:
                    module.training = training

    def _outputs(self, learner: nn.Module) -> dict[str, Tensor]:
        model, first = learner.get_submodule("model"), next(learner.parameters(), torch.empty(0))
        collected: dict[str, list[Tensor]] = {name: [] for name in self.signature.outputs}
        for part in batches.split(self.data, self.size):
            outputs, _ = model(_like(batches.section(part, "inputs"), first))
            for name, parts in collected.items():
                parts.append(outputs[name].float())
        return {name: torch.cat(parts) for name, parts in collected.items()}

    def _measure(self, learner: nn.Module, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        data = batches.to(self.data, next(iter(outputs.values())).device)
        targets, valid = batches.section(data, "targets"), batches.section(data, "valid")
        counts = self.objective.counts(data)
        terms = self.objective.terms(learner, outputs, data, counts)
        losses = {
            name: float(term.sum) / (1.0 if term.coupled else max(float(counts[name]), 1.0))
            for name, term in terms.items()
        }
        alone = len(outputs) == 1
        results = {"loss": sum(terms[name].weight * loss for name, loss in losses.items())}
        for name, output in outputs.items():
            target = targets[name]
            if name in valid:
                output, target = output[valid[name]], target[valid[name]]
            if not len(target):
                continue
            if not alone:
                results[f"{name}/loss"] = losses[name]
            if self.units is not None and self.signature.outputs[name].form == "number":
                output, target = (
                    torch.as_tensor(self.units(name, values)).view_as(output) for values in (output, target)
                )
            for kind, metric in self.metrics[name].items():
                results[kind if alone else f"{name}/{kind}"] = metric(output, target)
        return results


def _build(chosen: Sequence[Options], output: str, form: str) -> dict[str, Metric]:
    built: dict[str, Metric] = {}
    for options in chosen:
        kind, metric = str(getattr(options, "kind", "?")), REGISTRY.build("metric", options)
        if metric.form != form:
            raise ComponentError(
                f"it is for {metric.form} outputs, and {output!r} is a {form}", where=f"metric {kind!r}"
            )
        built[kind] = metric
    return built


def _like(inputs: Batch, parameter: Tensor) -> Batch:
    """On the parameters' device, and as bf16 where they are."""

    def move(leaf: batches.Leaf) -> batches.Leaf:
        half = parameter.dtype == torch.bfloat16 and isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(parameter.device).bfloat16() if half else leaf.to(parameter.device)  # type: ignore[union-attr]

    return batches.apply(inputs, move)
