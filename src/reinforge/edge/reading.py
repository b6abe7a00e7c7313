"""Rows to the inputs of a graph: the same reading of values as the pipeline's, without torch and pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reinforge.data.columns import Columns, NumberReader, column, length
from reinforge.data.operations import labels
from reinforge.data.values import Nulls, Origin, read_codes, read_list, text
from reinforge.edge.description import LENGTHS, MEMORY, START, Description
from reinforge.edge.tokens import Tokens
from reinforge.environments.parts import Part, numbers_of_shape
from reinforge.errors import DataError, MissingExtra
from reinforge.messages import _

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Row = Mapping[str, object]
Reader = Callable[[Sequence[Row], Origin], tuple[Arrays, Any]]


def reader(description: Description) -> Reader:
    """From rows to the graph's inputs by name, and what the predictions need of the rows beside its outputs."""
    kinds: dict[str, Callable[[Description], Reader]] = {
        "table": TableRows, "observation": Observations, "tensor": Boxes, "text": Texts,
    }  # fmt: skip
    return kinds[description.form](description)


class TableRows:
    """Rows of a table: blocks as the pipeline has them, numbers before its operations. Beside: texts by field."""

    def __init__(self, description: Description) -> None:
        reading = description.reading
        self.schema: Any = reading["schema"]
        self.nulls = Nulls.of(self.schema.nulls)
        self.names: tuple[str, ...] = reading["columns"]
        self.numbers = NumberReader(reading["numbers"], self.schema) if reading["numbers"] else None
        self.categories = [(field.name, labels.coder(field, self.nulls)) for field in reading["categories"]]
        self.others = [(field, _block(field, self.schema, self.nulls)) for field in reading["others"]]

    def __call__(self, rows: Sequence[Row], origin: Origin) -> tuple[Arrays, dict[str, list[str]]]:
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError(_("a row must be an object of names and values"), where=origin.at(index))
            missing = [name for name in self.names if name not in row] if self.schema.absent == "error" else []
            if missing:
                raise DataError(
                    _("the field {name!r} is missing").format(name=missing[0]), where=origin.at(index, missing[0]),
                    remedy=_("Write null for a missing value, or train with `absent: null`."),
                )  # fmt: skip
        columns: Columns = {name: [row.get(name) for row in rows] for name in self.names}
        count = length(columns, self.names)
        found: Arrays = {}
        texts: dict[str, list[str]] = {}
        if self.numbers is not None:
            found["numbers"] = np.ascontiguousarray(self.numbers.block(columns, count, origin))
        if self.categories:
            codes = [read_codes(columns[name], name, code, origin) for name, code in self.categories]
            found["categories"] = np.stack(codes, 1).astype(np.int64)
        for _field, read in self.others:
            found.update(read(columns, count, origin, texts))
        return found, texts


_Block = Callable[[Columns, int, Origin, dict[str, list[str]]], Arrays]


def _block(field: Any, schema: Any, nulls: Nulls) -> _Block:
    """What reads a field that is a block of its own."""
    match field.kind:
        case "labels":
            return lambda columns, count, origin, _texts: {
                field.name: _sets(field, schema, nulls, columns, count, origin)
            }
        case "text":
            tokenizer = Tokens(vars(field.tokenizer))

            def tokens(columns: Columns, count: int, origin: Origin, texts: dict[str, list[str]]) -> Arrays:
                values = column(columns, field.source, count, schema, origin)
                read = read_list(values, field.source, lambda value: text(value, nulls), origin)
                if field.missing == "error" and None in read:
                    raise DataError(_("the text must not be missing"), where=origin.at(read.index(None), field.source))
                texts[field.name] = [value or "" for value in read]
                ids = [tokenizer.encode(value, field.length) or [0] for value in texts[field.name]]
                return _padded(field.name, ids)

            return tokens
        case _:
            return lambda columns, count, origin, _texts: {field.name: _images(field, schema, columns, count, origin)}


def _sets(field: Any, schema: Any, nulls: Nulls, columns: Columns, count: int, origin: Origin) -> Array:
    """A set of labels: float32 (count, labels)."""
    if field.columns:
        flags = np.empty((count, len(field.columns)), np.int64)
        for index, name in enumerate(field.columns):
            values = column(columns, name, count, schema, origin)
            flags[:, index] = read_codes(values, name, lambda value: labels.flag(value, nulls), origin)
        gone = (flags < 0).any(1)
        if field.missing == "error" and gone.any():
            row = int(np.flatnonzero(gone)[0])
            raise DataError(_("{name!r} must not be missing").format(name=field.name), where=origin.at(row, field.name))
        return np.maximum(flags, 0).astype(np.float32)
    values = column(columns, field.name, count, schema, origin)
    held = np.zeros((count, len(field.labels)), np.float32)
    for row, places in enumerate(read_list(values, field.name, labels.set_coder(field, nulls), origin)):
        held[row, list(places or ())] = 1.0
    return held


