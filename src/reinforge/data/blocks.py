"""Blocks of inputs: raw columns to one tensor each, row by row the same alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from reinforge.core.batch import Leaf
from reinforge.core.ragged import Ragged
from reinforge.data.columns import Columns, NumberReader, column
from reinforge.data.operations import dates, labels
from reinforge.data.operations.numbers import Array, Arrays, Impute, Indicate, Operation, asked, operation
from reinforge.data.text import STORED, Tokenizer
from reinforge.data.values import Encoded, Nulls, Numbers, Origin, Unreadable, read_codes, read_list, text
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.schema.fields import Image, Labels, Number, Text, sources
from reinforge.schema.schema import Schema, own_block

# What a chunk of rows may hold while it goes through the operations: few enough to stay in a processor's cache.
CHUNK = 1 << 17


class Block(Protocol):
    """One input block. `to_json` and `arrays` are what `load_block` needs beside the schema."""

    kind: ClassVar[str]

    def transform(self, columns: Columns, count: int, origin: Origin) -> Leaf:
        """The block of `count` rows. Raises DataError with row, column and value."""
        ...

    def to_json(self) -> dict[str, Any]: ...

    def arrays(self) -> Arrays: ...


class NumbersBlock:
    """All numeric inputs, what dates become, and indicators of what was missing: float32 (n, k)."""

    kind: ClassVar[str] = "numbers"

    def __init__(self, schema: Schema, operations: Sequence[Operation]) -> None:
        self.reader = NumberReader(schema.numeric, schema)
        self.operations = tuple(operations)
        self.names = number_names(schema)

    @classmethod
    def fit(cls, schema: Schema, columns: Columns, count: int, origin: Origin) -> NumbersBlock:
        """Learn from these (training) rows. Raises DataError."""
        reader = NumberReader(schema.numeric, schema)
        block = reader.block(columns, count, origin)
        return cls(schema, fit_steps(asked(reader.numbers), block, reader.numbers))

    @classmethod
    def load(cls, schema: Schema, description: Any, arrays: Mapping[str, Array]) -> NumbersBlock:
        """From stored parts. Raises IntegrityError unless they are what `fit` makes for this schema."""
        if set(description) != {"kind", "version", "operations"} or description["version"] != dates.VERSION:
            raise IntegrityError("its way to read numbers is not known", where="pipeline")
        numbers = schema.numbers
        steps = load_steps(description["operations"], arrays, len(numbers))
        if tuple(type(step) for step in steps) != asked(numbers):
            raise IntegrityError("its operations don't fit its schema", where="pipeline")
        for step in steps:
            if isinstance(step, Indicate) and step.columns.tolist() != [
                i for i, n in enumerate(numbers) if n.indicator
            ]:
                raise IntegrityError("its indicators don't fit its schema", where="pipeline")
            if isinstance(step, Impute):
                unfilled = np.isnan(step.fill[: len(numbers)])
                if any(gone and number.missing != "error" for gone, number in zip(unfilled, numbers)):
                    raise IntegrityError("a missing number has nothing to fill it", where="pipeline")
        return cls(schema, steps)

    def transform(self, columns: Columns, count: int, origin: Origin) -> Tensor:
        """float32 (count, k). Raises DataError with row, column and value."""
        if count == 1:
            return torch.from_numpy(self._finish(self.reader.block(columns, 1, origin), origin, 0))
        read = self.reader.read(columns, count, origin)
        out = np.empty((count, len(self.names)), np.float32)
        step = max(64, CHUNK // max(len(self.names), 1))
        for start in range(0, count, step):
            stop = min(start + step, count)
            block = np.empty((stop - start, len(read)))
            for index, values in enumerate(read):
                block[:, index] = values[start:stop]
            self.reader.check(block, origin, start)
            out[start:stop] = self._finish(block, origin, start)
        return torch.from_numpy(out)

    def to_json(self) -> dict[str, Any]:
        """Its operations, and the version of its way to read numbers and dates."""
        return {
            "kind": self.kind,
            "version": dates.VERSION,
            "operations": [stored_step(step) for step in self.operations],
        }

    def arrays(self) -> Arrays:
        """Their numbers, by "0.fill", ..."""
        return step_arrays(self.operations)

    def _finish(self, block: Numbers, origin: Origin, first: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        for step in self.operations:
            block = step.apply(block)
        return to_float32(block, self.names, origin, first)


class CategoriesBlock:
    """All categorical inputs: int64 (n, c) codes. What labels there are is the schema's."""

    kind: ClassVar[str] = "categories"

    def __init__(self, schema: Schema) -> None:
        nulls = Nulls.of(schema.nulls)
        self.schema = schema
        self.coders: list[tuple[str, Callable[[object], int]]] = [
            (f.name, labels.coder(f, nulls)) for f in schema.categories
        ]

    def transform(self, columns: Columns, count: int, origin: Origin) -> Tensor:
        """int64 (count, c). Raises DataError with row, column and value."""
        found = [column(columns, name, count, self.schema, origin) for name, _code in self.coders]
        lists = [values for values in found if isinstance(values, list)] if count == 1 else []
        if len(lists) == len(found):
            try:
                return torch.tensor([[code(values[0]) for (_name, code), values in zip(self.coders, lists)]])
            except Unreadable:
                pass  # read again below, for the error with its place
        codes = np.empty((count, len(self.coders)), dtype=np.int64)
        for index, ((name, code), values) in enumerate(zip(self.coders, found)):
            codes[:, index] = read_codes(values, name, code, origin)
        return torch.from_numpy(codes)

    def to_json(self) -> dict[str, Any]:
        """The version of its way to read labels."""
        return {"kind": self.kind, "version": labels.VERSION}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}


