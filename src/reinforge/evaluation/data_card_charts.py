"""The data card's charts: histograms by class, bars of labels, scores and correlations."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from reinforge.data.cleaning.leaks import Alone
from reinforge.data.profile import Histogram
from reinforge.evaluation.report_html import is_base64
from reinforge.evaluation.svg import Plot, shown
from reinforge.messages import _, mark

UNITS = {"characters": mark("characters"), "date": mark("date")}

# What the card needs beyond the report's style.
FRESH = """
.spaced { margin: 1.5rem 0 0.25rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0 0 0.75rem; max-width: none; }
.about { color: var(--ink-soft); font-size: 0.85rem; margin: 0.1rem 0 0.2rem; }
figcaption h4 { overflow-wrap: anywhere; }
.labels {
  display: grid; grid-template-columns: minmax(3rem, max-content) 1fr max-content; gap: 0.3rem 0.7rem;
  align-items: center; font-size: 0.85rem; padding: 0.3rem 0 0.5rem;
}
.labels .name { max-width: 11rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.labels .bar { display: flex; height: 0.95rem; background: var(--line); border-radius: 0.2rem; overflow: hidden; }
.labels .bar i { display: block; height: 100%; }
.labels .count { text-align: right; color: var(--ink-soft); white-space: nowrap; }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(3.6rem, 1fr)); gap: 0.5rem; padding: 0.4rem 0;
}
.pictures span { display: block; text-align: center; min-width: 0; }
.pictures img {
  width: 3.4rem; height: 3.4rem; object-fit: contain; image-rendering: pixelated; background: var(--ground);
  border: 1px solid var(--line); border-radius: 0.3rem; display: block; margin: 0 auto;
}
.pictures small { display: block; color: var(--ink-soft); font-size: 0.75rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.labels .unitline { grid-column: 1 / -1; color: var(--ink-soft); text-align: right; font-size: 0.8rem; }
.labels .leak { color: var(--warn); font-weight: 600; }
.wrap td:last-child { min-width: 14rem; }
.wrap tbody th { min-width: 9rem; }
.wrap th:last-child, .wrap td:last-child { padding-left: 1.25rem; }
.columns { font-size: 0.85rem; }
.columns tbody th { min-width: 8rem; overflow-wrap: anywhere; }
.columns th, .columns td { padding-right: 0.5rem; }
.columns td { white-space: nowrap; }
.related { width: auto; font-size: 0.8rem; }
.related th, .related td { padding: 0; border: 0; vertical-align: middle; }
.related th[scope="row"] {
  padding-right: 0.7rem; text-align: right; font-weight: 400; max-width: 11rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap;
}
.related thead th {
  vertical-align: bottom; text-align: center; font-weight: 400; color: var(--ink); border: 0;
}
.related thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 10.2rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; padding-top: 0.3rem; }
.related td {
  width: 2.5rem; min-width: 2.5rem; height: 1.9rem; text-align: center; vertical-align: middle; position: relative;
}
.related td::before { content: ""; position: absolute; inset: 1px; border-radius: 0.2rem; background: var(--tone);
  opacity: var(--strength); }
.related td span { position: relative; }
@media print { .columns { font-size: 6.5pt; } .columns td { white-space: normal; } }
@media print { .labels .bar, .related td::before { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def histogram(found: Histogram, name: str) -> str:
    """Rows by value, the classes one on another."""
    edges = found.edges
    stacked = [list(counts) for counts in found.counts.values()]
    for lower, upper in pairwise(stacked):
        for index, count in enumerate(lower):
            upper[index] += count
    most = max(max(counts) for counts in stacked)
    unit = _(UNITS[found.unit]) if found.unit in UNITS else ""
    plot = Plot(
        (edges[0], edges[-1]), (0, max(most, 1)),
        x_name=unit or name, y_name=_("rows"), x_log=found.logarithmic, height=190,
        format_x=_day if found.unit == "date" else shown,
    )  # fmt: skip
    # The whole first, then less and less of it in front.
    for index in reversed(range(len(stacked))):
        plot.bars(zip(edges, edges[1:], stacked[index]), index, opacity=1.0)
    return plot.render()


def bars(top: Sequence[tuple[str, Mapping[str, int]]], others: int) -> str:
    """The most frequent labels, each with its classes side by side."""
    totals = [sum(counts.values()) for _label, counts in top]
    widest = max([*totals, others, 1])
    lines = []
    for (label, counts), total in zip(top, totals):
        parts = "".join(
            f'<i style="width: {100 * count / widest:.2f}%; background: var(--series-{index % 6 + 1})" '
            f'title="{escape(name)} {count:,}"></i>'
            for index, (name, count) in enumerate(counts.items())
        )
        lines.append(_line(label, parts, f"{total:,}"))
    if others:
        part = f'<i style="width: {100 * others / widest:.2f}%; background: var(--line-strong)"></i>'
        lines.append(_line(_("all others"), part, f"{others:,}"))
    return _labels(_("rows"), lines)


def pictures(shown: Sequence[tuple[str, str]]) -> str:
    """PNG files (base64), each with a word under it; what is no base64 is left out."""
    cells = "".join(
        f'<span><img src="data:image/png;base64,{png}" alt=""><small title="{word}">{word}</small></span>'
        for png, word in ((png, escape(word)) for png, word in shown)
        if is_base64(png)
    )
    return f'<div class="pictures">{cells}</div>'


def alone(scores: Sequence[Alone]) -> str:
    """How well columns predict the target by themselves, best first."""
    lines = []
    for each in scores:
        tone = "var(--warn)" if each.suspicious else "var(--series-1)"
        part = f'<i style="width: {100 * each.score:.2f}%; background: {tone}"></i>'
        told = f"{each.score:.1%}"
        doubt = _("{score} – a leak?").format(score=told) if each.suspicious else told
        lines.append(_line(each.column, part, doubt, each.suspicious))
    return _labels(_("from chance to certainty"), lines)


def correlations(names: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """A table with a tone for each pair."""
    head = "".join(f'<th scope="col"><span title="{escape(name)}">{escape(name)}</span></th>' for name in names)
    body = []
    for row, name in enumerate(names):
        cells = "".join(_cell(matrix[row][column], row == column) for column in range(len(names)))
        body.append(f'<tr><th scope="row" title="{escape(name)}">{escape(name)}</th>{cells}</tr>')
    return f'<table class="related"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _labels(unit: str, lines: Sequence[str]) -> str:
    return f'<div class="labels"><span class="unitline">{escape(unit)}</span>{"".join(lines)}</div>'


def _cell(value: float, itself: bool) -> str:
    if itself:
        return "<td></td>"
    tone = "var(--series-1)" if value >= 0 else "var(--series-2)"
    text = f"{100 * value:.0f}".replace("-", "−")
    return f'<td style="--tone: {tone}; --strength: {0.05 + 0.6 * abs(value):.2f}"><span>{text}</span></td>'


def _line(label: str, parts: str, told: str, marked: bool = False) -> str:
    style = " leak" if marked else ""
    name = f'<span class="name{style}" title="{escape(label)}">{escape(label)}</span>'
    return f'{name}<span class="bar">{parts}</span><span class="count{style}">{escape(told)}</span>'


def _day(days: float) -> str:
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(days=days)
    return f"{moment:%Y-%m}"
