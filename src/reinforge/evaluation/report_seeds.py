"""A report's part on several seeds: what they say together, and their learning curves with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reinforge.evaluation.report_curves import EVALUATION, Row
from reinforge.evaluation.report_html import figure, figures, measured, number, paragraph, section, span, table
from reinforge.evaluation.report_names import metric, side, title
from reinforge.evaluation.seeds import aligned, stratified, together
from reinforge.evaluation.seeds import interquartile_mean as iqm_of
from reinforge.evaluation.svg import Plot
from reinforge.messages import _

# Of an episode, which stand on top; of other metrics all of the side that counts do.
_RETURNS = ("final/return", "final/return_iqm", "final/return_std", "final/success", "final/length")
# Curves of seeds: evaluations, and what was measured while training.
_CURVES = (EVALUATION + "return", EVALUATION + "length", "training/return", EVALUATION + "loss", "loss")
_MOST_CURVES = 4
_REPLICATES = 2000


class Seed(NamedTuple):
    """One of the runs: its name, its final metrics, its log."""

    name: str
    metrics: Mapping[str, Any]
    rows: Sequence[Row]


def over_seeds(seeds: Sequence[Seed]) -> str:
    """The table of all seeds, and curves of what they share."""
    found = together([seed.metrics for seed in seeds])
    names = [name for name in _RETURNS if name in found]
    names = names or [name for name in found if name.startswith("test/")] or list(found)
    header = [_("metric"), _("interquartile mean"), _("95% interval"), _("mean"), _("deviation")]
    # A hyphen at which no line is broken.
    header += [seed.name.replace("-", "\u2011") for seed in seeds]
    body = []
    for name in names:
        each = found[name]
        values = [measured(value) for value in each.values]
        told = [measured(each.iqm), span(each.low, each.high), measured(each.mean), measured(each.deviation)]
        body.append([_label(name), *told, *values])
    n = number(len(seeds))
    text = _(
        "Each of the {n} seeds was trained and evaluated by itself. The interquartile mean leaves out the lowest and "
        "the highest quarter of the seeds; the interval is the stratified bootstrap's, over seeds (Agarwal et al., "
        "2021). Few seeds give an interval that is rather too narrow."
    )
    inner = table(header, body) + paragraph(text.format(n=n), "note")
    return section(_("{n} seeds together").format(n=n), inner + figures(_curve(name, seeds) for name in _shared(seeds)))


def tiles(seeds: Sequence[Seed]) -> list[tuple[str, str]]:
    """What stands on top: what the seeds give together, by the first metric that counts."""
    found = together([seed.metrics for seed in seeds])
    name = next((each for each in (*_RETURNS, *found) if each in found), None)
    told = [(_("seeds"), number(len(seeds)))]
    if name is not None:
        each = found[name]
        told.append((f"{_label(name)}: {_('interquartile mean')}", measured(each.iqm)))
        if each.low is not None:
            told.append((_("95% interval"), span(each.low, each.high)))
    return told


def _label(name: str) -> str:
    split, slash, short = name.partition("/")
    return f"{metric(short)} ({side(split)})" if slash else metric(name)


def _shared(seeds: Sequence[Seed]) -> list[str]:
    """Which curves every seed has, with a course to show; lengths only where they are not the returns."""
    found = [name for name in _CURVES if all(sum(name in row for row in seed.rows) > 1 for seed in seeds)]
    returns, lengths = EVALUATION + "return", EVALUATION + "length"
    if returns in found and all(row.get(returns) == row.get(lengths) for seed in seeds for row in seed.rows):
        found = [name for name in found if name != lengths]
    return found[:_MOST_CURVES]


def _curve(name: str, seeds: Sequence[Seed]) -> str:
    """The interquartile mean over seeds with its interval, and each seed thinly behind it."""
    axis = "steps" if any("steps" in row for seed in seeds for row in seed.rows) else "updates"
    curves = [_points(seed.rows, name, axis) for seed in seeds]
    places, values = aligned(curves)
    if not len(places):
        return ""
    middle = iqm_of(values.T)
    low, high = stratified(values.T[:, :, None], replicates=_REPLICATES) if len(seeds) > 1 else (middle, middle)
    bottom, top = float(values.min()), float(values.max())
    room = 0.04 * (top - bottom)
    plot = Plot(
        (0, float(places[-1])), (0.0 if 0 <= bottom <= 0.35 * top else bottom - room, top + room), x_whole=True,
        x_name=_("updates") if axis == "updates" else _("environment steps"),
    )  # fmt: skip
    plot.band(list(zip(places.tolist(), low.tolist(), high.tolist())), 0)
    for row in values:
        plot.line(zip(places.tolist(), row.tolist()), 5, width=0.8, opacity=0.55)
    plot.line(zip(places.tolist(), middle.tolist()), 0, width=2.2)
    text = _("{name}, interquartile mean over {n} seeds: from {first} to {last}")
    told = text.format(name=title_of(name), n=len(seeds), first=f"{middle[0]:.4g}", last=f"{middle[-1]:.4g}")
    unit = _("bold: interquartile mean, with its 95% interval; thin: each seed, held after its end")
    return figure(title_of(name), plot.render(), unit=unit, told=told)


def title_of(name: str) -> str:
    """What a logged name is called over a curve."""
    short = name.removeprefix(EVALUATION)
    if short == "training/return":
        return _("Return while training")
    return title(short)


def _points(rows: Sequence[Row], name: str, axis: str) -> list[tuple[float, float]]:
    there = [row for row in rows if isinstance(row.get(name), int | float)]
    return [(float(row.get(axis, 0)), float(row[name])) for row in there]
