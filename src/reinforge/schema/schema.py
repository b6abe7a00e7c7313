"""The schema: the ordered fields of a model, and its JSON form."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field as Describe
from pydantic import ValidationError, model_validator

from reinforge.errors import DataError, IntegrityError
from reinforge.registry import Options
from reinforge.schema.fields import Category, Field, Number

FORMAT_VERSION = 1
NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")


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
    def _unique(self) -> Schema:
        names = [field.name for field in self.fields]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"fields are repeated: {', '.join(repeated)}")
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
    def numbers(self) -> tuple[Number, ...]:
        """Numeric inputs, in the order of their columns in the block "numbers"."""
        return tuple(field for field in self.fields if isinstance(field, Number) and field.role == "input")

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
