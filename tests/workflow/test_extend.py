"""Fine-tuning to new categories, new classes, new labels and a new target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforge.errors import DataError, RecipeError
from reinforge.workflow.train import train

RECIPE: dict[str, Any] = {
    "name": "extend",
    "data": {"kind": "table", "targets": ["k", "y"], "split": {"kind": "random"}, "fields": {"tags": {}}},
    "model": {"kind": "composed", "body": {"kind": "mlp", "sizes": [8]}},
    "objective": "supervised",
    "learn": {"stop": {"epochs": 1}, "lr": 1e-9},
}
OLD, NEW = ["a", "b", "c"], ["a", "b", "c", "d"]


def table(names: list[str], count: int = 120, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=count) + 10 * (len(names) - 3)
    place = draw.integers(0, len(names), count)
    return {
        "x": x,
        "c": [names[i] for i in place],
        "tags": [f"{names[i]};{names[0]}" for i in place],
        "k": [names[i].upper() for i in place],
        "y": 3 * x + place,
    }


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {"fields": {"tags": {"kind": "labels", "separator": ";"}}}
    recipe = {**RECIPE, "data": RECIPE["data"] | data}
    return train(recipe, data=table(OLD), output=tmp_path_factory.mktemp("parent") / "run").bundle_path


def test_what_is_known_keeps_its_place_and_gives_the_same(parent: Path, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing, old outputs are as they were: only the new rows are new."""
    recipe = {**RECIPE, "start": {"extend": True}, "data": RECIPE["data"] | {"targets": ["k", "y", "z"]}}
    given = table(NEW, seed=1)
    given["z"] = [["low", "high"][int(value > 10)] for value in given["x"]]
    run = train(recipe, data=given, start=parent, output=tmp_path / "run")
    before, after = _load(parent), run.bundle
    assert before.schema.field("c").labels == ("a", "b", "c")
    assert after.schema.field("c").labels == ("a", "b", "c", "d")
    assert after.schema.field("k").labels == ("A", "B", "C", "D")
    assert after.schema.field("z").labels == ("high", "low")
    known = {name: values[:40] for name, values in table(OLD, seed=2).items()}
    first, second = before.form.table_inputs(known), after.form.table_inputs(known)
    # Statistics were not fitted again, though the new rows lie elsewhere.
    assert torch.equal(first["numbers"], second["numbers"])
    assert torch.equal(first["categories"], second["categories"])
    old, new = before.forward(first), after.forward(second)
    torch.testing.assert_close(new["y"], old["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new["k"][:, :3], old["k"], rtol=1e-5, atol=1e-5)
    assert set(new) == {"k", "y", "z"}
    assert any("new labels: 'd'" in note for note in run.status["notes"])


def test_sets_of_labels_grow_as_targets(tmp_path: Path) -> None:
    data = {**RECIPE["data"], "targets": {"tags": {"kind": "labels", "separator": ";"}}, "fields": {}}
    recipe = {**RECIPE, "data": data}
    first = train(recipe, data=table(OLD), output=tmp_path / "first")
    second = train(
        {**recipe, "start": {"extend": True}}, data=table(NEW), start=first.bundle_path, output=tmp_path / "second"
    )
    assert second.bundle.schema.field("tags").labels == ("a", "b", "c", "d")
    assert set(second.bundle.predict([{"x": 1.0, "c": "a", "k": "A", "y": 1.0}])[0]["tags"]["probabilities"]) == set(
        NEW
    )


def test_a_target_that_the_data_lack_is_masked(parent: Path, tmp_path: Path) -> None:
    given = table(OLD, seed=3)
    del given["y"]
    recipe = {**RECIPE, "start": {"extend": True}, "data": RECIPE["data"] | {"targets": ["k"]}}
    run = train(recipe, data=given, start=parent, output=tmp_path / "run")
    assert set(run.bundle.predict([{"x": 1.0, "c": "a", "tags": "a"}])[0]) == {"k", "y"}
    assert any("'y' is not in these data" in note for note in run.status["notes"])


@pytest.mark.parametrize(
    ("extend", "targets", "said"),
    [
        (False, ["k", "z"], "the bundle has no target 'z'\n  It has: k, y. To add it: start.extend=true"),
        (False, ["c"], "'c' is an input of the bundle"),
        (True, ["k", "c"], "'c' is an input of the bundle"),
        (True, {"y": {"kind": "category"}}, "the bundle's target 'y' is a number"),
    ],
)
def test_targets_that_the_bundle_can_not_have_are_refused(
    extend: bool, targets: Any, said: str, parent: Path, tmp_path: Path
) -> None:
    """Else something would be learned that nobody asked for."""
    recipe = {**RECIPE, "start": {"extend": extend}, "data": RECIPE["data"] | {"targets": targets}}
    with pytest.raises(RecipeError) as caught:
        train(recipe, data={**table(OLD), "z": ["u", "v"] * 60}, start=parent, output=tmp_path / "run")
    assert said in str(caught.value)


def test_without_extend_new_classes_are_refused(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'D' is none of the known labels"):
        train(RECIPE, data=table(NEW), start=parent, output=tmp_path / "run")


def test_classes_in_order_do_not_grow(tmp_path: Path) -> None:
    data = {"kind": "table", "targets": {"k": {"ordered": True, "labels": ["A", "B", "C"]}}, "split": "random"}
    data["split"] = {"kind": "random"}
    recipe = {**RECIPE, "data": data}
    first = train(recipe, data=table(OLD), output=tmp_path / "first")
    with pytest.raises(DataError, match="stand in order, and 'D' has no place"):
        train({**recipe, "start": {"extend": True}}, data=table(NEW), start=first.bundle_path, output=tmp_path / "two")


def test_renewing_and_extending_exclude_each_other(parent: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "start": {"extend": True, "renew": ["heads.*"]}}
    with pytest.raises(RecipeError, match="keeps all its weights"):
        train(recipe, data=table(OLD), start=parent, output=tmp_path / "run")


def _load(path: Path) -> Any:
    from reinforge.bundle.loading import load

    return load(path)
