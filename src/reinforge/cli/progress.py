"""Progress on a terminal: rate and remaining time, once something takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reinforge.cli.output import speaks
from reinforge.workflow.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE_SECONDS = 2.0
# Between two looks at the terminal: faster than the eye, slower than any update.
_PAUSE_SECONDS = 0.1


class Terminal:
    """Draws one line on standard error. Until two seconds have passed it only looks at the clock."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._next = self._begun + PATIENCE_SECONDS
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._note: str | None = None

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """Show `done` of `total`; another `note` begins another line's worth of work."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PAUSE_SECONDS
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
        if self._task is None:
            self._task = self._bar.add_task(note, total=total)
        self._bar.update(self._task, completed=done, total=total, description=note)

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress for the length of a verb: on a terminal shown, elsewhere silent."""
    if not speaks() or not sys.stderr.isatty():
        yield Silent()
        return
    terminal = Terminal()
    try:
        yield terminal
    finally:
        terminal.close()


def _bar() -> Bar:
    # Rich is imported only once there is something to draw.
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Share(ProgressColumn):
        """How much of all, where somebody knows that."""

        def render(self, task: Task) -> Text:
            return Text("" if task.total is None else f"{task.percentage:>3.0f}%")

    class Rate(ProgressColumn):
        """Units done in a second. A training counts no units here but its own share: its note tells the rate."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.4g}/s" if task.speed and task.total != 1 else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        Share(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5)
