"""Measuring a reward model: how often the answer that was chosen gets the higher score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.score_form import SCORE, ScoreForm
from reinforge.data.chats import Message, Pair, pair_of
from reinforge.data.language_data import Rows
from reinforge.data.language_options import PreferencesOptions
from reinforge.data.reading.objects import read_objects
from reinforge.errors import DataError
from reinforge.evaluation.resampling import ratio_interval, wilson
from reinforge.messages import _, mark
from reinforge.recipe.recipe import Recipe
from reinforge.workflow.evaluate_language import same_data, write_lines

_MORE = mark("Give pairs of answers: --data FILE.")


def evaluate_scores(
    bundle: Bundle, form: ScoreForm, recipe: Recipe | None, data: object, output: Path | None
) -> dict[str, Any]:
    """ "accuracy" and "margin" (of the scores) over pairs {"prompt", "chosen", "rejected"}, with their "intervals": of
    the recipe's validation part where none are given. `output`: where the scores are written, a line for each pair.
    Raises DataError."""
    if data is not None:
        on = str(data) if isinstance(data, str | Path) else "given data"
        pairs = [pair_of(row, part.origin, n) for part in read_objects(data) for n, row in enumerate(part.rows)]
    elif recipe is not None and isinstance(recipe.data, PreferencesOptions):
        on, rows = "validation part", Rows.read(recipe.data, recipe.seed, None)
        same_data(bundle, rows.digest)
        held = [(row, place) for row, place, side in zip(rows.rows, rows.places, rows.sides) if side]
        pairs = [pair_of(row, *place) for row, place in held]
    else:
        raise DataError(
            _("the bundle doesn't say what was held back when it was trained"), where=str(bundle.path),
            remedy=_(_MORE),
        )  # fmt: skip
    chosen, rejected = _scores(bundle, pairs, "chosen"), _scores(bundle, pairs, "rejected")
    margin = np.array(chosen) - np.array(rejected)
    right = int((margin > 0).sum())
    told: dict[str, Any] = {
        "on": on, "pairs": len(pairs), "accuracy": right / len(pairs), "margin": float(margin.mean()),
        "intervals": {"accuracy": list(wilson(right, len(pairs)))},
    }  # fmt: skip
    if (bounds := ratio_interval(margin)) is not None:
        told["intervals"]["margin"] = list(bounds)
    if output is not None:
        lines = [
            {
                "prompt": pair.prompt.messages[-1].content, "chosen": pair.chosen[-1].content,
                "rejected": pair.rejected[-1].content, "scores": [better, worse],
            } for pair, better, worse in zip(pairs, chosen, rejected)
        ]  # fmt: skip
        told["samples"] = write_lines(output, lines)
    return told


def _scores(bundle: Bundle, pairs: Sequence[Pair], which: str) -> list[float]:
    rows: list[Mapping[str, object]] = [
        {"messages": [_told(message) for message in (*pair.prompt.messages, *getattr(pair, which))]} for pair in pairs
    ]
    # A score that is no finite number can't be the higher one.
    return [float(found[SCORE]["value"] or 0.0) for found in bundle.predict(rows)]


def _told(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
