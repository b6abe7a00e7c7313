"""Augmentations: pure functions of (batch, rows, seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import random_state
from reinforge.data.augmentation.augment import Augmentation
from reinforge.errors import ComponentError
from reinforge.registry import REGISTRY, Component
from reinforge.schema.signature import Input, Output, Signature
from tests.contract.examples import components, draws
from tests.contract.test_training import assert_equal

ROWS = 64
INPUTS = {
    "picture": Input(form="image", shape=(3, 9, 12)),
    "grey": Input(form="image", shape=(1, 8, 8)),
    "text": Input(form="tokens", sizes=(30,)),
}
OUTPUTS = {
    "label": Output(form="category", size=3), "value": Output(form="number", size=2),
    "labels": Output(form="labels", size=4),
}  # fmt: skip


def batch(names: list[str]) -> Batch:
    """Rows with those inputs, and every target; one of them is missing here and there."""
    g = draws()
    lengths = torch.randint(0, 20, (ROWS,), generator=g).tolist()
    text = Ragged.from_rows([torch.randint(1, 30, (length,), generator=g) for length in lengths])
    inputs: dict[str, Tensor | Ragged] = {
        name: torch.randint(0, 256, (ROWS, *block.shape), generator=g, dtype=torch.uint8)
        for name, block in INPUTS.items()
        if block.form == "image"
    }
    inputs["text"] = text
    return {
        "inputs": {name: inputs[name] for name in names},
        "targets": {
            "label": torch.randint(0, 3, (ROWS,), generator=g),
            "value": torch.randn(ROWS, 2, generator=g),
            "labels": torch.randint(0, 2, (ROWS, 4), generator=g).float(),
        },
        "valid": {"value": torch.rand(ROWS, generator=g) < 0.7},
    }


def built(component: Component, **options: Any) -> Iterator[tuple[list[str], Augmentation]]:
    """The component for every signature that it fits, with the signature's inputs. At least one, or the test fails."""
    found = False
    for names in (["picture"], ["grey"], ["picture", "grey"], ["text"]):
        signature = Signature(inputs={name: INPUTS[name] for name in names}, outputs=OUTPUTS)
        try:
            augmentation = REGISTRY.build("augmentation", component.options(**options), signature)
        except ComponentError:
            continue
        found = True
        yield names, augmentation
    assert found, f"augmentation {component.name!r} fits neither images nor texts"


@pytest.mark.parametrize("component", components("augmentation"))
def test_augmentation(component: Component) -> None:
    for names, augmentation in built(component):
        whole, rows = batch(names), torch.arange(1000, 1000 + ROWS)
        before, state = (
            batches.apply(whole, lambda leaf: leaf if isinstance(leaf, Ragged) else leaf.clone()),
            random_state(),
        )
        changed = augmentation.apply(whole, rows, 1, 0)
        assert_equal(whole, before)
        assert torch.equal(random_state()["torch"], state["torch"]), "it draws from the global generator"
        batches.check(changed)
        assert batches.rows(changed) == ROWS
        assert changed.keys() == whole.keys()
        for name in names:
            own, other = cast(Any, whole)["inputs"][name], cast(Any, changed)["inputs"][name]
            if isinstance(own, Tensor):
                assert (other.dtype, other.shape) == (own.dtype, own.shape)
            else:
                assert isinstance(other, Ragged)
                assert bool((other.lengths <= own.lengths).all()), "a text is longer than the model may take"
                assert bool(((other.lengths > 0) == (own.lengths > 0)).all())
        assert_equal(augmentation.apply(whole, rows, 1, 0), changed)
        for seed, epoch in ((2, 0), (1, 1)):
            again = augmentation.apply(whole, rows, seed, epoch)
            with pytest.raises(AssertionError):
                assert_equal(again["inputs"], changed["inputs"])
        if not augmentation.mixes:
            assert_equal(changed["targets"], whole["targets"])
            pieces = [augmentation.apply(piece, names_, 1, 0) for piece, names_ in parts(whole, rows)]
            assert_equal(batches.concatenate(pieces), changed)


@pytest.mark.parametrize("component", components("augmentation"))
def test_probability_none_changes_nothing(component: Component) -> None:
    for names, augmentation in built(component, probability=0.0):
        whole = batch(names)
        changed = augmentation.apply(whole, torch.arange(ROWS), 1, 0)
        assert_equal(changed["inputs"], whole["inputs"])


def parts(whole: Batch, rows: Tensor) -> Iterator[tuple[Batch, Tensor]]:
    """Uneven parts, down to one row."""
    start = 0
    for size in (1, 2, 3, 7, 15, 36):
        yield batches.part(whole, start, start + size), rows[start : start + size]
        start += size
    assert start == ROWS
