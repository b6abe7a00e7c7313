"""Schemas: whatever is drawn among what is allowed, jsonschema finds that it fits."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from reinforge.data.options import BytePairOptions, CharacterOptions
from reinforge.data.text import Tokenizer, fit_characters
from reinforge.data.tokenizers import fit_byte_pairs
from reinforge.errors import DataError
from reinforge.inference.schemas import Schemas

pytest.importorskip("llguidance")
TEXTS = [
    string.printable[:95],
    '{"name": "the quick brown fox", "list": [1, 2, 3], "你好": null, "naïve café": true}' * 3,
]
TOKENIZERS: list[Callable[[], Tokenizer]] = [
    lambda: fit_characters(CharacterOptions(), TEXTS),
    lambda: fit_byte_pairs(BytePairOptions(size=330), TEXTS),
    lambda: fit_byte_pairs(BytePairOptions(size=330, alphabet="characters"), TEXTS),
]
ANIMAL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "list": {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 50}, "maxItems": 3},
        "你好": {"enum": [None, True, "好"]},
        "more": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/inner"}]},
    },
    "required": ["name", "list", "你好"],
    "additionalProperties": False,
    "$defs": {"inner": {"type": "object", "properties": {"x": {"const": 1}}, "additionalProperties": False}},
}
SCHEMAS: list[Any] = [
    ANIMAL, {"enum": ["a", 1, None]}, {"type": "string", "pattern": "^[a-c]{2,4}$"}, {"type": "boolean"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
]  # fmt: skip


@pytest.mark.parametrize("which", range(len(TOKENIZERS)))
@pytest.mark.parametrize("stops", [(), (5,)])
def test_what_is_allowed_fits(which: int, stops: tuple[int, ...]) -> None:
    tokenizer, draw = TOKENIZERS[which](), random.Random(0)
    # With a stop token the tokenizer has one token more, which stands for nothing else.
    decode, size, ends = tokenizer.decode, tokenizer.size + 1, (tokenizer.size,) if stops else ()
    schemas = Schemas(lambda ids: decode([each for each in ids if each < tokenizer.size]), size, ends)
    for schema in SCHEMAS:
        found = set()
        for _try in range(12):
            constraint, ids = schemas.constraint(schema), []
            while not constraint.complete:
                allowed = constraint.allowed().nonzero().flatten().tolist()
                assert not constraint.failed
                ids.append(draw.choice(allowed))
                constraint.advance(ids[-1])
                assert len(ids) < 2000
            text = decode([each for each in ids if each < tokenizer.size])
            jsonschema.validate(json.loads(text), schema)
            found.add(text)
        assert len(found) > 1


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"$ref": "http://127.0.0.1/x"}, {"type": "string", "pattern": "("}]
)
def test_what_is_no_schema(schema: Any) -> None:
    tokenizer = TOKENIZERS[0]()
    with pytest.raises(DataError, match="no JSON Schema"):
        Schemas(tokenizer.decode, tokenizer.size, ()).constraint(schema)


def test_what_can_not_be_written() -> None:
    tokenizer = fit_characters(CharacterOptions(), ["abc"])
    with pytest.raises(DataError, match="lacks characters"):
        Schemas(tokenizer.decode, tokenizer.size, ()).constraint({"type": "object"})
