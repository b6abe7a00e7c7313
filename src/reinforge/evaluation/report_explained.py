"""The part of a report that says what a classic model goes by: weights, importances, rules."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from reinforge.evaluation.explanation import Explained, Explanation, Rule, Weight
from reinforge.evaluation.report_html import figure, measured, paragraph, section, table
from reinforge.evaluation.report_names import side
from reinforge.evaluation.svg import Plot, cut
from reinforge.messages import _, mark

# So many are drawn, so many listed at once, and a table of so many classes is one that people read.
_DRAWN, _COLUMNS = 20, 8
_FORMS = {
    "category": mark("a change of the class's logit (the logarithm of its odds)"),
    "ordinal": mark("a change of the class's logit (the logarithm of its odds)"),
    "labels": mark("a change of the label's logit (the logarithm of its odds)"),
    "number": mark("a change of the target, in its own units"),
    "count": mark("a change of the logarithm of the rate"),
}


def explained(explanation: Explanation) -> str:
    """What the model goes by, output by output."""
    alone = len(explanation.outputs) == 1
    parts = []
    for each in explanation.outputs:
        inner = (_weights(each) if each.kind == "weights" else _importances(each)) + _rules(each)
        if inner:
            parts.append(inner if alone else section(each.output, inner, 3))
    return section(_("What it goes by"), "\n".join(parts)) if parts else ""


def _weights(each: Explained) -> str:
    """Drawn where there is one column, as a table where there are several."""
    told = _("Weights: {change}, by one standard deviation of a number, or by a label that holds.").format(
        change=_(_FORMS[each.form])
    )
    if len(each.columns) == 1:
        towards = "" if each.form in ("number", "count") else each.columns[0]
        name = _("towards {label}").format(label=towards) if towards else _("weight")
        return paragraph(told) + _drawn(each.weights, name) + _listed(each, [name])
    return paragraph(told) + _listed(each, list(each.columns[:_COLUMNS]))


def _importances(each: Explained) -> str:
    if not each.weights:
        return ""
    told = _(
        "Importances by permutation: by how much the loss ({loss}) on {rows} {side} rows rises when the values of one "
        "column are shuffled among them. Of columns that say the same, each looks dispensable."
    ).format(loss=measured(each.loss), rows=f"{each.rows:,}", side=side(each.on or ""))
    return paragraph(told) + _drawn(each.weights, _("rise of the loss")) + _listed(each, [_("rise of the loss")])


def _drawn(weights: Sequence[Weight], name: str) -> str:
    """The first of them, from 0; where there is a deviation, with it."""
    shown = [weight for weight in weights[:_DRAWN] if weight.values]
    if len(shown) < 2:
        return ""
    spans = [
        (w.values[0] - w.deviation, w.values[0] + w.deviation)
        if w.deviation is not None
        else (min(0.0, w.values[0]), max(0.0, w.values[0]))
        for w in shown
    ]
    low, high = min(0.0, *(low for low, _high in spans)), max(0.0, *(high for _low, high in spans))
    room = (high - low) * 0.05 or 1.0
    plot = Plot(
        (low - room, high + room), (-0.6, len(shown) - 0.4), x_name=name,
        y_names=[cut(weight.name) for weight in reversed(shown)], height=62 + 22 * len(shown),
    )  # fmt: skip
    plot.dashed((0.0, -0.6), (0.0, len(shown) - 0.4))
    for place, (weight, (left, right)) in enumerate(zip(reversed(shown), reversed(spans))):
        plot.interval(place, left, weight.values[0], right)
    told = "; ".join(f"{weight.name} {measured(weight.values[0])}" for weight in shown)
    return figure("", plot.render(), told=told, wide=True)


def _listed(each: Explained, columns: Sequence[str]) -> str:
    header = ["", *columns, *([_("deviation")] if any(w.deviation is not None for w in each.weights) else [])]
    body = [
        [
            weight.name, *(measured(value) for value in weight.values[: len(columns)]),
            *([measured(weight.deviation)] if weight.deviation is not None else []),
        ]
        for weight in each.weights
    ]  # fmt: skip
    more = _("{n} more have less.").format(n=f"{each.left_out:,}") if each.left_out else ""
    if len(each.columns) > len(columns):
        more += " " + _("Of {n} columns the first are shown; explanation.json has all.").format(n=len(each.columns))
    inner = table(header, body) + (paragraph(more.strip(), "note") if more else "")
    if len(columns) > 1 and len(body) <= _DRAWN:
        return inner
    name = _("All of them")
    return f"<details><summary>{escape(name)}</summary>{inner}</details>"


def _rules(each: Explained) -> str:
    parts = []
    for name, rules in each.rules.items():
        title = _("Its rules") if len(each.rules) == 1 else _("Its rules: {name}").format(name=name)
        parts.append(section(title, f'<pre class="rules">{escape(as_text(rules))}</pre>', 3))
    return "\n".join(parts)


def as_text(rules: Sequence[Rule]) -> str:
    """A line for each node, indented by what has to hold before it."""
    return "\n".join("│  " * max(0, rule.depth - 1) + _line(rule) for rule in rules if rule.sign or rule.answer)


def _line(rule: Rule) -> str:
    texts = {
        "<=": "{column} ≤ {value}", ">": "{column} > {value}", "is": _("{column} is {value}"),
        "is not": _("{column} is not {value}"), "missing": _("{column} is missing"), "there": _("{column} is there"),
        "has": _("{column} has {value}"), "has not": _("{column} has not {value}"), "": "",
    }  # fmt: skip
    told = texts[rule.sign].format(column=rule.column, value=rule.value)
    if rule.answer is None:
        return told
    share = f"{rule.share:.0%}, " if rule.share is not None else ""
    rows = _("{n} rows").format(n=f"{rule.rows:,}")
    return f"{told}  →  {rule.answer} ({share}{rows})"
