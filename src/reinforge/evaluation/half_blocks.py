"""Pictures as text: half blocks in 24-bit colours, as most terminals have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Frame = np.ndarray[Any, Any]


def blocks(frame: Frame, columns: int, rows: int) -> list[str]:
    """A picture (height, width, 3) in lines of at most so many columns and rows: a character is two pixels, one above
    the other. Only changes of colour are written."""
    height, width = frame.shape[:2]
    scale = min(columns / width, 2 * rows / height)
    wide, high = max(1, int(width * scale)), max(2, int(height * scale) // 2 * 2)
    small = _resized(frame, high, wide)
    lines = []
    for top, bottom in zip(small[::2].tolist(), small[1::2].tolist()):
        line, last = [], None
        for upper, lower in zip(top, bottom):
            if (upper, lower) != last:
                line.append("\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*upper, *lower))
                last = (upper, lower)
            line.append("▀")
        lines.append("".join(line) + "\x1b[0m")
    return lines


def _resized(frame: Frame, height: int, width: int) -> Frame:
    picture = Image.fromarray(np.ascontiguousarray(frame[..., :3]))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))
