"""What was fitted says what scikit-learn's own estimators say."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.errors import ComponentError, DataError, MissingExtra
from reinforge.models.balance import class_weights
from reinforge.models.classic import fitting
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.fitting import fit
from reinforge.models.classic.options import BoostingOptions, ForestOptions, LinearOptions, TreeOptions
from reinforge.models.classic.trees import Trees
from reinforge.models.options import (
    BinaryCrossEntropyOptions,
    CrossEntropyOptions,
    FocalOptions,
    HuberOptions,
    QuantileOptions,
)
from reinforge.schema.signature import Input, Output, Signature
from tests.models.classic.made import INPUTS, KINDS, OUTPUTS, build, design, oracle, said, signature, table


def ours(model: Classic, batch: Batch, name: str) -> Any:
    """What the model's head makes of its output, in double precision: probabilities, numbers, expected counts."""
    with torch.no_grad():
        output = model(batch["inputs"])[0][name].double()
    form = model.signature.outputs[name].form
    if form in ("category", "ordinal"):
        return output.softmax(1).numpy()
    return {"labels": output.sigmoid(), "count": output.exp()}.get(form, output).numpy()


def on_thresholds(model: Classic, batch: Batch) -> Batch:
    """The batch's rows with numbers that lie exactly on the trees' thresholds, and as near as can be beside them."""
    numbers = batch["inputs"]["numbers"].clone()  # type: ignore[index, union-attr, call-overload]
    trees = next(part for _name, part in model.parts.items())
    assert isinstance(trees, Trees)
    for place, source in enumerate(model.design.sources):
        if source.block == "numbers":
            inner = (trees.feature == place) & (trees.below[:, 0] != torch.arange(len(trees.feature)))
            exact = trees.threshold[inner].float()
            near = torch.cat([exact, *(torch.nextafter(exact, torch.tensor(end)) for end in (-1e9, 1e9))])
            if len(near):
                numbers[:, source.place] = near[torch.arange(len(numbers)) % len(near)]
    return {**batch, "inputs": {**batches.section(batch, "inputs"), "numbers": numbers}}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_says_what_scikit_learn_says(kind: str, name: str) -> None:
    options, train = KINDS[kind], table(400, 0)
    model = build(options, signature(name))
    fit(model, train)
    output = OUTPUTS[name]
    # With codes that training did not see.
    held = table(300, 1, seen=7)
    for batch in (train, held, *([on_thresholds(model, held)] if kind != "linear" else [])):
        found = ours(model, batch, name)
        x = design(options, model, batch)
        alone = output.form in ("category", "ordinal")
        for place in range(1 if alone else output.size):
            told = oracle(options, model, train, name, place)
            mine = found if alone else found[:, place]
            if told is None:
                assert (mine < 1e-6).all()
                continue
            expected = said(told, x, output.form, output.size)
            np.testing.assert_allclose(mine, expected, rtol=2e-6, atol=2e-7)
            if alone:
                margin = np.sort(expected, 1)[:, -1] - np.sort(expected, 1)[:, -2] > 1e-6
                assert (mine.argmax(1) == expected.argmax(1))[margin].all()


@pytest.mark.parametrize("kind", ["tree", "forest", "boosting"])
def test_trees_add_up_to_the_bit(kind: str) -> None:
    options, train, held = KINDS[kind], table(400, 0), table(300, 1, seen=7)
    model = build(options, signature("number"))
    fit(model, train)
    trees = model.parts["number"]
    assert isinstance(trees, Trees)
    for batch in (held, on_thresholds(model, held)):
        raw = trees.raw(model.design(batches.section(batch, "inputs")))[:, 0].numpy()
        expected = oracle(options, model, train, "number").predict(design(options, model, batch))
        np.testing.assert_array_equal(raw, expected)


