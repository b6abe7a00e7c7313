"""A run's report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from reinforge.evaluation.report_curves import COLOURS, EVALUATION, Chart, Row, charts, draw, summary
from reinforge.evaluation.report_style import STYLE
from reinforge.messages import _, language, mark
from reinforge.recipe.recipe import Recipe

TILES = 4
# Long tables are cut: the log has every row.
MOST_ROWS = 200
# Columns of the table of metrics, and of which of them the first that is there is what counts.
SPLITS = (mark("train"), mark("validation"), mark("test"), mark("final"), mark("mean"), mark("deviation"))
COUNTS = ("mean", "final", "test", "validation", "train")
_SHORT = 14

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
    "stages": mark("all its stages were done"),
    "folds": mark("all its folds were done"),
}
# Which of many metrics stand on top, where the recipe monitors none.
FIRST = ("accuracy", "return", "bits_per_character", "r2", "rmse", "f1", "log-loss", "mae", "loss")
# What a run records of itself, in words; what has none here goes by its key.
RECORDED = {
    "in_memory": mark("data in memory"),
    "data": mark("data"),
    "skipped_updates": mark("skipped updates"),
    "wall_seconds": mark("time in all"),
    "machine": mark("machine"),
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
    """

    recipe: Recipe
    text: str
    status: Mapping[str, Any]
    rows: Sequence[Row]
    stages: tuple[Page, ...] = ()
    version: str = ""


