"""JSON from strangers: bounded in size, depth and numbers; no duplicate keys, no NaN."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from reinforge.errors import IntegrityError
from reinforge.storage.files import read_limited

Json = Any  # None, bool, int, float, str, list or dict of these: nothing narrower is expressible without recursion

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_DIGITS = 400
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def parse(content: bytes | str, where: str, *, limit: int = MAX_BYTES, depth: int = MAX_DEPTH) -> Json:
    """Parse one JSON document. Raises IntegrityError that says what is malformed or beyond a limit."""
    if len(content) > limit:
        raise IntegrityError(f"the JSON has {len(content):,} bytes, and {limit:,} are allowed", where=where)
    try:
        text = content.decode() if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise IntegrityError(f"it is not UTF-8 (byte {error.start})", where=where) from None
    _check_depth(text, depth, where)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float
        )
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise IntegrityError("it contains half of a surrogate pair", where=where) from None
    except ValueError as error:
        raise IntegrityError(f"it is not valid JSON: {error}", where=where) from None
    return value


def read(path: Path, *, limit: int = MAX_BYTES, depth: int = MAX_DEPTH) -> Json:
    """Parse a JSON file. Raises IntegrityError or StorageError."""
    return parse(read_limited(path, limit), str(path), limit=limit, depth=depth)


def canonical(value: Json) -> bytes:
    """The one spelling of a JSON value, for digests: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def compact(value: Json) -> bytes:
    """A JSON value for machines, in the order of its keys."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def pretty(value: Json) -> str:
    """A JSON value for people, with a newline at the end."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _check_depth(text: str, limit: int, where: str) -> None:
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > limit:
                raise IntegrityError(f"the JSON is nested deeper than {limit} levels", where=where)
        elif token in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return value


def _constant(text: str) -> Json:
    raise ValueError(f"{text} is no JSON number")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, and {MAX_DIGITS} are allowed")
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, and {MAX_DIGITS} are allowed")
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value
