"""The data card: what is in a table before anything learns from it, as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from reinforge.data.cleaning.report import POLICIES, Change
from reinforge.data.profile import ColumnProfile, Profile
from reinforge.evaluation.data_card_charts import FRESH, alone, bars, correlations, histogram, pictures
from reinforge.evaluation.report_html import document, figure, figures, number, paragraph, section, table
from reinforge.evaluation.report_style import STYLE
from reinforge.messages import _, mark

# Beyond so many columns, only those that tell most about the target are drawn; the table has them all.
MOST_DRAWN = 60
MOST_SCORES = 15

ROLES = {"input": mark("input"), "target": mark("target")}
KINDS = {
    "number": mark("number"), "category": mark("category"), "date": mark("date"), "labels": mark("set of labels"),
    "text": mark("text"), "image": mark("image"), "vector": mark("vector"), "span": mark("part of a text"),
}  # fmt: skip
FACTS = {
    "minimum": mark("minimum"), "first quartile": mark("first quartile"), "median": mark("median"),
    "third quartile": mark("third quartile"), "maximum": mark("maximum"), "mean": mark("mean"),
    "deviation": mark("deviation"),
}  # fmt: skip
SIDES = {"train": mark("train"), "validation": mark("validation"), "test": mark("test")}


@dataclass(frozen=True)
class Picture:
    """One image of the training rows, a PNG file as base64, and what is true of it."""

    png: str
    truth: str


@dataclass(frozen=True)
class DataCard:
    """What the page shows: plain data, so that it can be kept and drawn again in another language.

    `source`, `digest`: where the table came from, and its content; `sides`: rows by side; `classes`: by target, label
    and side, how many rows; `profile` describes training rows, all or `described` of them, and `left_out` columns are
    not in it. `pictures`: some of each image column.
    """

    name: str
    source: str
    digest: str
    sides: Mapping[str, int]
    classes: Mapping[str, Mapping[str, Mapping[str, int]]]
    profile: Profile
    changes: Sequence[Change]
    notes: Sequence[str]
    version: str = ""
    left_out: int = 0
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)


def render(card: DataCard) -> str:
    """The whole page in the language to speak now. Everything from the data is escaped."""
    parts = [_head(card), _tiles(card), _notes(card), *_sections(card, 2)]
    body = "\n".join(part for part in parts if part)
    footer = _("Written by Reinforge {version}. Columns are described from the training rows alone.")
    return document(
        _("{name}: data card").format(name=card.name), body, footer.format(version=card.version), f"{STYLE}\n{FRESH}"
    )


def embedded(card: DataCard) -> str:
    """The same without a page around it, for a report, whose style must have `FRESH` too: what its own sections don't
    tell."""
    rows, total = card.profile.rows, card.sides.get("train", card.profile.rows)
    told = _("Columns are described from the training rows alone.")
    if rows < total:
        told = _("Columns are described from {n} of {total} training rows.").format(n=f"{rows:,}", total=f"{total:,}")
    if card.left_out:
        told += " " + _("{n} more columns are not shown.").format(n=f"{card.left_out:,}")
    parts = [_tiles(card), paragraph(told, "note"), *_sections(card, 3)]
    return "\n".join(part for part in parts if part)


def _sections(card: DataCard, level: int) -> list[str]:
    """The sections under headings of that level."""
    shown = [
        (_("Split"), _sides(card, level + 1)),
        (_("Cleaning"), _cleaning(card)),
        (_("What each column tells alone"), _alone(card)),
        (_("Columns"), _columns(card)),
        (_("Correlations"), _correlations(card)),
        (_("All columns"), _table(card)),
    ]
    return [section(title, inner, level) for title, inner in shown if inner]


def _head(card: DataCard) -> str:
    told = _("from {source} · digest {digest}").format(source=card.source or _("memory"), digest=number(card.digest))
    title = escape(_("{name}: data card").format(name=card.name))
    return f'<header>\n<div class="head"><h1>{title}</h1></div>\n<p class="lede">{escape(told)}</p>\n</header>'


def _tiles(card: DataCard) -> str:
    columns = card.profile.columns
    cells = card.profile.rows * max(len(columns), 1)
    missing = sum(column.missing for column in columns)
    again = sum(change.found for change in card.changes if change.policy == "duplicates")
    tiles = [
        (_("rows"), f"{sum(card.sides.values()):,}"),
        (_("input columns"), f"{sum(column.role == 'input' for column in columns):,}"),
        (_("missing values"), f"{missing / max(cells, 1):.2%}"),
        (_("duplicate rows"), f"{again:,}"),
        (_("suspected leaks"), f"{sum(each.suspicious for each in card.profile.alone):,}"),
    ]
    inner = "".join(f'<div class="tile"><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>' for n, v in tiles)
    return f'<dl class="tiles">{inner}</dl>'


def _notes(card: DataCard) -> str:
    told = {change.text() for change in card.changes}
    notes = [note for note in card.notes if note not in told]
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return section(_("Notes"), f'<ul class="notes">{items}</ul>')


def _sides(card: DataCard, level: int) -> str:
    total = max(sum(card.sides.values()), 1)
    rows = [[_(SIDES.get(side, side)), f"{count:,}", f"{count / total:.1%}"] for side, count in card.sides.items()]
    header = [_("side"), _("rows"), _("part")]
    inner = f'<div class="narrow">{table(header, rows)}</div>'
    for target, labels in card.classes.items():
        sides = list(dict.fromkeys(side for counts in labels.values() for side in counts))
        whole = {side: max(sum(counts.get(side, 0) for counts in labels.values()), 1) for side in sides}
        body = [
            [label, *(f"{n:,} ({n / whole[side]:.1%})" for side in sides for n in (counts.get(side, 0),))]
            for label, counts in labels.items()
        ]
        title = escape(_("Classes of {target}").format(target=target))
        inner += f"<h{level} class=spaced>{title}</h{level}>" + table(
            ["", *(_(SIDES.get(side, side)) for side in sides)], body
        )
    return inner


def _cleaning(card: DataCard) -> str:
    if not card.changes:
        return paragraph(_("Nothing was found to clean, and nothing was changed."))
    body = [
        [
            _(POLICIES.get(change.policy, change.policy)),
            change.column or "",
            f"{change.found:,}",
            f"{change.cells:,}" if change.cells else "–",
            f"{change.dropped:,}" if change.dropped else "–",
            change.detail,
        ]
        for change in card.changes
    ]
    header = [_("what"), _("column"), _("found"), _("values changed"), _("rows left out"), _("example")]
    return table(header, body, left=(0, 1, 5), style="wrap")


def _alone(card: DataCard) -> str:
    scores = card.profile.alone
    if not scores:
        return ""
    about = _(
        "How well each column predicts the target by itself, on training rows that it was not fitted on: 0% is chance, "
        "100% is certainty. A column that is nearly certain may be a leak: known only after the target is."
    )
    targets = list(dict.fromkeys(each.target for each in scores))
    drawn = []
    for target in targets:
        mine = [each for each in scores if each.target == target][:MOST_SCORES]
        told = ", ".join(f"{each.column} {each.score:.0%}" for each in mine[:5])
        drawn.append(figure(target, alone(mine), told=told))
    return paragraph(about) + figures(drawn)


def _columns(card: DataCard) -> str:
    profile = card.profile
    best = {each.column: each.score for each in reversed(profile.alone)}
    chosen = sorted(profile.columns, key=lambda c: (c.role != "target", -best.get(c.name, 0.0)))[:MOST_DRAWN]
    names = {column.name for column in chosen}
    drawn = [_column(column, card) for column in profile.columns if column.name in names]
    keys = "".join(
        f'<span class="key" style="--colour: var(--series-{index % 6 + 1})">{escape(name)}</span> '
        for index, name in enumerate(profile.classes)
    )
    legend = f'<p class="legend">{keys}</p>' if keys else ""
    left = len(profile.columns) - len(chosen)
    more = paragraph(_("{n:,} more columns are in the table below.").format(n=left)) if left else ""
    return legend + figures(drawn) + more


def _column(column: ColumnProfile, card: DataCard) -> str:
    unit = f"{_(KINDS.get(column.kind, column.kind))}, {_(ROLES.get(column.role, column.role))}"
    many = _("{n:,} pictures") if column.kind == "image" else _("{n:,} different")
    facts = [many.format(n=column.distinct)]
    if column.missing:
        part = column.missing / max(card.profile.rows, 1)
        facts.append(_("{n:,} missing ({part:.1%})").format(n=column.missing, part=part))
    told = ", ".join(facts)
    drawing = ""
    if column.histogram is not None:
        drawing = histogram(column.histogram, column.name)
    elif column.top:
        drawing = bars(column.top, column.others)
    elif found := card.pictures.get(column.name):
        drawing = pictures([(each.png, each.truth) for each in found])
    return figure(column.name, f'<p class="about">{escape(told)}</p>{drawing}', unit=unit, told=told)


def _correlations(card: DataCard) -> str:
    profile = card.profile
    if len(profile.correlated) < 2:
        return ""
    about = _("Pearson's correlation of numeric columns, in hundredths: 100 and −100 lie on a line, 0 has none.")
    drawing = correlations(profile.correlated, profile.correlations)
    return paragraph(about) + f'<div class="scroll">{drawing}</div>'


def _table(card: DataCard) -> str:
    profile = card.profile
    names = [name for name in FACTS if any(name in column.facts for column in profile.columns)]
    header = [_("column"), _("role"), _("kind"), _("missing"), _("different"), *(_(FACTS[name]) for name in names)]
    body = [
        [
            column.name, _(ROLES.get(column.role, column.role)), _(KINDS.get(column.kind, column.kind)),
            f"{column.missing:,}", "–" if column.kind == "image" else f"{column.distinct:,}",
            *(_fact(column, name) for name in names),
        ]
        for column in profile.columns
    ]  # fmt: skip
    return table(header, body, left=(0, 1, 2), style="columns")


def _fact(column: ColumnProfile, name: str) -> str:
    return number(column.facts[name]) if name in column.facts and column.kind != "date" else "–"
