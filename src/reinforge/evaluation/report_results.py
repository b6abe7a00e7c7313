"""The part of a report that says how good the model is: verdict, metrics beside baselines, errors, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from reinforge.evaluation.baselines import CONSTANT
from reinforge.evaluation.findings import Baseline, Curve, Findings, Found, Measure
from reinforge.evaluation.report_examples import slices, worst
from reinforge.evaluation.report_html import (
    duration,
    figure,
    figures,
    measured,
    number,
    paragraph,
    section,
    span,
    table,
)
from reinforge.evaluation.report_names import CRITERIA, metric, side, title
from reinforge.evaluation.svg import COLOURS, Plot, cut
from reinforge.messages import _

# Colours of a matrix deepen with the share of the row; from here on its text is light.
_DEEP = 0.62


def verdict(findings: Findings) -> str:
    """What to remember of the whole page: each output's headline metric, beside the baselines'."""
    told = "\n".join(_verdict(found, findings) for found in findings.outputs)
    return f'<div class="verdicts">{told}</div>' if len(findings.outputs) > 1 else told


def results(findings: Findings) -> str:
    """All that was found about each output."""
    alone = len(findings.outputs) == 1
    parts = []
    for found in findings.outputs:
        inner = "\n".join(part for part in _output(found, findings) if part)
        parts.append(inner if alone else section(found.name, inner))
    return "\n".join(parts)


def _verdict(found: Found, findings: Findings) -> str:
    chief = found.measure(found.headline)
    if chief is None or chief.value is None:
        return ""
    name = title(found.headline) if len(findings.outputs) == 1 else f"{found.name}: {metric(found.headline)}"
    told = _("On {rows} {side} rows that it never saw.").format(rows=f"{findings.rows:,}", side=side(findings.on))
    if chief.low is not None:
        told += " " + _("The {level} interval is {span}.").format(
            level=f"{findings.level:.0%}", span=span(chief.low, chief.high)
        )
    best = _best(found)
    compared, style = _compared(chief, best, found.headline) if best else ("", "")
    forest = _forest(found, chief)
    says = f'<p class="compared {style}">{escape(compared)}</p>' if compared else ""
    return (
        f'<section class="verdict"><div><h2>{escape(name)}</h2><p class="value">{escape(measured(chief.value))}</p>'
        f"<p>{escape(told)}</p>{says}</div>{forest}</section>"
    )


def _best(found: Found) -> Baseline | None:
    """The baseline whose headline metric is best."""
    values = [(m.value, each) for each in found.baselines if (m := _of(each, found.headline)) and m.value is not None]
    if not values:
        return None
    chief = found.measure(found.headline)
    high = chief is None or chief.best == "high"
    return max(values, key=lambda pair: pair[0] if high else -pair[0])[1]


def _of(baseline: Baseline, name: str) -> Measure | None:
    return next((each for each in baseline.measures if each.name == name), None)


def _compared(chief: Measure, best: Baseline, headline: str) -> tuple[str, str]:
    reached = _of(best, headline)
    low, high = best.low, best.high
    if reached is None or low is None or high is None:
        return "", ""
    if chief.best == "low":
        low, high = -high, -low
    name, value = _(best.name), measured(reached.value)
    if low > 0:
        return _("Clearly better than the best baseline, {name}, with {value}.").format(name=name, value=value), "good"
    if high < 0:
        text = _("Clearly worse than the baseline {name}, with {value}: prefer that, or change the recipe.")
        return text.format(name=name, value=value), "bad"
    text = _("No clear difference from the best baseline, {name}, with {value}: on these rows chance explains it.")
    return text.format(name=name, value=value), "even"


def _forest(found: Found, chief: Measure) -> str:
    """The headline metric with its interval, above those of the baselines."""
    rows = [(_("this model"), chief)]
    rows += [
        (_(each.name), m)
        for each in found.baselines
        if (m := _of(each, found.headline)) and m.value is not None and m.low is not None
    ]
    known = [(m.low or 0.0, m.high or 0.0) for _name, m in rows]
    if len(rows) > 2 and found.baselines[0].name == CONSTANT:
        # Far from all others it would leave no room to tell these apart; the table has it.
        (low, high), others = known[1], [known[0], *known[2:]]
        width = max(end for _low, end in others) - min(end for end, _high in others)
        if max(min(end for end, _high in others) - high, low - max(end for _low, end in others)) > width:
            del rows[1], known[1]
    if len(rows) < 2 or chief.low is None:
        return ""
    low, high = min(low for low, _high in known), max(high for _low, high in known)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    plot = Plot(
        (low - room, high + room), (-0.6, len(rows) - 0.4), x_name=metric(found.headline),
        y_names=[cut(name) for name, _m in reversed(rows)], height=62 + 30 * len(rows),
    )  # fmt: skip
    for place, ((_name, each), (left, right)) in enumerate(zip(reversed(rows), reversed(known))):
        assert each.value is not None
        plot.interval(place, left, each.value, right, 0 if place == len(rows) - 1 else 5)
    told = "; ".join(f"{name} {measured(each.value)}" for name, each in rows)
    return f'<figure role="group" aria-label="{escape(told)}">{plot.render()}</figure>'


def _output(found: Found, findings: Findings) -> list[str]:
    parts = [section(_("Metrics, and what simple models reach"), _metrics(found, findings), 3)]
    if found.reading is not None:
        parts.append(section(_("How its outputs are read"), _reading(found), 3))
    if found.classes:
        parts.append(section(_("What it confuses"), _confusion(found) + _classes(found), 3))
    drawn = [_roc(found), _precision_recall(found), _reliability(found), _scatter(found), _errors(found)]
    if any(drawn):
        parts.append(
            section(_("How sure, and how well apart") if found.roc else _("Errors"), figures(filter(None, drawn)), 3)
        )
    if found.slices:
        parts.append(section(_("Where it is weakest"), slices(found), 3))
    if found.worst:
        parts.append(section(_("Its worst mistakes"), worst(found), 3))
    return parts


def _metrics(found: Found, findings: Findings) -> str:
    """Best values of a row stand out; metrics that these rows don't define are left out."""
    header = [_("metric"), _("this model"), _("{level} interval").format(level=f"{findings.level:.0%}")]
    header += [_(each.name) for each in found.baselines]
    lines = []
    for each in sorted(found.measures, key=lambda m: m.name != found.headline):
        if each.value is None:
            continue
        values = [each.value, *(m.value if (m := _of(b, each.name)) else None for b in found.baselines)]
        known = [value for value in values if value is not None]
        best = max(known) if each.best == "high" else min(known)
        arrow = "↑" if each.best == "high" else "↓"
        cells = [f'<th scope="row">{escape(metric(each.name))}&nbsp;<span class="arrow">{arrow}</span></th>']
        for place, value in enumerate(values):
            stands = " best" if value == best and len(known) > 1 else ""
            cells.append(f'<td class="number{stands}">{escape(measured(value))}</td>')
            if place == 0:
                cells.append(f'<td class="number soft">{escape(span(each.low, each.high))}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f'<th scope="col"{"" if column == 0 else " class=number"}>{escape(text)}</th>'
        for column, text in enumerate(header)
    )
    told = _("↑ more is better, ↓ less is better. Intervals: percentile bootstrap, {n} replicates.")
    notes = [told.format(n=f"{findings.replicates:,}")] if findings.replicates else []
    notes += [
        _("{name}: {about}, {rows} training rows, {seconds}.").format(
            name=_(each.name), about=each.about, rows=f"{each.rows:,}", seconds=duration(each.seconds)
        )
        for each in found.baselines
        if each.about
    ]
    body = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return body + paragraph(" ".join(notes), "note")


