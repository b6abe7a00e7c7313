"""The part of a report with single rows and groups of rows that the model is worst at."""

from __future__ import annotations

from html import escape

from reinforge.evaluation.findings import Example, Found
from reinforge.evaluation.report_html import is_base64, measured, paragraph, span
from reinforge.evaluation.report_names import metric
from reinforge.messages import _
from reinforge.messages.width import width

_MOST_INPUTS = 8
_SHORT = 240
# What fits into a line of a card, a Chinese character counting for two.
_LINE = 26


def worst(found: Found) -> str:
    """Rows as they were read, with what was said and what is true."""
    told = {
        "number": _("Held-out rows, the largest error first."), "count": _("Held-out rows, the largest error first."),
    }.get(found.form, _("Held-out rows that it got wrong, the surest mistake first."))  # fmt: skip
    return paragraph(told, "note") + f'<div class="examples">{"".join(_example(each) for each in found.worst)}</div>'


def _example(each: Example) -> str:
    # The data address is base64 by construction, and checked all the same: nothing else may stand in an attribute.
    pictures = "".join(
        f'<img src="data:image/png;base64,{escape(data)}" alt="{escape(name)}">'
        for name, data in each.images.items()
        if is_base64(data)
    )
    known = _("{p} sure").format(p=f"{each.sure:.0%}") if each.sure is not None else ""
    sure = f" <small>{escape(known)}</small>" if known else ""
    inputs = "".join(
        f"<div{' class=long' if width(name) + width(value) > _LINE else ''}><dt>{escape(name)}</dt>"
        f"<dd>{escape(_cut(value))}</dd></div>"
        for name, value in list(each.inputs.items())[:_MOST_INPUTS]
    )
    more, truth = len(each.inputs) - _MOST_INPUTS, _("truth")
    rest = paragraph(_("and {n} more columns").format(n=more), "note") if more > 0 else ""
    row = _("row {n}").format(n=f"{each.row + 1:,}")
    return (
        f'<article class="example">{pictures}<p class="said"><b>{escape(_cut(each.said))}</b>{sure}</p>'
        f'<p class="truth">{escape(truth)}: <b>{escape(_cut(each.truth))}</b></p>'
        f'<dl>{inputs}</dl>{rest}<p class="place">{escape(row)}</p></article>'
    )


def slices(found: Found) -> str:
    """Groups of rows, the weakest first, with as much of a bar as their metric is of the largest."""
    name = metric(found.slices[0].measure.name)
    best = found.slices[0].measure.best
    overall = found.measure(found.slices[0].measure.name)
    values = [each.measure.value or 0.0 for each in found.slices]
    most = max([*values, 1.0 if best == "high" else 0.0]) or 1.0
    lines = []
    for each in found.slices:
        share = max(0.0, (each.measure.value or 0.0) / most)
        lines.append(
            f'<tr><th scope="row">{escape(_cut(each.column, 40))}</th><td>{escape(_cut(each.value, 60))}</td>'
            f'<td class="number">{each.rows:,}</td>'
            f'<td class="number">{escape(measured(each.measure.value))}</td>'
            f'<td class="bar"><span style="--share: {share:.3f}"></span></td>'
            f'<td class="number soft">{escape(span(each.measure.low, each.measure.high))}</td></tr>'
        )
    names = [(_("column"), ""), (_("value"), ""), (_("rows"), "number"), (name, "number"), ("", "")]
    names.append((_("95% interval"), "number"))
    head = "".join(f'<th scope="col" class="{style}">{escape(text)}</th>' for text, style in names)
    told = _("Held-out rows by one column at a time, from 10 rows on, the weakest first; numbers by quarters.")
    if overall is not None and overall.value is not None:
        told += " " + _("All rows: {value}.").format(value=measured(overall.value))
    told += " " + _("Of many groups some are weak by chance: look at the intervals.")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return paragraph(told, "note") + f'<div class="scroll"><table class="slices">{body}</table></div>'


def _cut(text: str, most: int = _SHORT) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