def render(page: Page) -> str:
    """The whole page in the language to speak now. Everything from the run is escaped."""
    title = _("{name}: report").format(name=page.recipe.name)
    parts = [_head(page), _tiles(page), _metrics(page), _facts(page), _notes(page), _stages(page), _curves(page)]
    parts += [_evaluations(page), _recipe(page)]
    footer = _("Written by Reinforge {version} from the run's own log; every logged row is in log.jsonl.")
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="{"zh-CN" if language() == "zh_CN" else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{STYLE}
</style>
</head>
<body>
<main>
{body}
<footer>{escape(footer.format(version=page.version))}</footer>
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
    if isinstance(value, int) or (value == math.floor(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


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


def _head(page: Page) -> str:
    state = str(page.status.get("state", "running"))
    label = _(STATES[state]) if state in STATES else state
    reason = page.status.get("reason")
    ending = ""
    if reason and state != "running":
        ending = " " + _("It ended because {reason}.").format(reason=_(REASONS.get(str(reason), str(reason))))
    recipe = page.recipe
    about = _("Model: {model}. Objective: {objective}. Data: {data}.")
    about = about.format(model=_kind(recipe.model), objective=_kind(recipe.objective), data=_data(recipe))
    shown = f'<span class="state {"finished" if state == "finished" else ""}">{escape(label)}</span>'
    return (
        f'<header>\n<div class="head"><h1>{escape(recipe.name)}</h1>{shown}</div>\n'
        f'<p class="lede">{escape(about + ending)}</p>\n</header>'
    )


def _tiles(page: Page) -> str:
    chosen = _chief(page, TILES - 1)
    seconds = _clock(page).get("seconds")
    tiles = [(name, number(value)) for name, value in chosen]
    if seconds:
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
    names = list(dict.fromkeys(name for name in wanted if name in short))[:most]
    place = f" ({_(split)})" if split else ""
    return [(name.replace("_", " ") + place, short[name]) for name in names]


def _metrics(page: Page) -> str:
    metrics: Mapping[str, Any] = page.status.get("metrics") or {}
    if not metrics:
        return ""
    splits = [s for s in SPLITS if any(name.startswith(f"{s}/") for name in metrics)]
    rows: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        split, _slash, short = name.partition("/")
        known = split in splits
        rows.setdefault(short if known else name, {})[split if known else ""] = value
    columns = splits + ([""] if any("" in row for row in rows.values()) else [])
    header = [_("metric"), *(_(column) if column else _("value") for column in columns)]
    body = [
        [name.replace("_", " "), *(number(row[column]) if column in row else "" for column in columns)]
        for name, row in rows.items()
    ]
    return _section(_("Metrics"), f'<div class="narrow">{_table(header, body)}</div>')


def _facts(page: Page) -> str:
    status, clock = page.status, _clock(page)
    counters = {
        "updates": _("updates"), "epochs": _("epochs"), "samples": _("samples"), "tokens": _("tokens"),
        "steps": _("environment steps"),
    }  # fmt: skip
    course = [(label, number(clock[key])) for key, label in counters.items() if clock.get(key)]
    if seconds := clock.get("seconds"):
        course.append((_("training time"), duration(float(seconds))))
        if clock.get("updates"):
            course.append((_("updates per second"), number(clock["updates"] / float(seconds))))
    logged: Any = next((row["skipped_updates"] for row in reversed(page.rows) if "skipped_updates" in row), 0)
    if skipped := status.get("skipped_updates", logged):
        course.append((_("skipped updates"), number(skipped)))
    groups = [(_("How far"), course)]
    made = [(_("seed"), str(page.recipe.seed)), (_("precision"), page.recipe.learn.precision)]
    made += [(_("learning rate"), number(page.recipe.learn.lr)), (_("batch"), number(page.recipe.learn.batch))]
    groups.append((_("With what"), made))
    told = {"state", "reason", "clock", "metrics", "notes", "skipped_updates"}
    # Whether data came from memory is worth a line only where they did: such a run can't be resumed by a command.
    told |= set() if status.get("in_memory") else {"in_memory"}
    alone = {key: value for key, value in status.items() if key not in told and not isinstance(value, Mapping)}
    groups.append((_("Recorded"), _flat(alone)))
    groups += [
        (_recorded(name).capitalize(), _flat(value))
        for name, value in status.items()
        if name not in told and isinstance(value, Mapping)
    ]
    inner = "".join(f"<div><h3>{escape(title)}</h3>{_pairs(pairs)}</div>" for title, pairs in groups if pairs)
    return _section(_("The run"), f'<div class="facts">{inner}</div>')


def _notes(page: Page) -> str:
    notes = page.status.get("notes") or []
    if not notes:
        return ""
    items = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
    return _section(_("Notes"), f'<ul class="notes">{items}</ul>')


def _stages(page: Page) -> str:
    if not page.stages:
        return ""
    header = [_("stage"), _("state"), _("updates"), _("training time"), _("main metric")]
    body = []
    for stage in page.stages:
        clock, state = _clock(stage), str(stage.status.get("state", ""))
        main = ", ".join(f"{name} {number(value)}" for name, value in _chief(stage, 1))
        label = _(STATES[state]) if state in STATES else state
        time = duration(float(clock.get("seconds") or 0))
        body.append([stage.recipe.name, label, number(clock.get("updates", 0)), time, main])
    inner = _table(header, body, left=(1, 4))
    for stage in page.stages:
        parts = [_head(stage).replace("h1>", "h3>"), _metrics(stage), _notes(stage), _curves(stage), _recipe(stage)]
        inner += f'<section class="stage">{"".join(part for part in parts if part)}</section>'
    return _section(_("Stages"), inner)


def _curves(page: Page) -> str:
    found = charts(page.rows)
    titles = {"learning": _("What it learned"), "running": _("How it ran")}
    sections = []
    for group, title in titles.items():
        figures = "".join(_figure(chart) for chart in found if chart.group == group)
        if figures:
            sections.append(_section(title, f'<div class="charts">{figures}</div>'))
    return "\n".join(sections)


def _figure(chart: Chart) -> str:
    keys = ""
    if len(chart.curves) > 1:
        keys = "".join(
            f'<span class="key" style="--colour: var(--series-{index % COLOURS + 1})">{escape(curve.name)}</span>'
            for index, curve in enumerate(chart.curves)
        )
    units = [chart.unit] if chart.unit else []
    units += [_("logarithmic")] if chart.logarithmic else []
    units += [_("bold: moving mean")] if chart.noisy else []
    unit = f'<span class="unit">{escape(", ".join(units))}</span>' if units else ""
    return (
        f'<figure role="group" aria-label="{escape(summary(chart))}">'
        f"<figcaption><h3>{escape(chart.title)}</h3>{unit}{keys}</figcaption>\n{draw(chart)}</figure>"
    )


def _evaluations(page: Page) -> str:
    rows = [row for row in page.rows if any(name.startswith(EVALUATION) for name in row)]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith(EVALUATION)))
    places = [name for name in ("updates", "epochs", "steps") if any(name in row for row in rows)]
    labels = {"updates": _("updates"), "epochs": _("epochs"), "steps": _("environment steps")}
    header = [*(labels[p] for p in places), *(n.removeprefix(EVALUATION).replace("_", " ") for n in names)]
    body = [[number(row.get(name, "")) for name in (*places, *names)] for row in rows[-MOST_ROWS:]]
    title = _("All evaluations")
    if len(rows) > MOST_ROWS:
        title = _("The last {n} evaluations of {total}").format(n=MOST_ROWS, total=len(rows))
    return f"<details><summary>{escape(title)}</summary>{_table(header, body, left=())}</details>"


def _recipe(page: Page) -> str:
    title = _("The resolved recipe")
    return f"<details><summary>{escape(title)}</summary><pre>{escape(page.text)}</pre></details>"


def _section(title: str, inner: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{inner}\n</section>"


def _table(header: Sequence[str], body: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table; the first column names the row unless `left` is empty, other columns are numbers unless in `left`."""

    def cell(tag: str, column: int, text: str) -> str:
        aligned = "" if column in left or (column == 0 and left) else ' class="number"'
        return f"<{tag}{aligned}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column, text) for column, text in enumerate(header))
    lines = "".join(
        "<tr>" + "".join(cell("th" if c == 0 and left else "td", c, text) for c, text in enumerate(row)) + "</tr>"
        for row in body
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in pairs)
    return f"<table><tbody>{lines}</tbody></table>"


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


def _data(recipe: Recipe) -> str:
    where = next((v for v in (getattr(recipe.data, n, None) for n in ("id", "path", "resource")) if v), None)
    shown: Callable[[str], str] = str
    kind = shown(_kind(recipe.data))
    return f"{kind} {where}" if where else kind
