"""Curves of a report: which there are in the logged rows, and their drawing as SVG that follows the page's colours."""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reinforge.messages import _

Row = Mapping[str, Any]
Points = tuple[tuple[float, float], ...]

CLOCK = ("updates", "samples", "tokens", "steps", "experiences", "epochs", "seconds")
EVALUATION = "evaluation/"
# Metrics that people don't write like words.
ABBREVIATED = {"mae": "MAE", "rmse": "RMSE", "r2": "R²"}
COLOURS = 6
# More points than a screen has pixels only make the page heavy.
MOST_POINTS = 1200
# From here on a curve is drawn thin, with its moving mean.
MANY = 150
# From here on a linear axis hides most of a curve.
WIDE = 100.0


@dataclass(frozen=True)
class Curve:
    """One quantity over the axis; `band` holds (x, low, high) of what it is the middle of."""

    name: str
    points: Points
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Chart:
    """Curves of one unit over one axis, in updates or environment steps. `group`: what it tells about; `wide`: it may
    span decades."""

    title: str
    curves: tuple[Curve, ...]
    axis: Literal["updates", "steps"]
    group: Literal["learning", "running"] = "learning"
    unit: str = ""
    wide: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether it may span decades, and does so: all values are positive, the largest far above the smallest."""
        values = [y for curve in self.curves for _, y in curve.points if math.isfinite(y)]
        return self.wide and min(values) > 0 and max(values) / min(values) > WIDE

    @property
    def changes(self) -> bool:
        """Whether some curve has two values."""
        return any(len({y for _, y in curve.points if math.isfinite(y)}) > 1 for curve in self.curves)

    @property
    def noisy(self) -> bool:
        """Whether some curve has so many points that its course is better seen in a moving mean."""
        return any(len(curve.points) > MANY for curve in self.curves)


def charts(rows: Iterable[Row]) -> list[Chart]:
    """The charts of a run's log, what was learned first. Values that are no finite numbers leave gaps."""
    rows = list(rows)
    axis: Literal["updates", "steps"] = "steps" if any("steps" in row for row in rows) else "updates"
    names = list(dict.fromkeys(name for row in rows for name in row if name not in CLOCK))
    found: dict[str, Curve] = {name: Curve(_label(name), _points(rows, name, axis)) for name in names}
    known = {name: curve for name, curve in found.items() if curve.points}
    result: list[Chart] = []

    def add(title: str, chosen: Sequence[str], **more: Any) -> None:
        curves = tuple(known[name] for name in chosen if name in known)
        if curves:
            result.append(Chart(title, curves, axis, **more))

    if EVALUATION + "return" in known:
        known[EVALUATION + "return"] = replace(known[EVALUATION + "return"], band=_band(rows, axis))
        add(_("Return of an episode"), [EVALUATION + "return"], unit=_("mean, and from least to greatest"))
    held_out = replace(known[EVALUATION + "loss"], name=_("held out")) if EVALUATION + "loss" in known else None
    if "loss" in known:
        known["loss"] = replace(known["loss"], name=_("training"))
    if held_out:
        known[EVALUATION + "loss"] = held_out
    add(_("Loss"), ["loss", EVALUATION + "loss"], wide=True)
    covered = ("loss", "return", "return_min", "return_max", "return_std", "return_iqm", "episodes")
    for name in known:
        if name.startswith(EVALUATION) and name.removeprefix(EVALUATION) not in covered:
            add(_label(name), [name], unit=_("held out"), wide=name.endswith("loss"))
    steps = _terms(known)
    for step, terms in steps.items():
        # A single term of a single step is the loss itself.
        if len(steps) > 1 or len(terms) > 1:
            title = terms[0].replace("/", ": ") if len(terms) == 1 else _("Terms of {step}").format(step=step)
            add(title, terms, wide=True)
    add(_("Length of the gradient"), [n for n in known if n.endswith("/grad_norm")], group="running", wide=True)
    add(_("Learning rate"), [n for n in known if n.endswith("/lr")], group="running")
    add(_("Speed"), ["updates_per_second"], group="running", unit=_("updates per second"))
    # How it ran is worth drawing where something changes: a rate that never does is told among the facts.
    return [chart for chart in result if chart.group == "learning" or chart.changes]


