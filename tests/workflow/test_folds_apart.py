"""Nothing that a fold's bundle holds of what was learned depends on the fold's test rows, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.workflow.train import train

FOLDS, FOLD = 3, 1
# What is learned, fitted, set on validation rows, or told of the training rows.
LEARNED = (
    "weights.safetensors", "pipeline.json", "pipeline.safetensors", "schema.json", "model.json", "task.json",
    "reference.json",
)  # fmt: skip
TEXT = {"text": {"kind": "text", "tokenizer": {"kind": "byte-pair", "size": 300}}}


def columns() -> dict[str, list[object]]:
    draw = np.random.default_rng(0)
    count = 90
    return {
        "x": draw.normal(size=count).tolist(),
        "holes": [None if i % 7 == 0 else float(value) for i, value in enumerate(draw.normal(size=count))],
        "letter": draw.choice(list("abc"), count).tolist(),
        "day": [f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(count)],
        "text": [f"{' '.join(draw.choice(['red', 'blue', 'ants', 'bees'], 4))} {i}" for i in range(count)],
        "y": draw.choice(["p", "q"], count).tolist(),
    }


def shifted(rows: np.ndarray, data: dict[str, list[object]]) -> dict[str, list[object]]:
    """The data with other values, labels, words and answers in these rows."""
    far: dict[str, object] = {"x": 1e6, "holes": None, "letter": "new", "day": "1970-01-01", "text": "so odd a zebra"}
    changed = {name: list(values) for name, values in data.items()}
    for row in rows.tolist():
        for name, value in far.items():
            if name in changed:
                changed[name][row] = value
        changed["y"][row] = "q" if changed["y"][row] == "p" else "p"
    return changed


@pytest.mark.parametrize("model", ["composed", "boosting"])
def test_a_shift_in_a_folds_test_rows_changes_nothing_that_it_learns(model: str, tmp_path: Path) -> None:
    data = columns()
    if model == "boosting":
        data.pop("text")  # it reads none
    # By group: which rows are held back must not depend on the answers that are changed.
    data["group"] = [i % 9 for i in range(len(data["y"]))]
    split = {"kind": "folds", "folds": FOLDS, "group": "group"}
    table = {
        "kind": "table", "targets": {"y": {"kind": "category"}}, "split": split, "clean": {"together": False},
        "fields": TEXT if model == "composed" else {},
    }  # fmt: skip
    recipe = {"name": "apart", "seed": 0, "data": table, "model": model, "objective": "supervised"}
    if model == "composed":
        recipe |= {"learn": {"batch": 16, "stop": {"epochs": 1}}}
    train(recipe, data=data, output=tmp_path / "as-it-is")
    options = TableOptions.model_validate({**table, "split": {**split, "fold": FOLD}})
    held = prepare_table(options, data=data).rows.test
    assert len(held) == len(data["y"]) / FOLDS
    train(recipe, data=shifted(held, data), output=tmp_path / "shifted")
    same = {
        fold: [
            file_of(tmp_path / "as-it-is", fold, name) == file_of(tmp_path / "shifted", fold, name) for name in LEARNED
        ]
        for fold in range(FOLDS)
    }
    assert all(same[FOLD])
    # The shift is noticed where those rows are learned from.
    assert not any(weights for fold, (weights, *_others) in same.items() if fold != FOLD)


def file_of(run: Path, fold: int, name: str) -> bytes:
    return (run / "stages" / f"{fold:02}-fold-{fold}" / "bundle" / name).read_bytes()
