"""Charts as inline SVG: transparent, in the page's colours, with text as text in whatever script the browser has.

Drawn here rather than by matplotlib, whose import takes longer than writing the page, and whose pages are ten times as
large. Everything that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

# Units of the picture; the page scales it. Text stays readable on a telephone.
WIDTH, HEIGHT = 420, 240
COLOURS = 6
_FONT = 11.5
_GAP = 7
# Widths of characters, about: those of Chinese are as wide as they are high.
_NARROW, _WIDE = 0.56, 1.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Point = tuple[float, float]


def colour(index: int) -> str:
    """The page's colour of a series."""
    return f"var(--series-{index % COLOURS + 1})"


def ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, at most so many; `whole`: no fractions."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    found = [first * step]
    while found[-1] + step <= high + step * 1e-9:
        found.append((first + len(found)) * step)
    return found


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`, at most six; with their twofold and fivefold where there are few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    found: list[float] = []
    for step in range(max(1, math.ceil((last - first) / 5)), 0, -1):
        powers = [10.0**p for p in range(first, last + 1, step)]
        found = [p for p in powers if low <= p * (1 + 1e-9) and p <= high * (1 + 1e-9)]
        if len(found) >= 3:
            break
    if len(found) < 3:
        every = (m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5))
        found = [value for value in every if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]
    return found


def shown(value: float) -> str:
    """A number on an axis: 0.25, 500, 20k, 1.5M, 1e-05."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if sign == 'k' else size):.4g}{sign}"
    return f"{value:.4g}" if value else "0"


class Plot:
    """One pair of axes. Marks are drawn in the order in which they are added; `render` gives the element.

    `x` and `y`: from where to where; `x_name` and `y_name` stand at the axes, with their units. `square` keeps both
    axes equally long. `names` replaces the numbers of an axis by texts, at 0, 1, 2, ...
    """

    def __init__(
        self,
        x: Point,
        y: Point,
        *,
        x_name: str = "",
        y_name: str = "",
        x_log: bool = False,
        y_log: bool = False,
        x_whole: bool = False,
        y_names: Sequence[str] = (),
        square: bool = False,
        height: int = HEIGHT,
        format_x: Callable[[float], str] = shown,
        format_y: Callable[[float], str] = shown,
    ) -> None:
        self._x, self._y, self._logs = _widened(x, x_log), _widened(y, y_log), (x_log, y_log)
        self._marks: list[str] = []
        self._top = 8 + (_FONT + _GAP if y_name else 0)
        self._bottom = height - (_FONT + _GAP + 3) - (_FONT + 5 if x_name else 0)
        self._x_ticks = decades(*self._x) if x_log else ticks(*self._x, most=6, whole=x_whole)
        self._y_ticks = decades(*self._y) if y_log else ticks(*self._y, most=max(2, height // 45))
        labels = list(y_names) or [format_y(value) for value in self._y_ticks]
        self._left = max(wide(label) for label in labels) + _GAP + 4 if labels else _GAP
        self._right = WIDTH - max(10.0, wide(format_x(self._x_ticks[-1])) / 2 + 2)
        if square:
            side = min(self._right - self._left, self._bottom - self._top)
            spare = (self._right - self._left - side) / 2
            self._left, self._right = self._left + spare, self._right - spare
        self._height, self._names = height, (x_name, y_name)
        self._formats, self._y_names = (format_x, format_y), y_names

    def line(self, points: Iterable[Point], index: int = 0, *, width: float = 1.8, opacity: float = 1.0) -> None:
        """A curve; it is broken where a point is not finite."""
        path, pen = [], "M"
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            path.append(f"{pen}{self._at_x(x):.1f} {self._at_y(y):.1f}")
            pen = "L"
        if path:
            seen = f' opacity="{opacity:g}"' if opacity < 1 else ""
            self._marks.append(
                f'<path d="{"".join(path)}" fill="none" stroke="{colour(index)}" stroke-width="{width:g}"{seen} '
                'stroke-linejoin="round" stroke-linecap="round"/>'
            )

    def band(self, points: Sequence[tuple[float, float, float]], index: int = 0) -> None:
        """The area between (x, low, high)."""
        there = [p for p in points if all(math.isfinite(value) for value in p)]
        if len(there) > 1:
            upper = [f"{self._at_x(x):.1f} {self._at_y(high):.1f}" for x, _low, high in there]
            lower = [f"{self._at_x(x):.1f} {self._at_y(low):.1f}" for x, low, _high in reversed(there)]
            self._marks.append(
                f'<path d="M{"L".join([*upper, *lower])}Z" fill="{colour(index)}" opacity="0.16" stroke="none"/>'
            )

    def dots(
        self, points: Iterable[Point], index: int = 0, *, radius: float = 2.6, opacity: float = 1.0,
        titles: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Points; a title is shown where a mouse rests."""
        for place, (x, y) in enumerate(points):
            if math.isfinite(x) and math.isfinite(y):
                title = f"<title>{escape(titles[place])}</title>" if place < len(titles) else ""
                self._marks.append(
                    f'<circle cx="{self._at_x(x):.1f}" cy="{self._at_y(y):.1f}" r="{radius:g}" '
                    f'fill="{colour(index)}" opacity="{opacity:g}">{title}</circle>'
                )

    def bars(self, bars: Iterable[tuple[float, float, float]], index: int = 0, *, opacity: float = 0.85) -> None:
        """Upright bars (from, to, height) that stand on the lower end of the axis."""
        ground = self._at_y(self._y[0])
        for low, high, value in bars:
            left, right, top = self._at_x(low), self._at_x(high), self._at_y(value)
            self._marks.append(
                f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
                f'height="{max(ground - top, 0):.1f}" fill="{colour(index)}" opacity="{opacity:g}">'
                f"<title>{escape(self._formats[1](value))}</title></rect>"
            )

    def interval(self, y: float, low: float, middle: float, high: float, index: int = 0) -> None:
        """A value with its interval, lying."""
        row = self._at_y(y)
        ends = self._at_x(max(low, self._x[0])), self._at_x(min(high, self._x[1]))
        self._marks.append(
            f'<path d="M{ends[0]:.1f} {row:.1f}H{ends[1]:.1f}" stroke="{colour(index)}" stroke-width="2.2" '
            f'stroke-linecap="round"/><circle cx="{self._at_x(middle):.1f}" cy="{row:.1f}" r="4.6" '
            f'fill="{colour(index)}"><title>{middle:.4g} ({low:.4g} – {high:.4g})</title></circle>'
        )

    def dashed(self, first: Point, second: Point) -> None:
        """A line to compare with."""
        self._marks.append(
            f'<path d="M{self._at_x(first[0]):.1f} {self._at_y(first[1]):.1f}L{self._at_x(second[0]):.1f} '
            f'{self._at_y(second[1]):.1f}" stroke="var(--line-strong)" stroke-width="1.2" stroke-dasharray="4 4" '
            'fill="none"/>'
        )

    def render(self) -> str:
        """The element; it fills the width that the page gives it."""
        grid, ground = [], self._bottom
        for place, value in enumerate(self._y_ticks if not self._y_names else range(len(self._y_names))):
            y = self._at_y(value)
            text = self._y_names[place] if self._y_names else self._formats[1](value)
            if not self._y_names:
                grid.append(f'<path d="M{self._left:.1f} {y:.1f}H{self._right:.1f}" stroke="var(--line)"/>')
            grid.append(_text(self._left - _GAP, y + _FONT * 0.35, text, "end"))
        for value in self._x_ticks:
            x = self._at_x(value)
            grid.append(f'<path d="M{x:.1f} {ground:.1f}v4" stroke="var(--line-strong)"/>')
            grid.append(_text(x, ground + _FONT + _GAP, self._formats[0](value), "middle"))
        grid.append(f'<path d="M{self._left:.1f} {ground:.1f}H{self._right:.1f}" stroke="var(--line-strong)"/>')
        x_name, y_name = self._names
        if x_name:
            grid.append(_text((self._left + self._right) / 2, self._height - 4, x_name, "middle"))
        if y_name:
            left = min(self._left, max(0.0, self._left - _GAP))
            grid.append(_text(0 if left < 60 else left, _FONT + 1, y_name, "start"))
        return (
            f'<svg role="presentation" viewBox="0 0 {WIDTH} {self._height}" font-size="{_FONT}">'
            f"{''.join(grid)}{''.join(self._marks)}</svg>"
        )

    def _at_x(self, value: float) -> float:
        return self._left + _part(value, self._x, self._logs[0]) * (self._right - self._left)

    def _at_y(self, value: float) -> float:
        return self._bottom - _part(value, self._y, self._logs[1]) * (self._bottom - self._top)


def wide(text: str) -> float:
    """About how wide a text is drawn."""
    return sum(_WIDE if ord(sign) > 0x2E7F else _NARROW for sign in text) * _FONT


def cut(text: str, most: int = 22) -> str:
    """A text short enough for an axis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--ink-soft)">{escape(text)}</text>'


def _part(value: float, ends: Point, logarithmic: bool) -> float:
    if logarithmic:
        value, ends = math.log10(max(value, ends[0] / 10)), (math.log10(ends[0]), math.log10(ends[1]))
    return (value - ends[0]) / (ends[1] - ends[0])


def _widened(ends: Point, logarithmic: bool) -> Point:
    low, high = ends
    if high > low:
        return low, high
    if logarithmic:
        return low / 2, low * 2
    if low in (0, 1):  # ends of what a part can be: nothing lies beyond
        return (0.0, 1.0) if low == 0 else (0.9, 1.0)
    room = abs(low) / 10
    return low - room, low + room