def _reading(found: Found) -> str:
    reading = found.reading
    assert reading is not None
    told = []
    if reading.temperature != 1.0:
        text = _("Logits are divided by {t}, the temperature of the least log loss.")
        told.append(text.format(t=number(reading.temperature)))
    if reading.threshold is not None and len(found.labels) == 2:
        text = _("{label} is predicted from a probability of {p} on, for {criterion}.")
        told.append(
            text.format(
                label=found.labels[1], p=number(reading.threshold), criterion=_(CRITERIA.get(reading.criterion, ""))
            )
        )
    if reading.thresholds is not None:
        each = ", ".join(f"{label} {number(p)}" for label, p in zip(found.labels, reading.thresholds))
        text = _("Thresholds of the labels, each for {criterion}: {each}.")
        told.append(text.format(criterion=_(CRITERIA.get(reading.criterion, "")), each=each))
    told.append(_("Set on {rows} validation rows, and on no others.").format(rows=f"{reading.rows:,}"))
    if not reading.before:
        return paragraph(" ".join(told))
    header = [_("metric"), _("as trained"), _("as read now")]
    body = [[metric(a.name), measured(a.value), measured(b.value)] for a, b in zip(reading.before, reading.after)]
    return paragraph(" ".join(told)) + f'<div class="narrow">{table(header, body)}</div>'


