"""How far a verb is: told by the verbs, shown by whoever called them."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears of progress; the commands show it on a terminal, Python callers may pass their own."""

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """`done` of `total` (None: nobody knows) of what `note` says; cheap enough to be called at every update."""
        ...


class Silent:
    """Shows nothing."""

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """Do nothing."""