def _images(field: Any, schema: Any, columns: Columns, count: int, origin: Origin) -> Array:
    """Pictures: uint8 (count, channels, height, width)."""
    try:
        from reinforge.data.images import arrays
    except ImportError:
        raise MissingExtra("pillow", "edge") from None
    given: Any = column(columns, field.name, count, schema, origin)
    values = list(given)
    for row, value in enumerate(values):
        if value is None or (isinstance(value, str) and value.strip() in schema.nulls):
            if field.missing == "error":
                raise DataError(_("the image must not be missing"), where=origin.at(row, field.name))
            values[row] = np.zeros(field.size, np.uint8)
    return arrays(
        values, field.size, field.channels, field.resize, where=lambda row: origin.at(row, field.name), threads=1
    )


def _padded(name: str, ids: Sequence[Sequence[int]]) -> Arrays:
    lengths = np.array([len(row) for row in ids], np.int64)
    out = np.zeros((len(ids), int(lengths.max(initial=1))), np.int64)
    for index, row in enumerate(ids):
        out[index, : len(row)] = row
    return {name: out, f"{name}{LENGTHS}": lengths}


class Observations:
    """Observations of a policy, and the memory that a row brings back."""

    def __init__(self, description: Description) -> None:
        self.parts = [Part(each["box"], each["block"]) for each in description.reading["parts"]]
        self.state = [port for port in description.inputs if port.name.startswith(MEMORY)]

    def __call__(self, rows: Sequence[Row], origin: Origin) -> tuple[Arrays, None]:
        found: Arrays = {}
        for part in self.parts:
            arrays = []
            for index, row in enumerate(rows):
                if not isinstance(row, Mapping) or part.name not in row:
                    raise DataError(
                        _("the field {name!r} is missing").format(name=part.name), where=origin.at(index, part.name)
                    )
                arrays.append(part.checked(row[part.name], part.box.shape, origin.at(index, part.name)))
            found[part.name] = part.array(np.stack(arrays))
        if self.state:
            known = {part.name for part in self.parts}
            given = [None if "memory" in known else row.get("memory") for row in rows]
            for port in self.state:
                name, sides = port.name.removeprefix(MEMORY), tuple(int(side) for side in port.shape[1:])
                held = np.zeros((len(rows), *sides), port.dtype)
                for index, memory in enumerate(given):
                    if memory is None:
                        continue
                    value = memory.get(name) if isinstance(memory, Mapping) else None
                    held[index] = numbers_of_shape(value, sides, origin.at(index, "memory"))
                found[port.name] = held
            found[START] = np.array([memory is None for memory in given])
        return found, None


class Boxes:
    """One array of numbers a row."""

    def __init__(self, description: Description) -> None:
        self.box = description.reading["box"]

    def __call__(self, rows: Sequence[Row], origin: Origin) -> tuple[Arrays, None]:
        name, arrays = self.box.name, []
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping) or name not in row:
                raise DataError(_("the field {name!r} is missing").format(name=name), where=origin.at(index, name))
            arrays.append(numbers_of_shape(row[name], self.box.shape, origin.at(index, name)))
        return {name: np.ascontiguousarray(np.stack(arrays), np.float32)}, None


class Texts:
    """Prompts {"text"} of a language model."""

    def __init__(self, description: Description) -> None:
        reading = description.reading
        self.tokenizer, self.opening = Tokens(vars(reading["tokenizer"])), list(reading["opening"])
        self.block, self.field = reading["block"], reading["field"]

    def __call__(self, rows: Sequence[Row], origin: Origin) -> tuple[Arrays, list[list[int]]]:
        prompts = []
        for index, row in enumerate(rows):
            given = row.get(self.field) if isinstance(row, Mapping) else None
            if not isinstance(given, str) or not given:
                raise DataError(_("it is no text, or an empty one"), where=origin.at(index, self.field))
            prompts.append([*self.opening, *self.tokenizer.encode(given, None)])
        return {self.block: _padded(self.block, prompts)[self.block]}, prompts
