import json

import pytest
from pydantic import ValidationError

from reinforge.errors import DataError, IntegrityError
from reinforge.schema.derive import signature
from reinforge.schema.fields import Box, Category, Continuous, Discrete, Number, Text
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output

EVERY_KIND = Schema(
    fields=(
        Number(name="age", low=0, high=130, integer=True, indicator=True),
        Number(name="fixed", missing="constant", constant=-1.5, scale="range"),
        Category(name="sex", labels=("f", "m"), rare=2),
        Category(name="island", labels=("Biscoe",), missing="error", unseen="error"),
        Number(name="price", role="target", missing="mask"),
        Category(name="kind", role="target", labels=("a", "b", "c"), missing="drop", unseen="error"),
    ),
    nulls=("", "-"),
    absent="null",
)
ENVIRONMENT = Schema(
    fields=(
        Box(shape=(2, 2), low=(0.0, None, -1.0, 0.0), high=None, dtype="float64"),
        Discrete(n=4, start=1),
        Continuous(name="force", low=(-1.0, -2.0), high=(1.0, 2.0)),
    )
)


@pytest.mark.parametrize("schema", [EVERY_KIND, ENVIRONMENT, Schema(fields=(Text(name="document"),))])
def test_json_gives_an_equal_schema(schema):
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_signature_of_a_table():
    found = signature(EVERY_KIND)
    assert found.inputs == {
        "numbers": Input(form="numbers", shape=(3,)),  # two numbers, one indicator
        "categories": Input(form="categories", sizes=(4, 1)),  # unknown, missing, f, m; Biscoe
    }
    assert found.outputs == {"price": Output(form="number", size=1), "kind": Output(form="category", size=3)}


def test_signature_of_an_environment():
    found = signature(ENVIRONMENT)
    assert found.inputs == {"observation": Input(form="box", shape=(2, 2))}
    assert found.outputs == {
        "action": Output(form="discrete", size=4),
        "force": Output(form="continuous", size=2, low=(-1.0, -2.0), high=(1.0, 2.0)),
    }


def test_signature_needs_labels():
    with pytest.raises(DataError, match="'sex' has no labels"):
        signature(Schema(fields=(Category(name="sex"),)))


@pytest.mark.parametrize(
    ("policies", "unknown", "missing", "first"),
    [
        ({}, 0, 1, 2),
        ({"missing": "error"}, 0, None, 1),
        ({"unseen": "error"}, None, 0, 1),
        ({"missing": "error", "unseen": "error"}, None, None, 0),
        ({"role": "target", "missing": "drop", "unseen": "error"}, None, None, 0),
    ],
)
def test_codes_of_categories(policies, unknown, missing, first):
    field = Category(name="c", labels=("x", "y"), **policies)
    assert (field.unknown_code, field.missing_code, field.first_code) == (unknown, missing, first)
    assert field.size == first + 2


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (Number, {"missing": "drop"}, "input 'x': `missing` must be one of mean"),
        (Number, {"role": "target"}, "target 'x': `missing` must be one of drop"),
        (Number, {"missing": "constant"}, "`constant` goes with"),
        (Number, {"constant": 1.0}, "`constant` goes with"),
        (Number, {"low": 2, "high": 1}, "is above high"),
        (Number, {"missing": "error", "indicator": True}, "may be missing"),
        (Number, {"low": float("inf")}, "finite"),
        (Number, {"colour": 1}, "Extra inputs"),
        (Category, {"labels": ("a", "b", "a")}, "repeated: a"),
        (Category, {"role": "target", "missing": "drop"}, "`unseen` must be `error`"),
        (Category, {"rare": 2, "unseen": "error"}, "needs `unseen: unknown`"),
        (Box, {"shape": (2,), "low": (0.0,)}, "1 bounds for 2 elements"),
        (Box, {"shape": (-1,)}, "negative side"),
        (Continuous, {"low": (0.0,), "high": (0.0,)}, "low < high"),
    ],
)
def test_contradictions_are_refused(kind, values, problem):
    with pytest.raises(ValidationError, match=problem):
        kind(name="x", **values)


def test_names_are_unique():
    with pytest.raises(ValidationError, match="fields are repeated: x"):
        Schema(fields=(Number(name="x"), Category(name="x")))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"format": "other"},
        {"fields": [{"kind": "number"}]},
        {"fields": [{"kind": "matrix", "name": "x"}]},
        {"more": 1},
        {"fields": None},
    ],
)
def test_foreign_json_is_refused(change):
    with pytest.raises(IntegrityError):
        Schema.from_json(EVERY_KIND.to_json() | change)


def test_no_json_object_is_refused():
    for value in (None, [], "schema", 3):
        with pytest.raises(IntegrityError):
            Schema.from_json(value)
