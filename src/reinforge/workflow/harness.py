"""A language bundle under lm-evaluation-harness: its tasks, its prompts and its metrics, on our engine.

Where the package is installed; `evaluate --tasks` comes here. Prompts are plain text, as the tasks write them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reinforge.bundle.bundle import Bundle
from reinforge.data.choices import continued
from reinforge.data.language_data import shortened
from reinforge.data.text import TextPipeline
from reinforge.data.values import Origin
from reinforge.errors import DataError, MissingExtra
from reinforge.messages import _
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses
from reinforge.workflow.generate import Draws, generate, writer_of

# Tokens that go through the model at once.
TOKENS = 4096
# What the harness calls on a model.
ASKED = ("loglikelihood", "loglikelihood_rolling", "generate_until")
# A normal distribution's 95%.
_DEVIATIONS = 1.959964


def harness(
    bundle: Bundle, tasks: Sequence[str], *, shots: int | None = None, limit: int | None = None,
    include: Path | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """The tasks' metrics as "task/metric" with their "intervals" (of the harness's standard errors), and a line for
    each document. `shots`: examples before each question, by default the task's own; `limit`: documents of each task,
    at most; `include`: a folder of tasks of one's own. Raises MissingExtra, and DataError for tasks that aren't
    there."""
    try:
        lm_eval: Any = importlib.import_module("lm_eval")
        managers: Any = importlib.import_module("lm_eval.tasks")
        model: Any = importlib.import_module("lm_eval.api.model")
    except ImportError:
        raise MissingExtra("lm-eval", "harness") from None
    manager = managers.TaskManager(include_path=str(include) if include else None)
    if missing := [name for name in tasks if name not in manager.all_tasks]:
        raise DataError(
            _("lm-eval has no task {name!r}").format(name=missing[0]), where="--tasks",
            remedy=_("`lm-eval ls tasks` lists them."),
        )  # fmt: skip
    decoder, pipeline = writer_of(bundle)
    spoken = Spoken(bundle, decoder, pipeline)
    methods = {
        name: _answering(getattr(spoken, name)) for name in ("loglikelihood", "loglikelihood_rolling", "generate_until")
    }
    found: Any = lm_eval.simple_evaluate(
        model=type("Reinforge", (model.LM,), methods)(), tasks=list(tasks), num_fewshot=shots, limit=limit,
        task_manager=manager, bootstrap_iters=200,
    )  # fmt: skip
    metrics, intervals = {}, {}
    for task, values in found["results"].items():
        for key, value in values.items():
            name, _comma, filtered = key.partition(",")
            if not isinstance(value, int | float) or name.endswith("_stderr") or not _comma:
                continue
            told = f"{task}/{name}" if filtered == "none" else f"{task}/{name}/{filtered}"
            metrics[told] = float(value)
            error = values.get(f"{name}_stderr,{filtered}")
            if isinstance(error, int | float) and math.isfinite(error):
                intervals[told] = [value - _DEVIATIONS * error, value + _DEVIATIONS * error]
    lines = [
        {
            "task": task,
            "document": each["doc_id"],
            "target": str(each["target"]),
            "answered": str(each["filtered_resps"]),
        }
        for task, samples in found["samples"].items()
        for each in samples
    ]  # fmt: skip
    return {**metrics, "intervals": intervals}, lines


def _answering(method: Any) -> Any:
    """As a method of the harness's own class, which hands over its requests."""
    return lambda self, requests, **_more: method([request.args for request in requests])


class Spoken:
    """What the harness asks of a model."""

    def __init__(self, bundle: Bundle, model: Decoder, pipeline: TextPipeline) -> None:
        self.bundle, self.model, self.pipeline = bundle, model, pipeline

    def loglikelihood(self, asked: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each continuation after its context: the sum of log-probabilities, and whether all tokens are the
        likeliest."""
        origin = Origin(unit="request")
        rows = [
            shortened(*continued(self.pipeline, context, text, origin, number), self.model.options.context)[0]
            for number, (context, text) in enumerate(asked)
        ]
        return [found for part in _parts(rows) for found in self._judged(part)]

    def loglikelihood_rolling(self, asked: Sequence[tuple[str]]) -> list[float]:
        """Of whole texts, window by window of the context, each token predicted once."""
        found = []
        for (text,) in asked:
            ids, context = self.pipeline.opened(text), self.model.options.context
            starts = range(0, max(len(ids) - 1, 1), context - 1)
            rows = [ids[start : start + context] for start in starts]
            judged = [(row, torch.arange(len(row)) > 0) for row in rows if len(row) > 1]
            found.append(sum(value for part in _parts(judged) for value, _greedy in self._judged(part)))
        return found

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """How the model goes on, up to a text of `until`."""
        found: dict[int, str] = {}
        groups: dict[Draws, list[int]] = {}
        for number, (_context, given) in enumerate(asked):
            until = given.get("until") or ()
            stop = (until,) if isinstance(until, str) else tuple(until)
            temperature = float(given.get("temperature", 0.0)) if given.get("do_sample") else 0.0
            draws = Draws(max_tokens=int(given.get("max_gen_toks", 256)), temperature=temperature, stop=stop)
            groups.setdefault(draws, []).append(number)
        for draws, numbers in groups.items():
            written = generate(self.bundle, [asked[number][0] for number in numbers], draws)
            found |= {number: each.text for number, each in zip(numbers, written)}
        return [found[number] for number in range(len(asked))]

    @torch.inference_mode()
    def _judged(self, rows: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, bool]]:
        model, device = self.model, self.model.embedding.weight.device
        ids = torch.cat([row.long() for row, _own in rows]).to(device)
        hidden_nd = model.hidden_of(ids, Layout(tuple(len(row) for row, _own in rows), None, device))
        found, start = [], 0
        for row, own in rows:
            place = own.nonzero().squeeze(1).to(device) + start
            wanted, before = ids[place], hidden_nd[place - 1]
            total = -float(token_losses(before, model.head_weight, wanted).double().sum())
            found.append((total, bool((model.logits(before).argmax(-1) == wanted).all())))
            start += len(row)
        return found


def _parts(rows: Sequence[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Rows in their order, about TOKENS at once."""
    part: list[tuple[Tensor, Tensor]] = []
    for row in rows:
        if part and sum(len(ids) for ids, _own in part) + len(row[0]) > TOKENS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
