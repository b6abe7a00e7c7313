"""What follows from the training rows follows from them alone: weights of classes, augmentation, grown labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reinforge import recipe
from reinforge.core import batch as batches
from reinforge.core.contracts import Clock
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.models.options import ComposedOptions
from reinforge.workflow.tasks.table import table_task
from reinforge.workflow.tasks.task import Given

ROWS = 120


def pictures() -> dict[str, Any]:
    """A third is "yes" of the training rows, all but one of the others."""
    g = np.random.default_rng(0)
    side = np.repeat(["train", "validation", "test"], ROWS // 3)
    yes = np.where(side == "train", np.arange(ROWS) % 4 == 0, np.arange(ROWS) % (ROWS // 3) > 0)
    image = g.integers(0, 255, (ROWS, 8, 8, 3), dtype=np.uint8)
    return {"image": image, "y": np.where(yes, "yes", "no").tolist(), "side": side.tolist()}


def asked(**sections: Any) -> Any:
    return recipe.load(
        {
            "name": "alone",
            "data": {"kind": "table", "targets": ["y"], "split": {"kind": "given", "column": "side"},
                     "fields": {"image": {"size": [8, 8]}}},
            "model": {"kind": "composed", "heads": {"y": {"kind": "category", "loss": {"kind": "cross-entropy",
                                                                                      "weights": "balanced"}}}},
            "objective": "supervised",
            "learn": {"batch": 40, "stop": {"epochs": 1}},
            **sections,
        }
    )  # fmt: skip


def test_weights_of_classes_are_those_of_the_training_rows() -> None:
    options = table_task(asked(), None, Given(pictures())).model_options
    assert isinstance(options, ComposedOptions)
    weights = options.heads["y"].loss.weights
    assert weights == pytest.approx((40 / (2 * 30), 40 / (2 * 10)))


def test_validation_rows_are_judged_as_they_are() -> None:
    augment = {"kind": "loader", "augment": [{"kind": "noise", "deviation": 0.5}], "shuffle": False}
    data = pictures()
    task = table_task(asked(source=augment), None, Given(data))
    assert task.evaluator is not None
    seen = batches.section(task.evaluator.data, "inputs")["image"]  # type: ignore[attr-defined]
    there = torch.from_numpy(data["image"][40:80]).permute(0, 3, 1, 2)
    assert torch.equal(seen.reshape(there.shape) if seen.shape == there.shape else seen.permute(0, 3, 1, 2), there)
    changed = task.source.next(Clock()).batch["inputs"]["image"]  # type: ignore[index, union-attr, call-overload]
    assert not torch.equal(changed, torch.from_numpy(data["image"][:40]).reshape(changed.shape))


def test_labels_that_only_held_back_rows_have_are_not_learned() -> None:
    columns = {
        "c": ["a", "b"] * 20 + ["held"] * 20,
        "x": [float(i % 7) for i in range(60)],
        "y": ["p", "q", "q"] * 20,
        "side": ["train"] * 40 + ["validation"] * 10 + ["test"] * 10,
    }
    options = TableOptions.model_validate({"targets": ["y"], "split": {"kind": "given", "column": "side"}})
    first = prepare_table(options, data=columns)
    new = {**columns, "c": ["a", "new"] * 20 + ["held"] * 20}
    grown = prepare_table(options, data=new, pipeline=first.pipeline, extend=True)
    assert first.schema.field("c").labels == ("a", "b")  # type: ignore[union-attr]
    assert grown.schema.field("c").labels == ("a", "b", "new")  # type: ignore[union-attr]
