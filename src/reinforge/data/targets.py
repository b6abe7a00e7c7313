"""Targets: raw columns to what a head learns, and back to the data's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.data.blocks import LabelsBlock, TokensBlock, fit_steps, load_steps, step_arrays, stored_step, to_float32
from reinforge.data.columns import Columns, NumberReader, column
from reinforge.data.operations import labels
from reinforge.data.operations.numbers import TARGET_STEPS, Array, Arrays, Log, Scale
from reinforge.data.operations.spans import Answer, answer, characters_of, offsets, tokens_of
from reinforge.data.values import Nulls, Numbers, Origin, label, read_codes, read_list, read_numbers
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.schema.fields import Category, Field, Labels, Number, Span, Vector
from reinforge.schema.schema import Schema

There = NDArray[np.bool_]


class Target(Protocol):
    """One target. `to_json` and `arrays` are what `load_target` needs beside the schema."""

    kind: ClassVar[str]

    def encode(self, columns: Columns, count: int, origin: Origin) -> tuple[Tensor, There]:
        """What the head learns, (count, ...), and (count,) in which rows it is known. Raises DataError."""
        ...

    def inverse(self, values: NDArray[Any]) -> Any:
        """What `encode` gave, or a model's output of that form, in the data's own terms."""
        ...

    def to_json(self) -> dict[str, Any]: ...

    def arrays(self) -> Arrays: ...


class NumbersTarget:
    """A number, or several: float32 (n, k), transformed and scaled. Counts stay as they are."""

    kind: ClassVar[str] = "numbers"

    def __init__(self, field: Number | Vector, schema: Schema, operations: tuple[Log | Scale, ...]) -> None:
        self.field, self.operations = field, operations
        self.reader = NumberReader(numbers_of(field), schema)

    @classmethod
    def fit(cls, field: Number | Vector, schema: Schema, columns: Columns, count: int, origin: Origin) -> NumbersTarget:
        """Learn the scale from these (training) rows. Raises DataError."""
        fields = numbers_of(field)
        block = NumberReader(fields, schema).block(columns, count, origin)
        return cls(field, schema, _invertible(fit_steps(_steps(field), block, fields)))

    @classmethod
    def load(
        cls, field: Number | Vector, schema: Schema, description: Any, arrays: Mapping[str, Array]
    ) -> NumbersTarget:
        """From stored parts. Raises IntegrityError unless they are what `fit` makes for this schema."""
        if set(description) != {"kind", "operations"} or description["kind"] != cls.kind:
            raise IntegrityError(f"target {field.name!r} does not fit its schema", where="pipeline")
        steps = load_steps(description["operations"], arrays, len(numbers_of(field)))
        if tuple(type(step) for step in steps) != _steps(field):
            raise IntegrityError(f"target {field.name!r} can't be inverted", where="pipeline")
        return cls(field, schema, _invertible(steps))

    def encode(self, columns: Columns, count: int, origin: Origin) -> tuple[Tensor, There]:
        """float32 (count, k), zeros where any of the numbers is missing."""
        block = self.reader.block(columns, count, origin)
        there: There = np.isnan(block).sum(1) == 0
        block = np.where(there[:, None], block, 0.0)
        for step in self.operations:
            block = step.apply(block)
        block = np.where(there[:, None], block, 0.0)
        return torch.from_numpy(to_float32(block, self.reader.names, origin)), there

    def inverse(self, values: NDArray[Any]) -> Numbers:
        """(n,) for a number, (n, k) for a vector, float64 in the data's own units."""
        block = values.astype(np.float64).reshape(len(values), -1)
        for step in reversed(self.operations):
            block = step.invert(block)
        return block if isinstance(self.field, Vector) else block[:, 0]

    def to_json(self) -> dict[str, Any]:
        """Its operations."""
        return {"kind": self.kind, "operations": [stored_step(step) for step in self.operations]}

    def arrays(self) -> Arrays:
        """Their numbers."""
        return step_arrays(self.operations)


class CategoryTarget:
    """One of the labels: int64 (n,)."""

    kind: ClassVar[str] = "category"

    def __init__(self, field: Category, schema: Schema) -> None:
        self.field, self.schema = field, schema
        self.code = labels.coder(field, Nulls.of(schema.nulls))

    def encode(self, columns: Columns, count: int, origin: Origin) -> tuple[Tensor, There]:
        """int64 (count,), 0 where missing."""
        values = column(columns, self.field.name, count, self.schema, origin)
        codes = read_codes(values, self.field.name, self.code, origin)
        return torch.from_numpy(np.maximum(codes, 0)), codes >= 0

    def inverse(self, values: NDArray[Any]) -> list[str]:
        """(n,) codes to labels."""
        return [self.field.labels[code] for code in values.reshape(-1).tolist()]

    def to_json(self) -> dict[str, Any]:
        """The version of its way to read labels."""
        return {"kind": self.kind, "version": labels.VERSION}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}


class LabelsTarget:
    """A set of labels: float32 (n, labels) of 0 and 1."""

    kind: ClassVar[str] = "labels"

    def __init__(self, field: Labels, schema: Schema) -> None:
        self.field = field
        self.block = LabelsBlock(field, schema)

    def encode(self, columns: Columns, count: int, origin: Origin) -> tuple[Tensor, There]:
        """float32 (count, labels), zeros where missing."""
        held, there = self.block.read(columns, count, origin)
        held[~there] = 0.0
        return torch.from_numpy(held), there

    def inverse(self, values: NDArray[Any]) -> list[list[str]]:
        """(n, labels) to lists of the labels whose value is at least a half."""
        return [[label for label, held in zip(self.field.labels, row) if held >= 0.5] for row in values.tolist()]

    def to_json(self) -> dict[str, Any]:
        """The version of its way to read labels."""
        return {"kind": self.kind, "version": labels.VERSION}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}


