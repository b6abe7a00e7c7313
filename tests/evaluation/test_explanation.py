"""What classic models go by: rules against the rows they describe, importances by brute force, weights by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from reinforge.core import batch as batches
from reinforge.data.prepared import Prepared, prepare
from reinforge.evaluation.explanation import Rule, explanation_of, places
from reinforge.evaluation.supervised import SupervisedEvaluator
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.fitting import fit
from reinforge.models.classic.options import ForestOptions, LinearOptions, TreeOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.recipe import load
from reinforge.registry import REGISTRY, Options


def raw(count: int = 300) -> list[dict[str, Any]]:
    g = np.random.default_rng(0)
    found = []
    for _row in range(count):
        a, b = float(g.lognormal(3, 1)), float(g.normal())
        c = str(g.choice(["red", "green", "blue"]))
        day = f"2024-{g.integers(1, 13):02d}-{g.integers(1, 28):02d}"
        y = np.log1p(a) + (2 if c == "red" else 0) + (1 if day[5:7] > "06" else 0)
        gone = g.random() < 0.2
        found.append({"a": None if gone else round(a, 3), "b": round(b, 3), "c": c, "day": day,
                      "y": round(float(1000 + 50 * y - 60 * gone), 2), "k": "high" if y > 5 else "low"})  # fmt: skip
    return found


def data(*targets: str, without: tuple[str, ...] = ()) -> Prepared:
    others = [name for name in ("y", "k") if name not in targets]
    recipe = load({
        "data": {
            "kind": "table", "targets": list(targets), "drop": [*without, *others],
            "fields": {"a": {"kind": "number", "transform": "log", "indicator": True}},
        },
        "model": "composed", "objective": "supervised",
    })  # fmt: skip
    prepared: Prepared = prepare(recipe.data, 0, data=raw())
    return prepared


def explained(options: Options, prepared: Prepared) -> tuple[Classic, Any, SupervisedEvaluator, Any]:
    model: Classic = REGISTRY.build("model", options, prepared.signature)
    fit(model, prepared.train)
    objective = REGISTRY.build("objective", SupervisedOptions(), prepared.signature)
    assert prepared.test is not None
    evaluator = SupervisedEvaluator(objective, prepared.signature, prepared.test)
    learner = objective.build(model)
    found = explanation_of(learner, prepared.pipeline, prepared.train, {"test": evaluator})
    assert found is not None
    return model, found, evaluator, learner


def follow(rules: Sequence[Rule], row: dict[str, Any]) -> Rule | None:
    """The leaf that a raw row comes to; None where it stands on a border that rounding has moved."""
    path = 0
    at: Rule | None = None
    for rule in rules:
        if rule.depth != path:
            continue
        if rule.sign:
            value = row[rule.column]
            if rule.sign in ("<=", ">"):
                edge = float(rule.value)
                if value is None:
                    return None  # where a missing number goes is the pipeline's to say
                if abs(value - edge) <= 2e-3 * abs(edge):
                    return None
                holds = (value <= edge) == (rule.sign == "<=")
            elif rule.sign in ("is", "is not"):
                holds = (value == rule.value) == (rule.sign == "is")
            else:
                holds = (value is None) == (rule.sign == "missing")
            if not holds:
                continue
        at, path = rule, path + 1
        if rule.answer is not None:
            return at
    return at


@pytest.mark.parametrize("target", ["y", "k"])
def test_rules_lead_every_row_to_its_answer(target: str) -> None:
    prepared = data(target, without=("day",))
    model, found, _evaluator, _learner = explained(TreeOptions(depth=5), prepared)
    rules = found.outputs[0].rules[target]
    table = raw()
    rows = [table[row] for row in prepared.rows.train.tolist()]
    inputs = batches.section(prepared.train, "inputs")
    with torch.no_grad():
        output = model(inputs)[0][target]
    counted = 0
    for row, values in zip(rows, output):
        leaf = follow(rules, row)
        if leaf is None:
            continue
        counted += 1
        assert leaf.answer is not None
        if target == "y":
            expected = float(prepared.pipeline.inverse("y", values[None])[0])
            assert float(leaf.answer) == pytest.approx(expected, rel=1e-3)
        else:
            assert leaf.answer == prepared.schema.field("k").labels[int(values.argmax())]  # type: ignore[union-attr]
    assert counted > 100


def test_rows_of_the_leaves_add_up() -> None:
    prepared = data("k")
    _model, found, _evaluator, _learner = explained(TreeOptions(), prepared)
    rules = found.outputs[0].rules["k"]
    assert rules[0].rows == len(prepared.rows.train)
    assert sum(rule.rows for rule in rules if rule.answer is not None) == rules[0].rows
    assert max(rule.depth for rule in rules) <= 4


def test_places_of_fields_with_indicators_and_dates() -> None:
    prepared = data("y")
    found = places(prepared.pipeline)
    names = prepared.pipeline.feature_names["numbers"]
    assert [names[place] for place in found["a"][0][1] or ()] == ["a", "a is missing"]
    assert {names[place] for place in found["day"][0][1] or ()} == {name for name in names if name.startswith("day")}
    assert found["c"] == [("categories", [0])]
    everything = sorted(place for name in ("a", "b", "day") for place in found[name][0][1] or ())
    assert everything == list(range(len(names)))


def test_importances_by_brute_force() -> None:
    prepared = data("y", "k")
    _model, found, evaluator, learner = explained(ForestOptions(trees=20), prepared)
    importances = {weight.name: weight.values[0] for weight in found.outputs[0].weights}
    assert set(importances) == {"a", "b", "c", "day"}
    assert importances["a"] > 0.3
    assert importances["c"] > 0.3
    assert abs(importances["b"]) < 0.1
    # The same shuffles, one row at a time.
    generator = torch.Generator().manual_seed(0)
    count = batches.rows(evaluator.data)
    plain = evaluator.judge(learner).losses["y"]
    rises = []
    for _repeat in range(5):
        order = torch.randperm(count, generator=generator)
        changed = {name: block.clone() for name, block in batches.section(evaluator.data, "inputs").items()}  # type: ignore[union-attr]
        for row in range(count):
            changed["categories"][row, 0] = evaluator.data["inputs"]["categories"][order[row], 0]  # type: ignore[index, call-overload]
        rises.append(evaluator.judge(learner, [{**evaluator.data, "inputs": changed}]).losses["y"] - plain)
    assert importances["c"] == pytest.approx(np.mean(rises), rel=1e-5)


def test_weights_by_hand() -> None:
    prepared = data("y", "k")
    model, found, _evaluator, _learner = explained(LinearOptions(), prepared)
    x = model.design(batches.section(prepared.train, "inputs")).numpy().astype(np.float64)
    alone = np.array([source.code is not None for source in model.design.sources])
    scale = np.where(alone, 1.0, x.std(0))
    y = prepared.train["targets"]["y"].numpy()[:, 0]  # type: ignore[index, union-attr, call-overload]
    raw_y = prepared.pipeline.inverse("y", prepared.train["targets"]["y"])  # type: ignore[index, call-overload]
    unit = raw_y.std() / y.std()
    ridge = Ridge().fit(x, y).coef_ * scale * unit
    logistic = LogisticRegression(max_iter=2000).fit(x, prepared.train["targets"]["k"]).coef_[0] * scale  # type: ignore[index, call-overload]
    for output, expected in zip(found.outputs, (ridge, logistic)):
        named = {weight.name: weight.values[0] for weight in output.weights}
        seen = x.std(0) > 0
        assert len(named) == seen.sum()
        assert sorted(named.values()) == pytest.approx(sorted(expected[seen]), rel=1e-4, abs=1e-6)
        sizes = [abs(weight.values[0]) for weight in output.weights]
        assert sizes == sorted(sizes, reverse=True)
    assert {"a", "a is missing", "b", "c = red", "c = green", "c = blue"} <= set(named)