def _confusion(found: Found) -> str:
    """Truth in rows, decisions in columns, coloured by their share of the row."""
    if not found.confusion:
        if not found.confused:
            return ""
        header = [_("truth"), _("predicted"), _("rows")]
        return (
            f'<div class="narrow">{table(header, [[a, b, number(n)] for a, b, n in found.confused], left=(0, 1))}</div>'
        )
    size = len(found.confusion)
    names = [*found.labels, *(str(code) for code in range(len(found.labels), size))]
    head = "".join(f'<th scope="col" title="{escape(name)}">{escape(cut(name, 14))}</th>' for name in names)
    lines = []
    for code, row in enumerate(found.confusion):
        total = sum(row) or 1
        cells = []
        for column, rows in enumerate(row):
            share = rows / total
            kind = "right" if column == code else "wrong"
            deep = " deep" if share > _DEEP else ""
            told = f"{names[code]} → {names[column]}: {rows:,} ({share:.0%})"
            part = f"<small>{share:.0%}</small>" if rows else ""
            empty = "" if rows else " empty"
            style = f'class="{kind}{deep}{empty}" style="--share: {share:.3f}"'
            cells.append(f'<td {style} title="{escape(told)}">{rows:,}{part}</td>')
        label = f'<th scope="row" title="{escape(names[code])}">{escape(cut(names[code], 18))}</th>'
        lines.append(f"<tr>{label}{''.join(cells)}</tr>")
    truth, predicted = _("truth"), _("predicted")
    corner = f'<th class="corner"><span>{escape(truth)} ↓</span> <span>{escape(predicted)} →</span></th>'
    return (
        f'<div class="scroll"><table class="matrix size-{min(size, 12)}"><thead><tr>{corner}{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _classes(found: Found) -> str:
    header = [_("class") if found.form != "labels" else _("label"), _("rows"), _("predicted")]
    header += [_("precision"), _("recall"), "F1"]
    known = any(each.low is not None for each in found.classes)
    header += [_("95% interval")] if known else []
    body = []
    for each in found.classes[:100]:
        row = [cut(each.label, 40), number(each.rows), number(each.decided)]
        row += [measured(value) for value in (each.precision, each.recall, each.f1)]
        body.append(row + ([span(each.low, each.high)] if known else []))
    return table(header, body)


def _reliability(found: Found) -> str:
    if len(found.reliability) < 2:
        return ""
    series = [("", found.reliability)]
    if found.uncalibrated:
        series = [(_("as read now"), found.reliability), (_("as trained"), found.uncalibrated)]
    low = min(min(bin.confidence, bin.accuracy) for _name, bins in series for bin in bins)
    start = 0.0 if low < 0.4 else 0.4
    plot = Plot(
        (start, 1.0), (min(start, low), 1.0), x_name=_("how sure the model was"), y_name=_("part that was right"),
        height=260,
    )  # fmt: skip
    plot.dashed((start, start), (1.0, 1.0))
    most = max(bin.rows for bin in found.reliability)
    for index, (_name, bins) in reversed(list(enumerate(series))):
        plot.line([(bin.confidence, bin.accuracy) for bin in bins], index, opacity=1 if index == 0 else 0.6)
        for bin in bins:
            text = _("{rows} rows").format(rows=f"{bin.rows:,}")
            radius = 2.4 + 4.5 * math.sqrt(bin.rows / most)
            plot.dots([(bin.confidence, bin.accuracy)], index, radius=radius, opacity=0.9, titles=[text])
    keys = [name for name, _bins in series] if len(series) > 1 else []
    return figure(_("Reliability"), plot.render(), unit=_("larger dots: more rows"), keys=keys)


def _roc(found: Found) -> str:
    if not found.roc:
        return ""
    plot = Plot((0, 1), (0, 1), x_name=_("false positive rate"), y_name=_("true positive rate"), height=260)
    plot.dashed((0, 0), (1, 1))
    return _areas(plot, found.roc, _("ROC"), _("area"))


def _precision_recall(found: Found) -> str:
    if not found.precision_recall:
        return ""
    plot = Plot((0, 1), (0, 1), x_name=_("recall"), y_name=_("precision"), height=260)
    return _areas(plot, found.precision_recall, _("Precision and recall"), _("average precision"))


def _areas(plot: Plot, curves: Sequence[Curve], name: str, unit: str) -> str:
    shown = curves[:COLOURS]
    for index, curve in reversed(list(enumerate(shown))):
        plot.line(curve.points, index)
    keys = [f"{cut(curve.label, 18)} {measured(curve.area)}" for curve in shown]
    return figure(name, plot.render(), unit=unit, keys=keys, told=f"{name}: {', '.join(keys)}")


def _scatter(found: Found) -> str:
    if len(found.scatter) < 3:
        return ""
    values = [value for point in found.scatter for value in point]
    low, high = min(values), max(values)
    room = (high - low) * 0.03
    ends = (low - room, high + room)
    plot = Plot(ends, ends, x_name=_("true {name}").format(name=cut(found.name)), y_name=_("predicted"), height=280)
    plot.dashed((ends[0], ends[0]), (ends[1], ends[1]))
    plot.dots(found.scatter, 0, radius=2.4, opacity=0.5)
    return figure(_("Predicted against true"), plot.render(), unit=_("dashed: exactly right"))


def _errors(found: Found) -> str:
    if not found.errors:
        return ""
    half, most = found.error_width / 2, max(rows for _middle, rows in found.errors)
    first, last = found.errors[0][0] - half, found.errors[-1][0] + half
    plot = Plot(
        (first, last), (0, most * 1.04), x_name=_("error of {name} (predicted − true)").format(name=cut(found.name)),
        y_name=_("rows"), height=280,
    )  # fmt: skip
    plot.bars([(middle - half, middle + half, rows) for middle, rows in found.errors])
    plot.dashed((0, 0), (0, most * 1.04))
    return figure(_("Errors"), plot.render(), unit=_("outermost bars: and beyond"))
