"""The schema: the ordered fields of a model, and its JSON form."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Literal

from pydantic import Field as Describe
from pydantic import ValidationError, model_validator

from reinforge.errors import DataError, IntegrityError
from reinforge.registry import Options
from reinforge.schema.fields import Category, Date, Field, Image, Labels, Number, Span, Text

FORMAT_VERSION = 1
NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
# Blocks that all inputs of a form share; other inputs are blocks under their own names.
SHARED_BLOCKS = ("numbers", "categories")


class Schema(Options):
    """Typed fields in order; names are unique. `nulls` are the texts that mean "missing" (compared after trimming)."""

    format: Literal["reinforge.schema"] = "reinforge.schema"
    version: Literal[1] = 1
    fields: tuple[Field, ...]
    nulls: tuple[str, ...] = NULLS
    absent: Literal["error", "null"] = Describe(
        "error", description="A column, or a key of a JSON row, that is not there: refuse, or count it as missing."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Schema:
        counts = Counter(field.name for field in self.fields)
        repeated = sorted(name for name, count in counts.items() if count > 1)
        if repeated:
            raise ValueError(f"fields are repeated: {', '.join(repeated)}")
        for field in self.fields:
            if field.name in SHARED_BLOCKS and own_block(field):
                raise ValueError(f"{field.name!r} is the name of a block: rename this column")
            if isinstance(field, Span) and not any(f.name == field.of and isinstance(f, Text) for f in self.fields):
                raise ValueError(f"{field.name!r} is a part of {field.of!r}, which is no text field")
        return self

    @property
    def inputs(self) -> tuple[Field, ...]:
        """The fields that go in."""
        return tuple(field for field in self.fields if field.role == "input")

    @property
    def targets(self) -> tuple[Field, ...]:
        """The fields that come out."""
        return tuple(field for field in self.fields if field.role == "target")

    @property
    def numeric(self) -> tuple[Number | Date, ...]:
        """The inputs that are numbers, or become numbers."""
        return tuple(f for f in self.fields if isinstance(f, Date) or (isinstance(f, Number) and f.role == "input"))

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The columns of the block "numbers", in order: numeric inputs, and the numbers that dates become."""
        return tuple(number for f in self.numeric for number in (f.numbers if isinstance(f, Date) else (f,)))

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categorical inputs, in the order of their columns in the block "categories"."""
        return tuple(field for field in self.fields if isinstance(field, Category) and field.role == "input")

    def field(self, name: str) -> Field:
        """The field of that name. Raises DataError where there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise DataError(f"there is no field {name!r}", remedy=f"Fields: {', '.join(f.name for f in self.fields)}.")

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives an equal schema."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> Schema:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        version = value.get("version") if isinstance(value, dict) else None
        if version != FORMAT_VERSION:
            raise IntegrityError(
                f"schema format version {version!r} is not supported",
                where="schema",
                remedy=f"This release reads version {FORMAT_VERSION}.",
            )
        try:
            return cls.model_validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise IntegrityError(f"{place}: {first['msg']}", where="schema") from error


def own_block(field: Field) -> bool:
    """Whether the field is an input that is a block under its own name."""
    return isinstance(field, Text | Image) or (isinstance(field, Labels) and field.role == "input")