def draw(chart: Chart) -> str:
    """The chart as an SVG element: transparent, with colours as the page's variables and text as text."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": chart.title, "font.size": 9, "axes.unicode_minus": False}
    # Chinese text is set by the browser, whatever matplotlib's own font has.
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=(5.0, 2.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        for index, curve in enumerate(chart.curves):
            colour = _series(index)
            if curve.band:
                x, low, high = zip(*curve.band)
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            x, y = zip(*curve.points)
            many = len(x) > MANY
            few = sum(math.isfinite(value) for value in y) < 40
            axes.plot(x, y, color=colour, linewidth=0.7 if many else 1.6, alpha=0.45 if many else 1)
            if few:
                axes.plot(x, y, color=colour, linestyle="", marker="o", markersize=3)
            if many:
                axes.plot(x, _moving_mean(y), color=colour, linewidth=1.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_FAINT)
        axes.tick_params(colors=_FAINT, labelcolor=_INK, length=3)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(_("updates") if chart.axis == "updates" else _("environment steps"), color=_INK)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=_STEPS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: count(value)))
        if chart.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:.4g}"))
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _inline(out.getvalue())


def summary(chart: Chart) -> str:
    """The chart in words: where each curve begins and ends."""
    parts = []
    for curve in chart.curves:
        values = [y for _, y in curve.points if math.isfinite(y)]
        text = _("{name}: from {first} to {last}")
        parts.append(text.format(name=curve.name, first=f"{values[0]:.4g}", last=f"{values[-1]:.4g}"))
    return f"{chart.title}. {'; '.join(parts)}."


def count(value: float) -> str:
    """A count as an axis shows it: 500, 20k, 1.5M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if sign == 'k' else size):.4g}{sign}"
    return f"{value:.4g}"


def _label(name: str) -> str:
    """What a logged name is called: a metric with a capital, a term or a step by its own name."""
    if name.startswith(EVALUATION):
        text = name.removeprefix(EVALUATION)
        return ABBREVIATED.get(text) or (text[:1].upper() + text[1:]).replace("_", " ").replace("-", " ")
    if name.endswith(("/grad_norm", "/lr")):
        return name.rpartition("/")[0]
    return name.rpartition("/")[2].replace("_", " ")


def _terms(known: Mapping[str, Curve]) -> dict[str, list[str]]:
    steps: dict[str, list[str]] = {}
    for name in known:
        step, slash, term = name.partition("/")
        if slash and not name.startswith(EVALUATION) and term not in ("grad_norm", "lr"):
            steps.setdefault(step, []).append(name)
    return steps


def _points(rows: Sequence[Row], name: str, axis: str) -> Points:
    points = [(_number(row.get(axis, 0)), _number(row[name])) for row in rows if name in row]
    if not any(math.isfinite(y) for _, y in points):
        return ()
    return tuple(_thinned(points))


def _band(rows: Sequence[Row], axis: str) -> tuple[tuple[float, float, float], ...]:
    low, high = EVALUATION + "return_min", EVALUATION + "return_max"
    there = [row for row in rows if low in row and high in row]
    return tuple((_number(row.get(axis, 0)), _number(row[low]), _number(row[high])) for row in there)


def _number(value: object) -> float:
    """What the log writes as text ("nan", "inf") is no point of a curve."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS`: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return points
    stretch = math.ceil(len(points) / (MOST_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = [point for point in points[start : start + stretch] if math.isfinite(point[1])]
        if part:
            ends = (min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1]))
            kept += sorted(set(ends))
    return kept


def _moving_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, a twentieth of all on either side; without what isn't finite."""
    reach = max(1, len(values) // 20)
    finite = [0.0 if math.isnan(value) else value for value in values]
    sums = list(itertools.accumulate(finite, initial=0.0))
    counts = list(itertools.accumulate((not math.isnan(value) for value in values), initial=0))
    means = []
    for index in range(len(values)):
        start, stop = max(0, index - reach), min(len(values), index + reach + 1)
        here = counts[stop] - counts[start]
        means.append((sums[stop] - sums[start]) / here if here else math.nan)
    return means


# Ticks at round numbers.
_STEPS = [1, 2, 2.5, 5, 10]
# Colours that matplotlib writes and that then become the page's variables.
_INK, _FAINT, _GRID = "#010101", "#010102", "#010103"
_VARIABLES = {_INK: "var(--ink-soft)", _FAINT: "var(--line-strong)", _GRID: "var(--line)"}


def _series(index: int) -> str:
    return f"#01020{index % COLOURS}"


def _inline(svg: str) -> str:
    """Only the element, without what a page must not have twice: names of groups, its own font, its own size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg role="presentation"', 1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    for index in range(COLOURS):
        svg = svg.replace(_series(index), f"var(--series-{index + 1})")
    return re.sub(r"\n\s*", "\n", svg).strip()
