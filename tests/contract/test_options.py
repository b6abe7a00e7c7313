"""Every component's options, whatever its kind."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from reinforge.registry import REGISTRY, Component
from tests.contract.examples import COVERED, ELSEWHERE

EVERY = [
    pytest.param(component, id=f"{kind}-{component.name}")
    for kind in REGISTRY.kinds()
    for component in REGISTRY.all(kind)
]


def test_every_kind_is_tested() -> None:
    missing = set(REGISTRY.kinds()) - COVERED - set(ELSEWHERE)
    assert not missing, f"no contract test for {missing}: add one, or name its tests in tests/contract/examples.py"


@pytest.mark.parametrize("component", EVERY)
def test_loads_and_is_described(component: Component) -> None:
    assert callable(component.load())
    assert component.options.__doc__, "options need a docstring: it is their page in the reference"
    fields = {name: f for name, f in component.options.model_fields.items() if name != "kind"}
    undescribed = [name for name, f in fields.items() if not f.description]
    assert not undescribed, f"fields need a description: {undescribed}"


@pytest.mark.parametrize("component", EVERY)
def test_options_round_trip_through_json(component: Component) -> None:
    required = [name for name, f in component.options.model_fields.items() if f.is_required()]
    if required:
        pytest.skip(f"has required fields: {required}")
    options = component.options()
    written = options.model_dump(mode="json")
    assert component.options.model_validate_json(json.dumps(written)) == options
    schema = component.options.model_json_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(written)