class SpanTarget:
    """First and last token of an answer inside a text: int64 (n, 2)."""

    kind: ClassVar[str] = "span"
    VERSION: ClassVar[int] = 1

    def __init__(self, field: Span, schema: Schema, tokens: TokensBlock) -> None:
        self.field, self.schema, self.tokens = field, schema, tokens
        self.nulls = Nulls.of(schema.nulls)

    def encode(self, columns: Columns, count: int, origin: Origin) -> tuple[Tensor, There]:
        """int64 (count, 2); an answer that is cut off with the text is not known. Raises DataError for an answer that
        the text does not hold."""
        texts = self.tokens.texts(columns, count, origin)
        found = np.full((count, 2), -1, np.int64)
        for row, given in enumerate(answers(self.field, columns, count, self.schema, origin)):
            if given is not None:
                where = origin.at(row, self.field.name)
                start, end = characters_of(given, texts[row], where)
                tokens = tokens_of(offsets(self.tokens.tokenizer, texts[row], self.tokens.field.length), start, end)
                found[row] = (-1, -1) if tokens is None else tokens
        return torch.from_numpy(np.maximum(found, 0)), found[:, 0] >= 0

    def inverse(self, values: NDArray[Any]) -> list[list[int]]:
        """(n, 2) tokens as they are: in characters only with the text."""
        found: list[list[int]] = values.tolist()
        return found

    def to_json(self) -> dict[str, Any]:
        """The version of its way to find answers."""
        return {"kind": self.kind, "version": self.VERSION}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}


def answers(field: Span, columns: Columns, count: int, schema: Schema, origin: Origin) -> list[Answer | None]:
    """The answers as they are given; None where missing. Raises DataError."""
    nulls = Nulls.of(schema.nulls)
    if not field.columns:
        values = column(columns, field.name, count, schema, origin)
        return read_list(values, field.name, lambda value: answer(value, nulls), origin)
    ends = [
        read_numbers(column(columns, name, count, schema, origin), name, nulls, origin).tolist()
        for name in field.columns
    ]
    found: list[Answer | None] = []
    for row, (start, end) in enumerate(zip(*ends)):
        if start != start or end != end:
            found.append(None)
        elif start != int(start) or end != int(end):
            raise DataError(_("an answer begins and ends at whole numbers"), where=origin.at(row, field.name))
        else:
            found.append((int(start), int(end)))
    return found


def fit_target(
    field: Field, schema: Schema, columns: Columns, count: int, origin: Origin, texts: Mapping[str, TokensBlock]
) -> Target:
    """A target's coder, learned from these (training) rows. Raises DataError."""
    if isinstance(field, Number | Vector):
        return NumbersTarget.fit(field, schema, columns, count, origin)
    return _unfitted(field, schema, texts)


def load_target(
    field: Field, schema: Schema, description: Any, arrays: Mapping[str, Array], texts: Mapping[str, TokensBlock]
) -> Target:
    """A target's coder from stored parts. Raises IntegrityError."""
    if not isinstance(description, dict):
        raise IntegrityError(f"target {field.name!r} has no description", where="pipeline")
    if isinstance(field, Number | Vector):
        return NumbersTarget.load(field, schema, description, arrays)
    target = _unfitted(field, schema, texts)
    if description != target.to_json() or arrays:
        raise IntegrityError(f"target {field.name!r} does not fit its schema", where="pipeline")
    return target


def present(field: Field, columns: Columns, count: int, schema: Schema, origin: Origin) -> There:
    """(count,) in which rows a target is given. Raises DataError for what can't be read."""
    nulls = Nulls.of(schema.nulls)
    match field:
        case Number() | Vector():
            read = [
                read_numbers(column(columns, n.name, count, schema, origin), n.name, nulls, origin)
                for n in numbers_of(field)
            ]
            known: There = np.isnan(read).sum(0) == 0
            return known
        case Labels():
            if field.columns:
                return LabelsBlock(field, schema).read(columns, count, origin)[1]
            values = column(columns, field.name, count, schema, origin)
            sets = read_list(values, field.name, lambda v: labels.label_set(v, nulls, field.separator), origin)
            return np.array([found is not None for found in sets], np.bool_)
        case Span():
            given = answers(field, columns, count, schema, origin)
            return np.array([found is not None for found in given], np.bool_)
        case _:
            values = column(columns, field.name, count, schema, origin)
            return read_codes(values, field.name, lambda v: label(v, nulls) is not None, origin).astype(np.bool_)


def numbers_of(field: Number | Vector) -> tuple[Number, ...]:
    """The numbers that a numeric target consists of."""
    return field.numbers if isinstance(field, Vector) else (field,)


def _steps(field: Number | Vector) -> tuple[type[Log] | type[Scale], ...]:
    if isinstance(field, Number) and field.count:
        return ()
    return tuple(step for step in TARGET_STEPS if step is Scale or field.transform == "log")


def _invertible(steps: tuple[Any, ...]) -> tuple[Log | Scale, ...]:
    return tuple(step for step in steps if isinstance(step, Log | Scale))


def _unfitted(field: Field, schema: Schema, texts: Mapping[str, TokensBlock]) -> Target:
    match field:
        case Category():
            return CategoryTarget(field, schema)
        case Labels():
            return LabelsTarget(field, schema)
        case Span():
            return SpanTarget(field, schema, texts[field.of])
    raise DataError(
        _("a table's pipeline has no {kind} targets").format(kind=field.kind), where=f"column {field.name!r}"
    )
