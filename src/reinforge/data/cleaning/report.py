"""What cleaning changed, for notes and for the data card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reinforge.messages import _, mark

POLICIES = {
    "spaces": mark("stray white space is trimmed"),
    "spelling": mark("labels spelt in several ways are merged"),
    "spellings": mark("labels that differ only in case, width or white space"),
    "noise": mark("impossible values"),
    "images": mark("images that can't be read"),
    "sparse": mark("rows with too little in them"),
    "duplicates": mark("duplicate rows"),
    "near": mark("nearly equal rows"),
    "conflicts": mark("equal inputs with different targets"),
    "outliers": mark("outliers among the training rows"),
    "together": mark("rows with equal inputs stay on one side of the split"),
    "apart": mark("training rows left out, because a later side holds a copy"),
}


@dataclass(frozen=True)
class Change:
    """What one policy did: how many cells it mended, how many rows it left out, and how many it only found."""

    policy: str
    column: str | None = None
    found: int = 0
    cells: int = 0
    dropped: int = 0
    detail: str = ""

    def text(self) -> str:
        """A line for people."""
        parts = [
            _("{n:,} found").format(n=self.found) if self.found else "",
            _("{n:,} values changed").format(n=self.cells) if self.cells else "",
            _("{n:,} rows left out").format(n=self.dropped) if self.dropped else "",
        ]
        where = f" ({self.column!r})" if self.column else ""
        told = ", ".join(part for part in parts if part)
        return f"{_(POLICIES[self.policy])}{where}: {told}" + (f"; {self.detail}" if self.detail else "")

    def summary(self) -> dict[str, Any]:
        """As JSON can say it, without what is empty."""
        return {key: value for key, value in asdict(self).items() if value}