class LabelsBlock:
    """A set of labels: float32 (n, labels) of 0 and 1."""

    kind: ClassVar[str] = "labels"

    def __init__(self, field: Labels, schema: Schema) -> None:
        self.field, self.schema = field, schema
        self.nulls = Nulls.of(schema.nulls)
        self.code = labels.set_coder(field, self.nulls)

    def transform(self, columns: Columns, count: int, origin: Origin) -> Tensor:
        """float32 (count, labels). Raises DataError with row, column and value."""
        held, there = self.read(columns, count, origin)
        if self.field.missing == "error" and not there.all():
            row = int(np.flatnonzero(~there)[0])
            raise DataError(
                _("{name!r} must not be missing").format(name=self.field.name), where=origin.at(row, self.field.name)
            )
        return torch.from_numpy(held)

    def read(
        self, columns: Columns, count: int, origin: Origin
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.bool_]]]:
        """(count, labels) of 0 and 1, and (count,) whether the set is there at all."""
        field = self.field
        if field.columns:
            flags = np.empty((count, len(field.columns)), np.int64)
            for index, name in enumerate(field.columns):
                values = column(columns, name, count, self.schema, origin)
                flags[:, index] = read_codes(values, name, lambda v: labels.flag(v, self.nulls), origin)
            # One unknown label leaves the set unknown, unless what is missing doesn't hold.
            there = np.all((flags >= 0) | (field.missing == "empty"), axis=1)
            return np.maximum(flags, 0).astype(np.float32), there
        values = column(columns, field.name, count, self.schema, origin)
        sets = read_list(values, field.name, self.code, origin)
        there = np.array([places is not None for places in sets], np.bool_)
        rows = np.repeat(np.arange(count), [len(places or ()) for places in sets])
        held = np.zeros((count, len(field.labels)), np.float32)
        held[rows, np.array([place for places in sets for place in places or ()], np.int64)] = 1.0
        return held, there

    def to_json(self) -> dict[str, Any]:
        """The version of its way to read labels."""
        return {"kind": self.kind, "version": labels.VERSION}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}


