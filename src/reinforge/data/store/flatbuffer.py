"""The few pieces of FlatBuffers that Arrow's metadata needs, written front to back.

Source: the FlatBuffers internals document (tables with a vtable before them, offsets that count forward from where they
stand, everything aligned to its own size, little-endian).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SIZES = {"B": 1, "h": 2, "i": 4, "q": 8}


@dataclass(frozen=True)
class Scalar:
    """A number in a table, by its `struct` format: B, h, i or q."""

    format: str
    value: int


@dataclass(frozen=True)
class Structs:
    """A vector of structs that are 8-byte numbers: rows of equal length."""

    rows: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Table:
    """A table: what stands in each slot."""

    slots: Mapping[int, Value]


Value = Scalar | Structs | Table | str | Sequence["Table"]


def flatbuffer(root: Table) -> bytes:
    """A whole buffer, padded to 8 bytes."""
    out = bytearray(8)
    struct.pack_into("<I", out, 0, _table(out, root))
    return bytes(_pad(out, 8))


def _pad(out: bytearray, to: int, offset: int = 0) -> bytearray:
    out += bytes(-(len(out) + offset) % to)
    return out


def _table(out: bytearray, table: Table) -> int:
    """Append a table and what it refers to; returns where it stands."""
    fields = dict(table.slots)
    count = max(fields, default=-1) + 1
    # Largest first after the 4 bytes of the vtable's offset, the table itself at a multiple of 8.
    places: dict[int, int] = {}
    size = 4
    for slot, value in sorted(fields.items(), key=lambda item: -_width(item[1])):
        size += -size % _width(value)
        places[slot] = size
        size += _width(value)
    _pad(out, 2)
    vtable = struct.pack(f"<{2 + count}H", 4 + 2 * count, size, *(places.get(slot, 0) for slot in range(count)))
    _pad(out, 8, len(vtable))
    out += vtable
    start = len(out)
    out += bytes(size)
    struct.pack_into("<i", out, start, len(vtable))
    for slot, value in fields.items():
        at = start + places[slot]
        if isinstance(value, Scalar):
            struct.pack_into(f"<{value.format}", out, at, value.value)
        else:
            target = _reference(out, value)
            struct.pack_into("<I", out, at, target - at)
    return start


def _width(value: Value) -> int:
    return _SIZES[value.format] if isinstance(value, Scalar) else 4


def _reference(out: bytearray, value: Structs | Table | str | Sequence[Table]) -> int:
    if isinstance(value, Table):
        return _table(out, value)
    if isinstance(value, str):
        raw = value.encode()
        _pad(out, 4)
        start = len(out)
        out += struct.pack("<I", len(raw)) + raw + b"\0"
        return start
    if isinstance(value, Structs):
        _pad(out, 8, 4)
        start = len(out)
        out += struct.pack("<I", len(value.rows))
        for row in value.rows:
            out += struct.pack(f"<{len(row)}q", *row)
        return start
    _pad(out, 4)
    start = len(out)
    out += struct.pack("<I", len(value)) + bytes(4 * len(value))
    for index, table in enumerate(value):
        at = start + 4 + 4 * index
        target = _table(out, table)
        struct.pack_into("<I", out, at, target - at)
    return start
