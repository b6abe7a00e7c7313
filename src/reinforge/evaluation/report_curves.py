"""Curves of a report: which there are in the logged rows, and their drawing as SVG that follows the page's colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reinforge.evaluation.diagnosis import WARNING
from reinforge.evaluation.report_names import title
from reinforge.evaluation.svg import Plot
from reinforge.messages import _

Row = Mapping[str, Any]
Points = tuple[tuple[float, float], ...]

CLOCK = ("updates", "samples", "tokens", "steps", "experiences", "epochs", "seconds")
EVALUATION, TRAINING = "evaluation/", "training/"
# What is measured of completions beside the objective's terms.
REWARDED = ("reward", "flat", "truncated", "clipped", "mismatch", "length")
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
    def moves(self) -> bool:
        """Whether some curve has two points: one alone is no course, and is told among the numbers."""
        return any(len(curve.points) > 1 for curve in self.curves)

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
    names = list(dict.fromkeys(name for row in rows if WARNING not in row for name in row if name not in CLOCK))
    found: dict[str, Curve] = {name: Curve(_label(name), _points(rows, name, axis)) for name in names}
    known = {name: curve for name, curve in found.items() if curve.points}
    result: list[Chart] = []

    def add(title: str, chosen: Sequence[str], **more: Any) -> None:
        curves = tuple(known[name] for name in chosen if name in known)
        if curves:
            result.append(Chart(title, curves, axis, **more))

    _add_episodes(rows, axis, known, add)
    rewarded = _add_rewards(rows, axis, known, add)
    held_out = replace(known[EVALUATION + "loss"], name=_("held out")) if EVALUATION + "loss" in known else None
    if "loss" in known:
        known["loss"] = replace(known["loss"], name=_("training"))
    if held_out:
        known[EVALUATION + "loss"] = held_out
    add(_("Loss"), ["loss", EVALUATION + "loss"], wide=True)
    covered = ["loss", "return", "return_min", "return_max", "return_std", "return_iqm", "length", "episodes"]
    covered += rewarded
    covered += ["log-loss"] if held_out and _same(known.get(EVALUATION + "log-loss"), held_out) else []
    for name in known:
        if name.startswith(EVALUATION) and name.removeprefix(EVALUATION) not in covered:
            # What was played was held out from nothing.
            unit = "" if EVALUATION + "return" in known else _("held out")
            add(_label(name), [name], unit=unit, wide=name.endswith("loss"))
    for name in [name for name in known if name.endswith("/explained")]:
        # One line far below would hide all others.
        known[name] = replace(known[name], points=tuple((x, max(y, -1.0)) for x, y in known[name].points))
    for told, ending, unit in (
        (_("Q-values"), "/q", _("mean of what it expects")), (_("Entropy of the policy"), "/entropy", _("nats")),
        (_("Distance from the policy that acted"), "/kl", _("KL divergence, nats")),
        (_("Variance of returns explained by the values"), "/explained", _("cut off below -1")),
    ):  # fmt: skip
        add(told, [name for name in known if name.endswith(ending) and not name.startswith(EVALUATION)], unit=unit)
    steps = _terms(known, REWARDED if rewarded else ())
    for step, terms in steps.items():
        # A single term of a single step is the loss itself.
        if len(steps) > 1 or len(terms) > 1:
            title = terms[0].replace("/", ": ") if len(terms) == 1 else _("Terms of {step}").format(step=step)
            add(title, terms, wide=True)
    add(_("Random actions"), [TRAINING + "epsilon"], group="running", unit=_("part of all"))
    add(
        _("Shift of observations"), [TRAINING + "shift"], group="running",
        unit=_("of the latest from all before, in deviations"),
    )  # fmt: skip
    add(_("Length of the gradient"), [n for n in known if n.endswith("/grad_norm")], group="running", wide=True)
    add(_("Learning rate"), [n for n in known if n.endswith("/lr")], group="running")
    add(_("Speed"), ["updates_per_second"], group="running", unit=_("updates per second"))
    # How it ran is worth drawing where something changes: a rate that never does is told among the facts.
    return [chart for chart in result if (chart.moves if chart.group == "learning" else chart.changes)]


def _add_episodes(rows: Sequence[Row], axis: str, known: dict[str, Curve], add: Callable[..., None]) -> None:
    """Returns and lengths of episodes, of evaluations and while training."""
    bands = {EVALUATION: ("return_min", "return_max"), TRAINING: ("return_low", "return_high")}
    names = {EVALUATION: _("evaluation"), TRAINING: _("while training, the latest 100")}
    both = []
    for side, (low, high) in bands.items():
        if side + "return" in known:
            band = _band(rows, axis, side + low, side + high)
            known[side + "return"] = replace(known[side + "return"], name=names[side], band=band)
            both.append(side + "return")
        if side + "length" in known:
            known[side + "length"] = replace(known[side + "length"], name=names[side])
    unit = _("mean, and from least to greatest") if both == [EVALUATION + "return"] else ""
    if len(both) == 2:
        unit = _("bands: from least to greatest, and the middle half")
    add(_("Return of an episode"), both, unit=unit)
    returns, lengths = (known.get(EVALUATION + name) for name in ("return", "length"))
    if returns is None or lengths is None or not _same(returns, lengths):
        add(_("Length of an episode"), [side + "length" for side in bands], unit=_("steps"))


def _add_rewards(rows: Sequence[Row], axis: str, known: dict[str, Curve], add: Callable[..., None]) -> list[str]:
    """Rewards of completions, while training and of held-out questions, and what tells whether they teach anything.
    Returns which evaluations are drawn with that."""
    step = next(
        (name.removesuffix("reward") for name in known if _of_training(name) and name.endswith("/reward")), None
    )
    if step is None:
        return []
    names = {step: _("while training, drawn at random"), EVALUATION: _("held out, the likeliest")}
    for side, called in names.items():
        for name in ("reward", "length", "tokens", "truncated"):
            if side + name in known:
                known[side + name] = replace(known[side + name], name=called)
    if EVALUATION + "accuracy" in known:
        band = _band(rows, axis, EVALUATION + "low", EVALUATION + "high")
        known[EVALUATION + "accuracy"] = replace(known[EVALUATION + "accuracy"], band=band)
    add(_("Reward"), [side + "reward" for side in names], unit=_("mean of completions"))
    add(_("Accuracy"), [EVALUATION + "accuracy"], unit=_("held out, with its 95% interval"))
    add(_("Length of a completion"), [step + "length", EVALUATION + "tokens"], unit=_("tokens"))
    add(_("Groups of equal rewards, which teach nothing"), [step + "flat"], unit=_("part of completions"))
    apart = [side + "truncated" for side in names]
    add(_("Cut off before their end"), apart, group="running", unit=_("part of completions"))
    add(_("Held back by the clipping of ratios"), [step + "clipped"], group="running", unit=_("part of tokens"))
    add(_("Sampler away from the model"), [step + "mismatch"], group="running", unit=_("nats"), wide=True)
    return ["reward", "accuracy", "low", "high", "tokens", "truncated"]


def _of_training(name: str) -> bool:
    return not name.startswith((EVALUATION, TRAINING))


def draw(chart: Chart) -> str:
    """The chart as an SVG element: transparent, with colours as the page's variables and text as text."""
    points = [point for curve in chart.curves for point in curve.points if math.isfinite(point[1])]
    values = [y for _, y in points] + [y for curve in chart.curves for _, *ends in curve.band for y in ends]
    low, high = min(values), max(values)
    room = 0.0 if chart.logarithmic else 0.04 * (high - low)
    # A course that begins near nothing begins at nothing: its height is then its size.
    bottom = 0.0 if 0 <= low <= 0.35 * high and not chart.logarithmic else low - room
    plot = Plot(
        (0, max(x for x, _ in points)), (bottom, high + room), y_log=chart.logarithmic, x_whole=True,
        x_name=_("updates") if chart.axis == "updates" else _("environment steps"),
    )  # fmt: skip
    for index, curve in enumerate(chart.curves):
        plot.band(curve.band, index)
        many = len(curve.points) > MANY
        plot.line(curve.points, index, width=0.8 if many else 1.8, opacity=0.4 if many else 1)
        if sum(math.isfinite(y) for _, y in curve.points) < 40:
            plot.dots(curve.points, index, titles=[f"{x:g}: {y:.4g}" for x, y in curve.points])
        if many:
            means = _moving_mean([y for _, y in curve.points])
            plot.line([(x, mean) for (x, _), mean in zip(curve.points, means)], index)
    return plot.render()


