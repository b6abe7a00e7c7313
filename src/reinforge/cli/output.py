"""What a command says at its end: a text for people, one JSON line for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from reinforge.errors import ReinforgeError
from reinforge.messages.width import width


@dataclass(frozen=True)
class Result:
    """What a verb found. `text` is for people; without one, it is a table of the values."""

    values: Mapping[str, object]
    text: str | None = None

    @classmethod
    def of(cls, value: object) -> Result:
        """A result from what a verb returned: a mapping or a dataclass."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return cls(dataclasses.asdict(value))
        return cls(value if isinstance(value, Mapping) else {})


def speaks() -> bool:
    """Whether this process talks to the user: of several that torchrun started, the first does."""
    return os.environ.get("RANK", "0") == "0"


def show(result: Result, *, as_json: bool) -> None:
    """Print a result on standard output; the JSON line comes last."""
    text = table(_rows(result.values)) if result.text is None else result.text
    if text:
        print(text)
    if as_json:
        print(json_line(result.values))
    sys.stdout.flush()


def show_error(error: ReinforgeError, *, as_json: bool, prefix: str) -> None:
    """Print an error on standard error, and as a JSON line on standard output where that is asked for."""
    print(f"{prefix}{error}", file=sys.stderr)
    if as_json:
        told = {"type": type(error).__name__, "problem": error.problem, "where": error.where, "remedy": error.remedy}
        print(json_line({"error": {**told, "exit_status": error.exit_status}}), flush=True)


def json_line(value: object) -> str:
    """One line of JSON. Paths become text, numbers that JSON can't say become null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Two aligned columns; characters of double width count twice."""
    lines = list(rows)
    widest = max((width(left) for left, _right in lines), default=0)
    return "\n".join(f"{left}{' ' * (widest - width(left))}  {right}".rstrip() for left, right in lines)


def _rows(values: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:.6g}"
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
            # Sentences, such as notes: a line each.
            yield from ((f"{prefix}{key}" if index == 0 else "", item) for index, item in enumerate(value))
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, float) for item in value):
            yield f"{prefix}{key}", f"[{', '.join(f'{item:.6g}' for item in value)}]"
        elif value is not None:
            yield f"{prefix}{key}", str(value) if isinstance(value, (str, int, PurePath)) else json_line(value)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    # Numbers and arrays of numpy and torch, known by their method so that neither is imported here.
    listed = getattr(value, "tolist", None)
    return _plain(listed()) if callable(listed) else str(value)