class TokensBlock:
    """A text as tokens: Ragged int64, at most `length` a row. A text without any is the one token 0, so that every row
    has something to read."""

    kind: ClassVar[str] = "tokens"

    def __init__(self, field: Text, schema: Schema, tokenizer: Tokenizer) -> None:
        self.field, self.schema, self.tokenizer = field, schema, tokenizer
        self.nulls = Nulls.of(schema.nulls)

    def transform(self, columns: Columns, count: int, origin: Origin) -> Ragged:
        """Ragged int64 of `count` rows. Raises DataError with row, column and value."""
        texts = self.texts(columns, count, origin)
        places = {value: place for place, value in enumerate(dict.fromkeys(texts))}
        tokens = Ragged.from_rows([self.encode(value) for value in places])
        return tokens if len(places) == count else tokens.select(torch.tensor([places[value] for value in texts]))

    def texts(self, columns: Columns, count: int, origin: Origin) -> list[str]:
        """The texts of `count` rows as they stand, empty where missing. Raises DataError."""
        (name,) = sources(self.field)
        values = column(columns, name, count, self.schema, origin)
        found = read_list(values, name, lambda value: text(value, self.nulls), origin)
        if self.field.missing == "error" and None in found:
            raise DataError(_("the text must not be missing"), where=origin.at(found.index(None), name))
        return [value or "" for value in found]

    def encode(self, value: str) -> Tensor:
        """(n,) int64 tokens of one text, cut off at `length`."""
        tokens = self.tokenizer.encode(value, self.field.length).long()
        return tokens if len(tokens) else torch.zeros(1, dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        """Its tokenizer."""
        return {"kind": self.kind, "tokenizer": self.tokenizer.to_json()}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}

    @classmethod
    def load(cls, field: Text, schema: Schema, description: Any) -> TokensBlock:
        """From stored parts. Raises IntegrityError."""
        stored = description.get("tokenizer")
        kind = stored.get("kind") if isinstance(stored, dict) else None
        if set(description) != {"kind", "tokenizer"} or not isinstance(kind, str) or kind not in STORED:
            raise IntegrityError(f"text {field.name!r} has no known tokenizer", where="pipeline")
        tokenizer = STORED[kind](stored)
        if tokenizer.size != field.vocabulary:
            raise IntegrityError(f"the tokenizer of {field.name!r} does not fit its schema", where="pipeline")
        return cls(field, schema, tokenizer)


class ImageBlock:
    """Pictures: uint8 (n, channels, height, width)."""

    kind: ClassVar[str] = "image"
    VERSION: ClassVar[int] = 1

    def __init__(self, field: Image, schema: Schema) -> None:
        self.field, self.schema = field, schema
        self.nulls = frozenset(schema.nulls)

    def transform(self, columns: Columns, count: int, origin: Origin) -> Tensor:
        """uint8 (count, channels, height, width). Raises DataError with the row, or the file."""
        from reinforge.data.images import decode_all

        field = self.field
        values: Any = column(columns, field.name, count, self.schema, origin)
        if isinstance(values, Encoded):
            values = [values.values[code] for code in values.codes.tolist()]
        if not (isinstance(values, np.ndarray) and values.ndim > 1):
            missing = [row for row, value in enumerate(values) if self._missing(value)]
            if missing and field.missing == "error":
                raise DataError(_("the image must not be missing"), where=origin.at(missing[0], field.name))
            if missing:
                blank = np.zeros(field.size, np.uint8)
                values = [blank if self._missing(value) else value for value in values]
        return decode_all(
            values, field.size, field.channels, field.resize, where=lambda row: _place(values[row], origin, row, field)
        )

    def to_json(self) -> dict[str, Any]:
        """The version of its way to decode."""
        return {"kind": self.kind, "version": self.VERSION}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}

    def _missing(self, value: object) -> bool:
        return value is None or (isinstance(value, str) and value.strip() in self.nulls)


