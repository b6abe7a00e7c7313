"""Weights in a larger network: what was known stays, bit for bit, and what can't grow is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.composed import Composed, Wrapped
from reinforge.models.grow import grow
from reinforge.models.options import ComposedOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature


def signature(columns: tuple[int, ...] = (3, 4), words: int = 7, classes: int = 3, **more: Output) -> Signature:
    return Signature(
        inputs={
            "numbers": Input(form="numbers", shape=(2,)),
            "categories": Input(form="categories", sizes=columns),
            "text": Input(form="tokens", sizes=(words,), shape=(6,)),
        },
        outputs={
            "class": Output(form="category", size=classes),
            "order": Output(form="ordinal", size=classes),
            "labels": Output(form="labels", size=classes),
            "value": Output(form="number", size=1),
            **more,
        },
    )


def build(signature: Signature, seed: int, **options: Any) -> Composed:
    torch.manual_seed(seed)
    return Composed(ComposedOptions.model_validate(options), signature)


def rows() -> Batch:
    g = torch.Generator().manual_seed(0)
    return {
        "numbers": torch.randn(5, 2, generator=g),
        "categories": torch.stack([torch.randint(0, n, (5,), generator=g) for n in (3, 4)], 1),
        "text": Ragged(torch.randint(0, 7, (12,), generator=g), torch.tensor([0, 3, 3, 7, 8, 12])),
    }


TEXTS = ["bag", {"kind": "bag", "ngrams": 2, "buckets": 9}, "rnn", "transformer"]


@pytest.mark.parametrize("text", TEXTS)
def test_known_inputs_give_known_outputs(text: Any) -> None:
    old = build(signature(), 1, encoders={"text": text})
    new = build(signature((5, 4), 9, 5, extra=Output(form="count", size=1)), 2, encoders={"text": text})
    start = {name: value.clone() for name, value in new.state_dict().items()}
    fresh = grow(new, old)
    before, after = old(rows())[0], new(rows())[0]
    torch.testing.assert_close(before["value"], after["value"])
    torch.testing.assert_close(before["class"], after["class"][:, :3])
    torch.testing.assert_close(before["labels"], after["labels"][:, :3])
    # The thresholds that there were stand where they stood; the last class is split.
    torch.testing.assert_close(before["order"][:, :2], after["order"][:, :2])
    assert any("extra" in name for name in fresh)
    assert not any("body" in name for name in fresh)
    # What is new is as it was initialised.
    ours = new.state_dict()
    assert torch.equal(ours["heads.class.projection.weight"][3:], start["heads.class.projection.weight"][3:])
    assert torch.equal(ours["encoders.categories.tables.0"][3:5], start["encoders.categories.tables.0"][3:5])
    assert torch.equal(ours["encoders.categories.tables.0"][5:], old.state_dict()["encoders.categories.tables.0"][3:])
    for name, value in ours.items():
        if "extra" in name:
            assert torch.equal(value, start[name])


def test_two_classes_in_order_become_three() -> None:
    old, new = build(signature(classes=2), 1), build(signature(classes=3), 2)
    grow(new, old)
    before, after = old(rows())[0], new(rows())[0]
    torch.testing.assert_close(before["order"][:, :1], after["order"][:, :1])


def test_nothing_new_is_a_copy() -> None:
    old, new = build(signature(), 1), build(signature(), 2)
    assert grow(new, old) == []
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


def test_any_module_is_copied() -> None:
    one = Signature(inputs={"x": Input(form="box", shape=(3,))}, outputs={"y": Output(form="number", size=1)})
    old, new = Wrapped(nn.Linear(3, 1), one), Wrapped(nn.Linear(3, 1), one)
    assert grow(new, old) == []
    assert torch.equal(new.module.weight, old.module.weight)


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        ({"columns": (5, 4)}, {"encoders": {"categories": "one-hot"}}, "can't be grown from"),
        ({"columns": (90, 4)}, {"encoders": {"categories": {"kind": "embedding", "size": None}}}, "other lengths with"),
        ({"columns": (3, 4, 2)}, {}, "more columns"),
        ({"words": 5}, {}, "'table' can't be grown from"),
        ({"classes": 2}, {}, "no place for 'heads.order.between'"),
    ],
)
def test_what_can_not_grow_is_named(changed: dict[str, Any], options: dict[str, Any], said: str) -> None:
    old, new = build(signature(), 1, **options), build(signature(**changed), 2, **options)
    with pytest.raises(ComponentError, match=said):
        grow(new, old)


def test_a_lost_target_is_named() -> None:
    old, new = build(signature(extra=Output(form="count", size=1)), 1), build(signature(), 2)
    with pytest.raises(ComponentError, match=r"no place for 'heads\.extra\.projection\.bias'"):
        grow(new, old)


def test_other_options_are_no_growth() -> None:
    narrow = {"encoders": {"text": {"kind": "rnn", "size": 4}}}
    wide = {"encoders": {"text": {"kind": "rnn", "size": 8}}}
    with pytest.raises(ComponentError, match="can't be grown"):
        grow(build(signature(), 2, **wide), build(signature(), 1, **narrow))


def test_every_head_and_token_encoder_grows() -> None:
    """A component that is added later is heard of here."""
    for kind in ("head", "encoder"):
        for component in REGISTRY.all(kind):
            target = component.load()
            if kind == "head" or (hasattr(target, "sequence") and component.name in ("bag", "rnn", "transformer")):
                assert hasattr(target, "grow_from"), component.name
