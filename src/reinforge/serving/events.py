"""Server-sent events."""

from __future__ import annotations

import json

from reinforge.storage.strict_json import Json


def event(value: Json) -> bytes:
    """One of them, with a value as JSON."""
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n\n"
