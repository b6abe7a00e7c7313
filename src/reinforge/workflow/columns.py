"""Text in columns, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Sequence

from reinforge.messages.width import width

# What would break a line, or widen a cell.
_CONTROL = str.maketrans({"\n": r"\n", "\r": r"\r", "\t": r"\t"})


def aligned(rows: Sequence[Sequence[str]], indent: str = "    ") -> list[str]:
    """Rows as aligned columns, one line each; indented by four, they stay aligned in Markdown too."""
    rows = [[cell.translate(_CONTROL) for cell in row] for row in rows]
    count = max(map(len, rows), default=0)
    widths = [max((width(row[column]) for row in rows if column < len(row)), default=0) for column in range(count)]
    return [
        (indent + "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths))).rstrip()
        for row in rows
    ]
