"""The header of a safetensors file, checked before anything is allocated.

Source: the format's specification (8 bytes of length, a JSON header, then the tensors' bytes without holes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reinforge.errors import IntegrityError
from reinforge.storage.strict_json import parse

MAX_HEADER = 16 << 20
MAX_DIMENSIONS = 32
# Bytes per element of every dtype that is accepted.
ITEM_SIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class Entry(NamedTuple):
    """One tensor: its dtype by the format's name, its shape, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(prefix: bytes, header: bytes, size: int, where: str) -> dict[str, Entry]:
    """Entries by name. `prefix`: the first 8 bytes; `header`: the bytes after it; `size`: of the whole file.

    Raises IntegrityError unless the tensors, taken in order, fill the rest of the file exactly.
    """
    start = 8 + header_length(prefix, size, where)
    value = parse(header, where, limit=MAX_HEADER, depth=4)
    if not isinstance(value, dict):
        raise IntegrityError("the header is no object", where=where)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise IntegrityError("the header's metadata are no texts", where=where)
    entries = {name: _entry(name, entry, start, where) for name, entry in value.items()}
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise IntegrityError(f"the tensor {name[:80]!r} overlaps another, or leaves a hole", where=where)
        position = entry.end
    if position != size:
        raise IntegrityError(f"the tensors end at byte {position:,}, the file at {size:,}", where=where)
    return entries


def header_length(prefix: bytes, size: int, where: str) -> int:
    """Length of the header in bytes, from the file's first 8. Raises IntegrityError where it can't be."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) != 8 or length > size - 8 or length < 2:
        raise IntegrityError("it is no safetensors file, or it is cut off", where=where)
    if length > MAX_HEADER:
        raise IntegrityError(f"the header states {length:,} bytes, and {MAX_HEADER:,} are allowed", where=where)
    return length


def build_header(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> tuple[bytes, list[str]]:
    """Prefix and header for tensors (dtype, shape) by name, and the order in which their bytes follow.

    Larger elements come first, so that every tensor lies at a multiple of its element size.
    """
    order = sorted(tensors, key=lambda name: (-ITEM_SIZE[tensors[name][0]], name))
    entries, position = {}, 0
    for name in order:
        dtype, shape = tensors[name]
        end = position + math.prod(shape) * ITEM_SIZE[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, order


def _entry(name: str, value: object, start: int, where: str) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise IntegrityError(f"the header's entry for {name[:80]!r} is malformed", where=where)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise IntegrityError(f"the tensor {name[:80]!r} has the unknown dtype {str(dtype)[:40]!r}", where=where)
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS or not _naturals(offsets) or len(offsets) != 2:
        raise IntegrityError(f"the tensor {name[:80]!r} has no proper shape or offsets", where=where)
    begin, end = offsets
    if math.prod(shape) * ITEM_SIZE[dtype] != end - begin:
        raise IntegrityError(f"the shape of the tensor {name[:80]!r} does not fit its bytes", where=where)
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)
