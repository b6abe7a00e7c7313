"""A run's report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from reinforge.evaluation.answers import Answers
from reinforge.evaluation.data_card import DataCard, embedded
from reinforge.evaluation.data_card_charts import FRESH
from reinforge.evaluation.explanation import Explanation
from reinforge.evaluation.findings import Findings
from reinforge.evaluation.folds import spread
from reinforge.evaluation.report_answers import written
from reinforge.evaluation.report_curves import EVALUATION, Chart, Row, charts, draw, summary
from reinforge.evaluation.report_explained import explained
from reinforge.evaluation.report_html import (
    document,
    duration,
    figure,
    figures,
    measured,
    number,
    pairs,
    paragraph,
    section,
    size,
    span,
    table,
)
from reinforge.evaluation.report_names import SIDES, kind, metric, side
from reinforge.evaluation.report_policy import at_work, warnings
from reinforge.evaluation.report_results import results, verdict
from reinforge.evaluation.report_seeds import Seed, over_seeds
from reinforge.evaluation.report_seeds import tiles as tiles_of_seeds
from reinforge.evaluation.report_style import STYLE
from reinforge.messages import _, mark
from reinforge.recipe.recipe import Recipe

TILES = 4
# Long tables are cut: the log has every row.
MOST_ROWS = 200
_FEW_COLUMNS = 12
# Of which side of the split the first that is there is what counts.
COUNTS = ("iqm", "mean", "final", "test", "validation", "train")

STATES = {
    "created": mark("created"),
    "running": mark("running"),
    "interrupted": mark("interrupted"),
    "finished": mark("finished"),
    "failed": mark("failed"),
}
REASONS = {
    "updates": mark("it had made all its updates"),
    "epochs": mark("it had gone through all its epochs"),
    "samples": mark("it had seen all its samples"),
    "tokens": mark("it had seen all its tokens"),
    "steps": mark("it had taken all its environment steps"),
    "seconds": mark("its time was over"),
    "loss": mark("the training loss was low enough"),
    "goal": mark("it reached its goal"),
    "patience": mark("the monitored metric no longer improved"),
    "end": mark("its source was exhausted"),
    "interrupted": mark("it was interrupted"),
    "fitted": mark("it was fitted at once"),
    "stages": mark("all its stages were done"),
    "folds": mark("all its folds were done"),
    "seeds": mark("all its seeds were trained"),
}
# Of an interval: no metrics of their own.
ENDS = ("low", "high")
# Which of many metrics stand on top, where the recipe monitors none.
FIRST = ("accuracy", "return", "bits_per_character", "r2", "rmse", "f1", "log-loss", "mae", "loss")
# What a run records of itself, in words; what has none here goes by its key.
RECORDED = {
    "in_memory": mark("data in memory"),
    "data": mark("data"),
    "skipped_updates": mark("skipped updates"),
    "wall_seconds": mark("time in all"),
    "machine": mark("machine"),
    "peak_memory_bytes": mark("most memory"),
    "device": mark("device"),
    "threads": mark("threads"),
    "processor": mark("processor"),
    "system": mark("system"),
    "torch": "PyTorch",
    "python": "Python",
}


@dataclass(frozen=True)
class Page:
    """What a report shows of one run.

    `status` is its run.json, `text` its resolved recipe, `rows` its log; `stages` are its child runs in order.
    `findings` are about held-out rows, where there were any; `card` is about the data, where they are a table;
    `explanation` is what a classic model goes by; `use` are commands that use the model, with what they do; `clip` is
    an animated WebP of a policy at work; `answers` are what a rewarded model wrote.
    """

    recipe: Recipe
    text: str
    status: Mapping[str, Any]
    rows: Sequence[Row]
    stages: tuple[Page, ...] = ()
    version: str = ""
    findings: Findings | None = None
    card: DataCard | None = None
    explanation: Explanation | None = None
    use: Sequence[tuple[str, str]] = ()
    clip: bytes | None = None
    answers: Answers | None = None


def render(page: Page) -> str:
    """The whole page in the language to speak now. Everything from the run is escaped."""
    title = _("{name}: report").format(name=page.recipe.name)
    found = page.findings
    parts = [
        _head(page),
        warnings(page.rows),
        verdict(found) if found else "",
        _tiles(page),
        results(found) if found else "",
    ]
    parts += [explained(page.explanation) if page.explanation else "", _clip(page)]
    parts += [
        over_seeds(_of_seeds(page)) if _seeded(page) else "",
        _metrics(page),
        _folds(page),
        _stages(page),
        _curves(page),
        written(page.answers) if page.answers else "",
    ]
    parts += [_data(page), _facts(page), _notes(page)]
    parts += [_use(page), _evaluations(page), _recipe(page)]
    footer = _("Written by Reinforge {version} from the run's own log; every logged row is in log.jsonl.")
    body = "\n".join(part for part in parts if part)
    return document(title, body, footer.format(version=page.version), f"{STYLE}\n{FRESH}")


def _head(page: Page) -> str:
    state = str(page.status.get("state", "running"))
    label = _(STATES[state]) if state in STATES else state
    reason = page.status.get("reason")
    ending = ""
    if reason and state != "running":
        ending = " " + _("It ended because {reason}.").format(reason=_(REASONS.get(str(reason), str(reason))))
    recipe = page.recipe
    about = _("Model: {model}. Objective: {objective}. Data: {data}.")
    about = about.format(model=_kind(recipe.model), objective=_kind(recipe.objective), data=_described(recipe))
    shown = f'<span class="state {"finished" if state == "finished" else ""}">{escape(label)}</span>'
    return (
        f'<header>\n<div class="head"><h1>{escape(recipe.name)}</h1>{shown}</div>\n'
        f'<p class="lede">{escape(about + ending)}</p>\n</header>'
    )


def _tiles(page: Page) -> str:
    told = page.findings is not None
    chosen = [] if told or _seeded(page) else _chief(page, TILES - 1)
    tiles = [(name, number(value)) for name, value in chosen]
    if _seeded(page):
        tiles = tiles_of_seeds(_of_seeds(page))
    if page.findings is not None:
        rows = page.findings.sides
        tiles += [(_("rows: {side}").format(side=side(name)), f"{count:,}") for name, count in rows.items()]
    if weights := page.status.get("parameters"):
        # More digits than this do not fit beside the other tiles.
        tiles.append((_("weights"), number(weights) if weights < 1e7 else f"{weights / 1e6:,.1f} M"))
    if seconds := _clock(page).get("seconds"):
        tiles.append((_("training time"), duration(float(seconds))))
    if not tiles:
        return ""
    inner = "".join(f'<div class="tile"><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>' for n, v in tiles)
    return f'<dl class="tiles">{inner}</dl>'


def _chief(page: Page, most: int) -> list[tuple[str, object]]:
    """The metrics that matter first: of the split that counts, the monitored one, then those that people know."""
    metrics: Mapping[str, Any] = page.status.get("metrics") or {}
    split = next((s for s in COUNTS if any(name.startswith(f"{s}/") for name in metrics)), None)
    prefix = f"{split}/" if split else ""
    short = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    wanted = (page.recipe.evaluate.monitor, *FIRST, *(f"test/{name}" for name in FIRST), *short)
    names = list(dict.fromkeys(name for name in wanted if name in short and name not in ENDS))[:most]
    place = f" ({side(split)})" if split else ""
    return [(metric(name) + place, short[name]) for name in names]


def _clip(page: Page) -> str:
    """The policy at work; of several seeds the one in the middle."""
    clip = page.clip
    if _seeded(page):
        played = [
            stage for stage in page.stages if stage.clip and "final/return" in (stage.status.get("metrics") or {})
        ]
        played.sort(key=lambda stage: stage.status["metrics"]["final/return"])
        clip = played[len(played) // 2].clip if played else None
    return at_work(clip) if clip else ""


def _metrics(page: Page) -> str:
    """Of every side of the split; what they mean stands above, where there are findings."""
    metrics: Mapping[str, Any] = page.status.get("metrics") or {}
    if not metrics or _folded(page) or _seeded(page):
        return ""
    splits = [s for s in SIDES if any(name.startswith(f"{s}/") for name in metrics)]
    rows: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        split, _slash, short = name.partition("/")
        known = split in splits
        rows.setdefault(short if known else name, {})[split if known else ""] = value
    columns = splits + ([""] if any("" in row for row in rows.values()) else [])
    header = [_("metric"), *(side(column) if column else _("value") for column in columns)]
    body = [
        [metric(name), *(number(row[column]) if column in row else "" for column in columns)]
        for name, row in rows.items()
    ]
    inner = f'<div class="narrow">{table(header, body)}</div>'
    if page.findings is None:
        return section(_("Metrics"), inner)
    return _folded_away(_("Metrics of all sides of the split"), inner)


def _folded(page: Page) -> bool:
    return page.status.get("reason") == "folds" and bool(page.stages)


def _of_seeds(page: Page) -> list[Seed]:
    return [Seed(each.recipe.name, each.status.get("metrics") or {}, each.rows) for each in page.stages]


def _seeded(page: Page) -> bool:
    return page.recipe.seeds is not None and bool(page.stages)


def _folds(page: Page) -> str:
    """Each metric of the held-out side over the folds."""
    if not _folded(page):
        return ""
    found = spread([stage.status.get("metrics") or {} for stage in page.stages])
    tested = {name: each for name, each in found.items() if name.startswith("test/")} or found
    header = [_("metric"), _("mean"), _("deviation"), _("95% interval"), *(str(i) for i in range(len(page.stages)))]
    body = [
        [
            metric(name.removeprefix("test/")), measured(each.mean), measured(each.deviation),
            span(each.low, each.high), *(measured(value) for value in each.values),
        ]
        for name, each in tested.items()
    ]  # fmt: skip
    told = _(
        "Every row was tested once, by a model that never saw it. The intervals are for the mean, corrected for the "
        "training rows that folds share (Nadeau and Bengio)."
    )
    return section(_("Folds"), table(header, body) + paragraph(told, "note"))


def _data(page: Page) -> str:
    """The columns, what they were read as, and how many rows stand on each side; the whole data card folded away."""
    card = page.card or (page.stages[0].card if _folded(page) else None)
    inner = ""
    if page.findings is not None and page.findings.columns:
        roles = {"input": _("input"), "target": _("target")}
        body = [
            [each.name, roles.get(each.role, each.role), kind(each.kind), each.about] for each in page.findings.columns
        ]
        shown = table([_("column"), _("role"), _("kind"), ""], body[:MOST_ROWS], left=(0, 1, 2, 3))
        inner = paragraph(_("{n} columns of {data}.").format(n=f"{len(body):,}", data=_described(page.recipe)))
        if len(body) <= _FEW_COLUMNS:
            inner += shown
        elif card is None:
            inner += _folded_away(_("All columns"), shown)
    if card is not None:
        inner += _folded_away(_("Data card"), embedded(card), "card")
    return section(_("The data"), inner) if inner else ""


def _folded_away(name: str, inner: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f"<details{named}><summary>{escape(name)}</summary>{inner}</details>"


def _use(page: Page) -> str:
    if not page.use:
        return ""
    items = "".join(f"<dt>{escape(told)}</dt><dd><code>{escape(command)}</code></dd>" for told, command in page.use)
    return section(_("How to use it"), f'<dl class="use">{items}</dl>')


def _facts(page: Page) -> str:
    status, clock = page.status, _clock(page)
    counters = {
        "updates": _("updates"), "epochs": _("epochs"), "samples": _("samples"), "tokens": _("tokens"),
        "steps": _("environment steps"),
    }  # fmt: skip
    course = [(label, number(clock[key])) for key, label in counters.items() if clock.get(key)]
    if seconds := clock.get("seconds"):
        course.append((_("training time"), duration(float(seconds))))
        if clock.get("updates") and status.get("reason") != "fitted":
            course.append((_("updates per second"), number(clock["updates"] / float(seconds))))
    logged: Any = next((row["skipped_updates"] for row in reversed(page.rows) if "skipped_updates" in row), 0)
    if skipped := status.get("skipped_updates", logged):
        course.append((_("skipped updates"), number(skipped)))
    groups = [(_("How far"), course)]
    made = [(_("seed"), str(page.recipe.seed)), (_("precision of numbers"), page.recipe.learn.precision)]
    if status.get("reason") != "fitted":
        made += [(_("learning rate"), number(page.recipe.learn.lr)), (_("batch"), number(page.recipe.learn.batch))]
    groups.append((_("With what"), made))
    told = {"state", "reason", "clock", "metrics", "notes", "warnings", "skipped_updates", "parameters"}
    # Whether data came from memory is worth a line only where they did: such a run can't be resumed by a command.
    told |= set() if status.get("in_memory") else {"in_memory"}
    alone = {key: value for key, value in status.items() if key not in told and not isinstance(value, Mapping)}
    groups.append((_("Recorded"), _flat(alone)))
    groups += [
        (_recorded(name).capitalize(), _flat(value))
        for name, value in status.items()
        if name not in told and isinstance(value, Mapping)
    ]
    inner = "".join(f"<div><h3>{escape(title)}</h3>{pairs(facts)}</div>" for title, facts in groups if facts)
    return section(_("The run"), f'<div class="facts">{inner}</div>')


def _notes(page: Page) -> str:
    notes = page.status.get("notes") or []
    if not notes:
        return ""
    items = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
    return section(_("Notes"), f'<ul class="notes">{items}</ul>')


def _stages(page: Page) -> str:
    if not page.stages:
        return ""
    several = _folded(page) or _seeded(page)
    header = [_("run") if several else _("stage"), _("state"), _("updates"), _("training time"), _("main metric")]
    body = []
    for stage in page.stages:
        clock, state = _clock(stage), str(stage.status.get("state", ""))
        main = ", ".join(f"{name} {number(value)}" for name, value in _chief(stage, 1))
        label = _(STATES[state]) if state in STATES else state
        time = duration(float(clock.get("seconds") or 0))
        body.append([stage.recipe.name, label, number(clock.get("updates", 0)), time, main])
    inner = table(header, body, left=(0, 1, 4))
    for stage in page.stages:
        found = stage.findings
        parts = [verdict(found), results(found)] if found else []
        parts += [explained(stage.explanation)] if stage.explanation else []
        parts += [warnings(stage.rows), _metrics(stage), _notes(stage), _curves(stage)]
        parts += [written(stage.answers) if stage.answers else "", _recipe(stage)]
        name = f'<h3 class="stage">{escape(stage.recipe.name)}</h3>'
        inner += _folded_away(stage.recipe.name, name + "".join(part for part in parts if part))
    name = _("Folds, one by one") if _folded(page) else _("Seeds, one by one") if _seeded(page) else _("Stages")
    return section(name, inner)


def _curves(page: Page) -> str:
    found = charts(page.rows)
    titles = {"learning": _("What it learned"), "running": _("How it ran")}
    parts = []
    for group, name in titles.items():
        drawn = figures(_figure(chart) for chart in found if chart.group == group)
        if drawn:
            parts.append(section(name, drawn))
    return "\n".join(parts)


def _figure(chart: Chart) -> str:
    keys = [curve.name for curve in chart.curves] if len(chart.curves) > 1 else []
    units = [chart.unit] if chart.unit else []
    units += [_("logarithmic")] if chart.logarithmic else []
    units += [_("bold: moving mean")] if chart.noisy else []
    return figure(chart.title, draw(chart), unit=", ".join(units), keys=keys, told=summary(chart))


def _evaluations(page: Page) -> str:
    rows = [row for row in page.rows if any(name.startswith(EVALUATION) for name in row)]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith(EVALUATION)))
    places = [name for name in ("updates", "epochs", "steps") if any(name in row for row in rows)]
    labels = {"updates": _("updates"), "epochs": _("epochs"), "steps": _("environment steps")}
    header = [*(labels[p] for p in places), *(metric(n.removeprefix(EVALUATION)) for n in names)]
    body = [[number(row.get(name, "")) for name in (*places, *names)] for row in rows[-MOST_ROWS:]]
    name = _("All evaluations")
    if len(rows) > MOST_ROWS:
        name = _("The last {n} evaluations of {total}").format(n=MOST_ROWS, total=len(rows))
    return _folded_away(name, table(header, body, left=()))


def _recipe(page: Page) -> str:
    return _folded_away(_("The resolved recipe"), f"<pre>{escape(page.text)}</pre>")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Whatever else was recorded, one line each: nothing a run says of itself is lost."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = _recorded(key)
        if value is None or value in ("", [], {}):
            continue
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name} ")
        elif key.endswith("bytes") and isinstance(value, (int, float)):
            found.append((prefix + name.removesuffix(" bytes"), size(value)))
        elif key.endswith("seconds") and isinstance(value, (int, float)):
            found.append((prefix + name.removesuffix(" seconds"), duration(value)))
        else:
            found.append((prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else number(value)))
    return found


def _recorded(key: str) -> str:
    return _(RECORDED[key]) if key in RECORDED else key.replace("_", " ")


def _clock(page: Page) -> Mapping[str, Any]:
    """How far the run is: by its status, or while it runs by its last logged row."""
    clock: Mapping[str, Any] = page.status.get("clock") or (page.rows[-1] if page.rows else {})
    return clock


def _kind(options: object) -> str:
    return str(getattr(options, "kind", "?"))


def _described(recipe: Recipe) -> str:
    where = next((v for v in (getattr(recipe.data, n, None) for n in ("id", "path", "resource")) if v), None)
    shown: Callable[[str], str] = str
    name = shown(_kind(recipe.data))
    return f"{name} {where}" if where else name
