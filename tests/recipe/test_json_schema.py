"""The exported schema takes what loading takes; jsonschema is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from reinforge import recipe
from reinforge.errors import RecipeError
from tests.recipe.conftest import TEXT


@pytest.fixture
def schema() -> dict[str, Any]:
    return recipe.json_schema()


def errors(schema: dict[str, Any], data: object) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(data)]


def house(**more: object) -> dict[str, Any]:
    text: dict[str, Any] = recipe.load(yaml.safe_load(TEXT.replace("3e-4", "0.0003"))).model_dump(mode="json")
    del text["stages"]
    return text | more


def test_it_is_a_valid_schema_with_every_component(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert {"model.room", "light.lamp", "optimizer.sgd", "schedule.cosine"} <= set(schema["$defs"])


def test_it_takes_names_and_options_and_refuses_what_loading_refuses(schema: dict[str, Any]) -> None:
    assert not errors(schema, house())
    assert not errors(schema, house(objective="lamp"))
    assert errors(schema, house(objective="no-such"))
    assert errors(schema, house(objective={"kind": "lamp", "wats": 1}))
    assert errors(schema, house(objective={"watts": 1}))
    assert errors(schema, house(sead=1))
    assert errors(schema, {"data": "lamp"})


def test_a_stage_needs_its_name_alone(schema: dict[str, Any]) -> None:
    assert not errors(schema, house(stages=[{"name": "a", "learn": {"optimizer": {"momentum": 0.5}}}]))
    assert errors(schema, house(stages=[{"learn": {"lr": 1}}]))
    assert errors(schema, house(stages=[{"name": "a", "learn": {"lrr": 1}}]))
    assert errors(schema, house(stages=[{"name": "a", "stages": []}]))


@pytest.mark.parametrize("path", [entry.path for entry in recipe.shipped()], ids=lambda path: path.stem)
def test_shipped_recipes_follow_it(schema: dict[str, Any], path: Path) -> None:
    from reinforge.recipe.yaml_form import read

    assert not errors(schema, read(path.read_text("utf-8"), path.name).data)


def test_every_option_is_described(schema: dict[str, Any]) -> None:
    def described(field: dict[str, Any]) -> bool:
        reference = schema["$defs"].get(field.get("$ref", "").removeprefix("#/$defs/"), {})
        return "description" in field or "description" in reference

    sections = {name: schema["$defs"][name] for name in ("Learn", "Stop", "Evaluate", "Checkpoint", "Log", "Goal")}
    bare = [
        f"{section}.{name}"
        for section, part in {**sections, "recipe": schema}.items()
        for name, field in part["properties"].items()
        if not described(field)
    ]
    assert bare == []


def test_a_kind_may_be_left_out_where_one_stands_by_default() -> None:
    schema = recipe.json_schema()
    table = {"kind": "table", "targets": ["y"]}
    for data in (
        {"data": table},
        {"data": {**table, "split": {"validation": 0.2}}},
        {"data": table, "model": {"body": {"sizes": [4]}}},
        {"data": "text"},
    ):
        recipe.load(data)
        assert not errors(schema, data), data
    for data in (
        {"data": {**table, "split": {"colum": "x"}}},
        {"data": table, "model": {"body": {"size": [4]}}},
        {"data": {"kind": "environment", "id": "CartPole-v1"}},
    ):
        with pytest.raises(RecipeError):
            recipe.load(data)
        assert errors(schema, data), data
