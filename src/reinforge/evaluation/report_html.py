"""Pieces of a page: tables, figures and values as people read them. Whatever goes in comes out escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from reinforge.evaluation.svg import COLOURS
from reinforge.messages import _, language

_SHORT = 14


def document(title: str, body: str, footer: str, style: str) -> str:
    """A whole page of this body, in the language to speak now, that loads nothing; `title` and `footer` as text."""
    return f"""<!DOCTYPE html>
<html lang="{"zh-CN" if language() == "zh_CN" else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{escape(title)}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
<footer>{escape(footer)}</footer>
</main>
</body>
</html>
"""


def number(value: object) -> str:
    """A value as a table shows it: four significant digits, thousands set apart; digests cut short."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if not isinstance(value, (int, float)):
        text = str(value)
        name, colon, digest = text.partition(":")
        return f"{name}:{digest[:_SHORT]}…" if colon and name == "sha256" else text
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (value == math.floor(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def measured(value: float | None) -> str:
    """A metric: three places after the point for shares, so that a column of them lines up."""
    if value is None:
        return "–"
    if 1e-9 < abs(value) < 0.001:
        return f"{value:.2g}"
    if abs(value) >= 10:
        return f"{value:.2f}" if abs(value) < 100 else number(value)
    text = f"{value:.3f}"
    # So near to 1, that it is not 1 is what matters.
    return f"{value:.{math.ceil(-math.log10(1 - value))}f}" if text == "1.000" and 1 - value > 1e-6 else text


def span(low: float | None, high: float | None) -> str:
    """An interval; nothing where there is none."""
    if low is None or high is None:
        return ""
    # What is nothing beside the other end is shown as nothing.
    nothing = max(abs(low), abs(high)) / 1000
    ends = [measured(0.0 if abs(end) < nothing else end) for end in (low, high)]
    return _("{low} to {high}").format(low=ends[0], high=ends[1])


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.42 s, 12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes in units of 1024: 512 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def section(title: str, inner: str, level: int = 2) -> str:
    """A part of the page under its title."""
    return f"<section>\n<h{level}>{escape(title)}</h{level}>\n{inner}\n</section>"


def paragraph(text: str, style: str = "") -> str:
    """One."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def table(header: Sequence[str], body: Iterable[Sequence[str]], left: Sequence[int] = (0,), style: str = "") -> str:
    """A table; the first column names the row unless `left` is empty, other columns are numbers unless in `left`."""

    def cell(tag: str, column: int, text: str) -> str:
        aligned = "" if column in left or (column == 0 and left) else ' class="number"'
        scope = ' scope="row"' if tag == "th" and column == 0 and aligned == "" else ""
        return f"<{tag}{aligned}{scope}>{escape(text)}</{tag}>"

    head = "".join(
        cell("th", column, text).replace(' scope="row"', ' scope="col"') for column, text in enumerate(header)
    )
    lines = "".join(
        "<tr>" + "".join(cell("th" if c == 0 and left else "td", c, text) for c, text in enumerate(row)) + "</tr>"
        for row in body
    )
    named = f' class="{style}"' if style else ""
    return f'<div class="scroll"><table{named}><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def pairs(told: Iterable[tuple[str, str]]) -> str:
    """Names with their values."""
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in told)
    return f"<table><tbody>{lines}</tbody></table>"


def figure(
    title: str, drawing: str, *, unit: str = "", keys: Sequence[str] = (), told: str = "", wide: bool = False
) -> str:
    """A drawing (HTML) under its title, with a key for each series; `told` says it in words to who can't see it, `wide`
    gives it the page's whole width."""
    shown = "".join(
        f'<span class="key" style="--colour: var(--series-{index % COLOURS + 1})">{escape(key)}</span>'
        for index, key in enumerate(keys)
    )
    under = f'<span class="unit">{escape(unit)}</span>' if unit else ""
    return (
        f'<figure{" class=wide" if wide else ""} role="group" aria-label="{escape(told or title)}">'
        f"<figcaption><h4>{escape(title)}</h4>{under}{shown}</figcaption>\n{drawing}</figure>"
    )


def is_base64(data: str) -> bool:
    """Whether a text is nothing but base64, and may stand in an attribute."""
    return data.isascii() and data.replace("+", "").replace("/", "").rstrip("=").isalnum()


def figures(inner: Iterable[str]) -> str:
    """Figures side by side, as many as there is room for."""
    there = "\n".join(inner)
    return f'<div class="charts">{there}</div>' if there else ""