def load_block(name: str, description: Any, schema: Schema, arrays: Mapping[str, Array]) -> Block:
    """The block of that name in a fitted schema, from stored parts. Raises IntegrityError."""
    if not isinstance(description, dict):
        raise IntegrityError(f"block {name!r} has no description", where="pipeline")
    kind = description.get("kind")
    block: Block | None = None
    if name == NumbersBlock.kind == kind:
        return NumbersBlock.load(schema, description, arrays)
    if name == CategoriesBlock.kind:
        block = CategoriesBlock(schema)
    else:
        match schema.field(name):
            case Text() as field if kind == TokensBlock.kind and not arrays:
                return TokensBlock.load(field, schema, description)
            case Labels() as field:
                block = LabelsBlock(field, schema)
            case Image() as field:
                block = ImageBlock(field, schema)
    if block is None or description != block.to_json() or arrays:
        raise IntegrityError(f"block {name!r} does not fit its schema", where="pipeline")
    return block


def block_names(schema: Schema) -> tuple[str, ...]:
    """The names of a table's blocks, in order."""
    shared = [name for name, fields in (("numbers", schema.numeric), ("categories", schema.categories)) if fields]
    return (*shared, *(f.name for f in schema.inputs if own_block(f)))


def number_names(schema: Schema) -> tuple[str, ...]:
    """The name of every column of the block "numbers"."""
    numbers = schema.numbers
    return (*(n.name for n in numbers), *(f"{n.name} is missing" for n in numbers if n.indicator))


def fit_steps(steps: Sequence[type[Operation]], block: Numbers, fields: Sequence[Number]) -> tuple[Operation, ...]:
    """Each step fitted to what the steps before it leave of the block (n, k)."""
    fitted: list[Operation] = []
    for step in steps:
        fitted.append(step.fit(block, fields))
        block = fitted[-1].apply(block)
    return tuple(fitted)


def load_steps(description: Any, arrays: Mapping[str, Array], width: int) -> tuple[Operation, ...]:
    """Stored operations, and nothing else. Raises IntegrityError."""
    if not isinstance(description, list):
        raise IntegrityError("its operations are no list", where="pipeline")
    rest = dict(arrays)
    steps: list[Operation] = []
    for index, step in enumerate(description):
        if not isinstance(step, dict) or set(step) != {"kind", "version"}:
            raise IntegrityError("an operation has a kind and a version, and nothing else", where="pipeline")
        steps.append(operation(step["kind"], step["version"], section(rest, f"{index}."), width))
        width = steps[-1].width(width)
    if rest:
        raise IntegrityError(f"arrays are left over: {', '.join(sorted(rest)[:5])}", where="pipeline")
    return tuple(steps)


def stored_step(step: Operation) -> dict[str, Any]:
    """What names a step."""
    return {"kind": step.kind, "version": step.version}


def step_arrays(steps: Sequence[Operation]) -> dict[str, Array]:
    """Their arrays, by "0.fill", ..."""
    return {f"{index}.{name}": array for index, step in enumerate(steps) for name, array in step.arrays().items()}


def section(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Takes the arrays under a prefix out of the dictionary."""
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names}


def to_float32(
    block: Numbers, names: Sequence[str], origin: Origin, first: int = 0
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n, k) in 32 bits. Raises DataError for a number that they don't hold. `first`: the block's first row."""
    with np.errstate(over="ignore"):
        result = block.astype(np.float32)
    finite = np.isfinite(result)
    if not finite.all():
        row, index = (int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            _("after preprocessing the value is {block:g}, which no 32-bit float holds").format(
                block=block[row, index]
            ),
            where=origin.at(first + row, names[index]),
            remedy=_("Set `low` and `high` for this field, or rescale it."),
        )
    return result


def _place(value: object, origin: Origin, row: int, field: Image) -> str:
    where = origin.at(row, field.name)
    return f"{value} ({where})" if isinstance(value, Path) else where
