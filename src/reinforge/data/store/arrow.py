"""Arrow IPC files of one record batch, planned before they are written: each column lies in one piece at a known place,
so that chunks of rows go straight where they belong, and reading is mapping.

Source: the Arrow columnar format, "IPC File Format" and "Encapsulated message format" (metadata version 5).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reinforge.data.store.flatbuffer import Scalar, Structs, Table, flatbuffer
from reinforge.errors import IntegrityError

MAGIC = b"ARROW1"
ALIGNMENT = 64
_V5, _SCHEMA, _BATCH = 4, 1, 3
_INT, _FLOAT, _FIXED_LIST, _LARGE_LIST = 2, 3, 16, 21
# By numpy's name: Arrow's type, and its table.
DTYPES: dict[str, tuple[int, Table]] = {
    **{
        f"{'u' * (not signed)}int{bits}": (_INT, Table({0: Scalar("i", bits), 1: Scalar("B", signed)}))
        for bits in (8, 16, 32, 64)
        for signed in (True, False)
    },
    "float16": (_FLOAT, Table({0: Scalar("h", 0)})),
    "float32": (_FLOAT, Table({0: Scalar("h", 1)})),
    "float64": (_FLOAT, Table({0: Scalar("h", 2)})),
}


@dataclass(frozen=True)
class Column:
    """A column: (rows, *shape) of a dtype; or, where `total` is given, rows of different lengths, (total, *shape) end
    to end, with offsets beside them."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    total: int | None = None


@dataclass(frozen=True)
class Plan:
    """Where everything stands in a file: `places` of a column's values (by its name) and offsets (name + "/offsets"),
    each (byte, dtype, shape)."""

    head: bytes
    tail: bytes
    size: int
    places: Mapping[str, tuple[int, str, tuple[int, ...]]]


def plan(columns: Sequence[Column], rows: int) -> Plan:
    """The file of these columns. Raises IntegrityError for a dtype that Arrow doesn't have."""
    body: list[tuple[int, int]] = []
    nodes: list[tuple[int, int]] = []
    places: dict[str, tuple[int, str, tuple[int, ...]]] = {}
    end = 0

    def buffer(name: str, dtype: str, shape: tuple[int, ...]) -> None:
        nonlocal end
        length = np.dtype(dtype).itemsize * prod(shape)
        places[name] = (end, dtype, shape)
        body.append((end, length))
        end += length + -length % ALIGNMENT

    for column in columns:
        if column.dtype not in DTYPES:
            raise IntegrityError(f"Arrow has no {column.dtype}", where=column.name)
        nodes.append((rows, 0))
        body.append((end, 0))
        count = rows
        if column.total is not None:
            buffer(f"{column.name}/offsets", "int64", (rows + 1,))
            count = column.total
            nodes.append((count, 0))
            body.append((end, 0))
        if column.shape:
            nodes.append((count * prod(column.shape), 0))
            body.append((end, 0))
        buffer(column.name, column.dtype, (count, *column.shape))
    schema = Table({1: [_field(column) for column in columns]})
    batch = Table({0: Scalar("q", rows), 1: Structs(nodes), 2: Structs(body)})
    first = MAGIC + b"\0\0" + _message(_SCHEMA, schema, 0, 8)
    second = _message(_BATCH, batch, end, len(first))
    block = (len(first), len(second), end)
    footer = flatbuffer(Table({0: Scalar("h", _V5), 1: schema, 2: Structs([]), 3: Structs([block])}))
    tail = struct.pack("<Ii", 0xFFFFFFFF, 0) + footer + struct.pack("<i", len(footer)) + MAGIC
    head = first + second
    shifted = {name: (len(head) + start, dtype, shape) for name, (start, dtype, shape) in places.items()}
    return Plan(head, tail, len(head) + end + len(tail), shifted)


def create(path: Path, planned: Plan) -> None:
    """A new file of the planned size, its columns zero. Raises OSError."""
    with open(path, "xb") as file:
        file.write(planned.head)
        file.truncate(planned.size)
        file.seek(planned.size - len(planned.tail))
        file.write(planned.tail)


def mapped(path: Path, planned: Plan, mode: Literal["r+", "c"] = "c") -> dict[str, NDArray[Any]]:
    """The columns of a planned file, mapped: `c` reads, and keeps what is changed to itself; `r+` writes.

    Raises IntegrityError where the file is another than planned.
    """
    with open(path, "rb") as file:
        head = file.read(len(planned.head))
        file.seek(0, 2)
        size = file.tell()
    if head != planned.head or size != planned.size:
        raise IntegrityError("it is not laid out as its description says", where=str(path))
    return {
        name: np.memmap(path, dtype, mode, start, shape) if prod(shape) else np.empty(shape, dtype)
        for name, (start, dtype, shape) in planned.places.items()
    }


def _message(kind: int, header: Table, body: int, before: int) -> bytes:
    """An encapsulated message, padded so that what follows it is aligned."""
    raw = flatbuffer(Table({0: Scalar("h", _V5), 1: Scalar("B", kind), 2: header, 3: Scalar("q", body)}))
    raw += bytes(-(before + 8 + len(raw)) % ALIGNMENT)
    return struct.pack("<Ii", 0xFFFFFFFF, len(raw)) + raw


def _field(column: Column) -> Table:
    kind, described = DTYPES[column.dtype]
    if column.shape:
        inner = _named("item", kind, described)
        kind, described = _FIXED_LIST, Table({0: Scalar("i", prod(column.shape))})
        field = _named("item" if column.total is not None else column.name, kind, described, [inner])
    else:
        field = _named("item" if column.total is not None else column.name, kind, described)
    return field if column.total is None else _named(column.name, _LARGE_LIST, Table({}), [field])


def _named(name: str, kind: int, described: Table, children: Sequence[Table] = ()) -> Table:
    return Table({0: name, 2: Scalar("B", kind), 3: described, 5: list(children)})
