"""Frames of an episode in the terminal: texts as they are, pictures as half blocks in 24-bit colours."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

_HOME, _CLEAR, _REST, _HIDE, _SHOW = "\x1b[H", "\x1b[2J", "\x1b[J", "\x1b[?25l", "\x1b[?25h"
# Rows below the picture: the status, and one that stays free so that nothing scrolls.
_BELOW = 2


class Screen:
    """Draws each frame over the one before, with a line of status below."""

    def __init__(self, *, file: TextIO | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._file, self._sleep = file or sys.stdout, sleep
        self._due, self._begun = 0.0, False

    def draw(self, picture: Any, status: str, rate: float) -> None:
        """Show a picture or a text, and wait until the next one is due, of so many in a second."""
        columns, rows = shutil.get_terminal_size()
        if not isinstance(picture, str):
            from reinforge.evaluation.half_blocks import blocks

            lines = blocks(picture, columns, max(1, rows - _BELOW))
        else:
            lines = picture.rstrip("\n").splitlines()[: max(1, rows - _BELOW)]
        begin = "" if self._begun else _HIDE + _CLEAR
        self._begun = True
        text = "".join(f"{line}\x1b[K\n" for line in lines)
        self._file.write(f"{begin}{_HOME}{text}{status[: columns - 1]}\x1b[K{_REST}")
        self._file.flush()
        now = time.monotonic()
        self._due = max(self._due + 1 / rate, now)
        self._sleep(self._due - now)

    def close(self) -> None:
        """Give the cursor back."""
        if self._begun:
            self._file.write(f"\n{_SHOW}")
            self._file.flush()
