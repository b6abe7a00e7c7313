"""Trees as tensors: sizes, bounds, and what a stranger's bundle may hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from reinforge.bundle.network import Blueprint, build, take_apart
from reinforge.core import batch as batches
from reinforge.errors import IntegrityError
from reinforge.models.classic import trees as module
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.design import Design
from reinforge.models.classic.fitting import fit
from reinforge.models.classic.trees import Trees
from reinforge.schema.signature import Input, Signature
from tests.models.classic.made import KINDS, signature, table
from tests.models.classic.made import build as made


def fitted(kind: str, *outputs: str) -> Classic:
    model = made(KINDS[kind], signature(*outputs))
    fit(model, table(200, 0))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_is_built_again_from_its_options_and_tensors(kind: str) -> None:
    model = fitted(kind)
    weights, shared = take_apart(model)
    assert not shared or kind != "linear"
    again = build(Blueprint.of(model, KINDS[kind], model.signature), weights, shared, {})
    inputs = batches.section(table(50, 2, seen=7), "inputs")
    for name, output in model(inputs)[0].items():
        assert torch.equal(again(inputs)[0][name], output)


def test_few_rows_at_once_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = fitted("forest", "several"), batches.section(table(50, 2), "inputs")
    whole = model(inputs)[0]["several"]
    monkeypatch.setattr(module, "_AT_ONCE", 4 * 9 * 7)
    assert torch.equal(model(inputs)[0]["several"], whole)
    assert model(batches.part(inputs, 0, 0))[0]["several"].shape == (0, 4)


def test_rows_count_those_of_training() -> None:
    model, train = fitted("tree", "number"), table(200, 0)
    trees = model.parts["number"]
    assert isinstance(trees, Trees)
    ends = trees.leaves(model.design(batches.section(train, "inputs")))[:, 0]
    counted = np.bincount(ends.numpy(), minlength=len(trees.rows))
    leaves = trees.below[:, 0].numpy() == np.arange(len(trees.rows))
    assert (counted[leaves] == trees.rows.numpy()[leaves]).all()
    assert int(trees.rows[0]) == 200


def poisoned(name: str, change: Callable[[Tensor], None]) -> Callable[[Trees], None]:
    return lambda trees: change(getattr(trees, name))


@pytest.mark.parametrize(
    "poison",
    [
        poisoned("below", lambda t: t.copy_(torch.arange(len(t))[:, None])),  # leaves alone: another depth
        poisoned("below", lambda t: t[-1].fill_(0)),  # a way back up: no end
        poisoned("below", lambda t: t[0].fill_(10**6)),
        poisoned("feature", lambda t: t[:1].fill_(99)),
        poisoned("feature", lambda t: t[:1].fill_(-1)),
        poisoned("roots", lambda t: t[:1].fill_(-1)),
        poisoned("roots", lambda t: t[:1].fill_(10**6)),
        poisoned("column", lambda t: t[:1].fill_(4)),
        poisoned("category", lambda t: t[:1].fill_(10**4)),
        poisoned("value", lambda t: t[:1].fill_(float("nan"))),
        poisoned("threshold", lambda t: t[:1].fill_(float("nan"))),
        poisoned("divisor", lambda t: t[:1].fill_(0.0)),
    ],
)
def test_malformed_trees_are_refused(poison: Callable[[Trees], None]) -> None:
    model = fitted("boosting", "several")
    weights, shared = take_apart(model)
    copied = {name: tensor.clone() for name, tensor in weights.items()}
    blueprint = Blueprint.of(model, KINDS["boosting"], model.signature)
    build(blueprint, copied, shared, {})
    trees = model.parts["several"]
    assert isinstance(trees, Trees)
    poison(trees)
    with pytest.raises(IntegrityError, match="trees are malformed"):
        build(blueprint, *take_apart(model), {})


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = fitted("linear", "two")
    next(model.buffers()).fill_(float("inf"))
    with pytest.raises(IntegrityError, match="no number"):
        model.check()


def test_design_names_and_places() -> None:
    found = Signature(
        inputs={
            "numbers": Input(form="numbers", shape=(2,)),
            "categories": Input(form="categories", sizes=(3, 300)),
            "tags": Input(form="numbers", shape=(2,)),
            "picture": Input(form="image", shape=(1, 1, 2)),
        },
        outputs=signature("two").outputs,
    )
    inputs = {
        "numbers": torch.tensor([[0.5, -1.0]]),
        "categories": torch.tensor([[2, 299]]),
        "tags": torch.tensor([[0.0, 1.0]]),
        "picture": torch.tensor([[[[255, 51]]]], dtype=torch.uint8),
    }
    known = {"numbers": ("a", "b"), "categories": ("c", "d"), "tags": ("x", "y")}
    hot = Design(found, coded=False, widest=255)
    assert hot.names(known, {"c": ["u", "v", "w"]}) == [
        "c = u", "c = v", "c = w", "a", "b", "tags: x", "tags: y", "picture 0", "picture 1",
    ]  # fmt: skip
    torch.testing.assert_close(hot(inputs), torch.tensor([[0, 0, 1, 0.5, -1.0, 0, 1, 1, 0.2]]))
    assert Design(found, coded=False).columns == 3 + 300 + 6
    coded = Design(found, coded=True)
    torch.testing.assert_close(coded(inputs), torch.tensor([[2, 299, 0.5, -1.0, 0, 1, 1, 0.2]]))
    # scikit-learn tells no more than 255 labels apart.
    assert coded.categorical == [True, False, False, False, False, False, False, False]