def summary(chart: Chart) -> str:
    """The chart in words: where each curve begins and ends."""
    parts = []
    for curve in chart.curves:
        values = [y for _, y in curve.points if math.isfinite(y)]
        text = _("{name}: from {first} to {last}")
        parts.append(text.format(name=curve.name, first=f"{values[0]:.4g}", last=f"{values[-1]:.4g}"))
    return f"{chart.title}. {'; '.join(parts)}."


def _label(name: str) -> str:
    """What a logged name is called: a metric with a capital, a term or a step by its own name."""
    if name.startswith(EVALUATION):
        return title(name.removeprefix(EVALUATION))
    if name.endswith(("/grad_norm", "/lr")):
        return name.rpartition("/")[0]
    return name.rpartition("/")[2].replace("_", " ")


def _terms(known: Mapping[str, Curve], also: Sequence[str]) -> dict[str, list[str]]:
    steps: dict[str, list[str]] = {}
    for name in known:
        step, slash, term = name.partition("/")
        apart = ("grad_norm", "lr", "q", "entropy", "kl", "explained", *also)
        if slash and _of_training(name) and term not in apart:
            steps.setdefault(step, []).append(name)
    return steps


def _same(first: Curve | None, second: Curve) -> bool:
    """Whether one is the other: a log loss that nothing was added to is the loss."""
    if first is None or len(first.points) != len(second.points):
        return False
    return all(math.isclose(a[1], b[1], rel_tol=1e-3) for a, b in zip(first.points, second.points))


def _points(rows: Sequence[Row], name: str, axis: str) -> Points:
    points = [(_number(row.get(axis, 0)), _number(row[name])) for row in rows if name in row]
    if not any(math.isfinite(y) for _, y in points):
        return ()
    return tuple(_thinned(points))


def _band(rows: Sequence[Row], axis: str, low: str, high: str) -> tuple[tuple[float, float, float], ...]:
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
