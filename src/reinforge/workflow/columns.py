"""Text in columns, as a terminal shows it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Columns that a text takes on a terminal (Unicode's East Asian width, UAX 11)."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def aligned(rows: Sequence[Sequence[str]], indent: str = "    ") -> list[str]:
    """Rows as aligned columns, one line each; indented by four, they stay aligned in Markdown too."""
    count = max(map(len, rows), default=0)
    widths = [max((width(row[column]) for row in rows if column < len(row)), default=0) for column in range(count)]
    return [
        (indent + "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths))).rstrip()
        for row in rows
    ]