@given(data=st.data(), kind=st.sampled_from(["tree", "boosting", "forest"]))
@settings(max_examples=25, deadline=None)
def test_any_table(data: st.DataObject, kind: str) -> None:
    """Few and odd values, so that ties, constant columns and tiny leaves abound."""
    rows = data.draw(st.integers(4, 40))
    odd = st.sampled_from([-0.0, 0.0, 1.0, 1.0000001, 0.1, -3.4e38, 3.4e38, 1e-45, 2**24 + 1.0, 0.30000001])
    x = np.array(data.draw(st.lists(st.lists(odd, min_size=2, max_size=2), min_size=rows, max_size=rows)), np.float32)
    y = np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)))
    found = Signature(inputs={"numbers": Input(form="numbers", shape=(2,))}, outputs={"several": OUTPUTS["several"]})
    options = {
        "tree": TreeOptions(depth=None, leaf_rows=1),
        "boosting": BoostingOptions(rounds=3, leaf_rows=1),
        "forest": ForestOptions(trees=3),
    }[kind]
    model = build(options, found)
    train: Batch = {
        "inputs": {"numbers": torch.from_numpy(x)}, "targets": {"several": torch.from_numpy(y)}, "valid": {},
    }  # fmt: skip
    fit(model, train)
    told = oracle(options, model, train, "several")
    if told is None:
        assert (ours(model, train, "several").argmax(1) == y[0]).all()
        return
    other = np.array(data.draw(st.lists(st.lists(odd, min_size=2, max_size=2), min_size=5, max_size=5)), np.float32)
    held: Batch = {"inputs": {"numbers": torch.from_numpy(other)}}
    np.testing.assert_allclose(ours(model, held, "several"), said(told, other, "category", 4), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_the_target_teach_nothing(kind: str) -> None:
    whole = table(300, 0)
    there = torch.arange(300) % 3 > 0
    some = batches.select(whole, there.nonzero()[:, 0])
    models = [build(KINDS[kind], signature("two", "number")) for _ in range(2)]
    fit(models[0], {**whole, "valid": {"two": there, "number": there}})
    fit(models[1], some)
    for name in ("two", "number"):
        np.testing.assert_array_equal(*(ours(model, whole, name) for model in models))


def test_balanced_classes_weigh_as_in_scikit_learn() -> None:
    train = table(400, 0)
    target = train["targets"]["two"]  # type: ignore[index, call-overload]
    assert isinstance(target, Tensor)
    weights = tuple(class_weights(target, OUTPUTS["two"]).tolist())
    options = LinearOptions()
    model = build(options, signature("two"))
    fit(model, train, losses={"two": CrossEntropyOptions(weights=weights)})
    told = LogisticRegression(class_weight="balanced", max_iter=2000).fit(design(options, model, train), target)
    expected = told.predict_proba(design(options, model, train))
    np.testing.assert_allclose(ours(model, train, "two"), expected, atol=1e-6)


def test_weights_of_labels_weigh_the_rows_that_have_them() -> None:
    train, weights = table(400, 0), (3.0, 0.25, 2.0)
    model = build(LinearOptions(), signature("labels"))
    fit(model, train, losses={"labels": BinaryCrossEntropyOptions(weights=weights)})
    x, target = design(LinearOptions(), model, train), batches.section(train, "targets")["labels"]
    assert isinstance(target, Tensor)
    found = ours(model, train, "labels")
    for place in (0, 1):
        held = target[:, place].long().numpy()
        told = LogisticRegression(max_iter=2000).fit(x, held, sample_weight=np.where(held == 1, weights[place], 1.0))
        np.testing.assert_allclose(found[:, place], told.predict_proba(x)[:, 1], atol=1e-6)


def test_validation_rows_without_the_target_decide_nothing() -> None:
    train, validation = table(300, 0), table(200, 1)
    there = torch.arange(200) % 3 > 0
    masked = {**validation, "valid": {"two": there}}
    some = batches.select(validation, there.nonzero()[:, 0])
    options = BoostingOptions(rounds=40, rate=0.3, leaf_rows=5)
    first, second = (fit(build(options, signature("two")), train, held) for held in (masked, some))
    assert first.losses == second.losses


def test_boosting_ends_where_validation_is_best() -> None:
    options = BoostingOptions(rounds=60, rate=0.3, leaf_rows=5)
    train, validation = table(200, 0), table(200, 1)
    model = build(options, signature("several"))
    fitted = fit(model, train, validation)
    told = oracle(options, model, train, "several")
    assert isinstance(told, HistGradientBoostingClassifier)
    x, y = design(options, model, validation), validation["targets"]["several"]  # type: ignore[index, call-overload]
    stages = list(told.staged_predict_proba(x))
    losses = [log_loss(y, p, labels=[0, 1, 2]) for p in stages]
    np.testing.assert_allclose(fitted.losses["several"], losses, rtol=1e-5)
    best = int(np.argmin(losses))
    assert 0 < best < 59
    np.testing.assert_allclose(ours(model, validation, "several")[:, :3], stages[best], atol=1e-6)
    trees = model.parts["several"]
    assert isinstance(trees, Trees)
    assert len(trees.roots) == 3 * (best + 1)


def test_quantiles() -> None:
    train = table(400, 0)
    model = build(BoostingOptions(rounds=30, leaf_rows=5), signature("number"))
    fit(model, train, losses={"number": QuantileOptions(level=0.9)})
    below = train["targets"]["number"].numpy() <= ours(model, train, "number")  # type: ignore[index, union-attr, call-overload]
    assert 0.85 < below.mean() < 0.97


@pytest.mark.parametrize(
    ("kind", "name", "loss", "minimises"),
    [
        ("linear", "number", HuberOptions(), "It minimises: mse."),
        ("forest", "two", FocalOptions(), "It minimises: cross-entropy."),
        ("tree", "two", CrossEntropyOptions(smoothing=0.1), "cross-entropy with smoothing"),
        ("tree", "number", QuantileOptions(), "It minimises: mse, mae."),
    ],
)
def test_a_loss_that_it_does_not_minimise(kind: str, name: str, loss: Any, minimises: str) -> None:
    with pytest.raises(ComponentError, match=minimises) as raised:
        fit(build(KINDS[kind], signature(name)), table(50, 0), losses={name: loss})
    assert raised.value.where == f"objective.losses.{name}"


def test_what_it_does_not_read() -> None:
    text = Signature(inputs={"t": Input(form="tokens", sizes=(9,))}, outputs={"two": OUTPUTS["two"]})
    with pytest.raises(ComponentError, match=r"reads no texts.*(?s:.*)model: composed"):
        build(TreeOptions(), text)
    span = Signature(inputs=INPUTS, outputs={"s": Output(form="span", size=3, of="t")})
    with pytest.raises(ComponentError, match="gives no span"):
        build(TreeOptions(), span)


def test_too_wide_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MOST_NUMBERS", 100)
    with pytest.raises(DataError, match="coding: hash"):
        fit(build(LinearOptions(), signature("two")), table(50, 0))


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find(name, *rest)
    )
    with pytest.raises(MissingExtra, match=r"pip install 'reinforge\[data\]'"):
        fit(build(LinearOptions(), signature("two")), table(50, 0))


def test_the_seed_decides() -> None:
    train = table(200, 0)
    found = []
    for seed in (0, 0, 1):
        model = build(ForestOptions(trees=5), signature("two"))
        fit(model, train, seed=seed)
        found.append(ours(model, train, "two"))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_class_is_what_it_always_says(kind: str) -> None:
    train = table(60, 0)
    for name, value in (("two", 1), ("order", 2)):
        same = {**train, "targets": {name: torch.full((60,), value)}}
        model = build(KINDS[kind], signature(name))
        fit(model, same)
        assert (ours(model, same, name)[:, value] > 1 - 1e-9).all()
    none = {**train, "targets": {"count": torch.zeros(60, 1)}}
    model = build(KINDS[kind], signature("count"))
    fit(model, none)
    assert (ours(model, none, "count") < 1e-6).all()


def test_no_row_has_the_target() -> None:
    train = {**table(20, 0), "valid": {"two": torch.zeros(20, dtype=torch.bool)}}
    with pytest.raises(DataError, match="no training row has the target 'two'"):
        fit(build(TreeOptions(), signature("two")), train)
