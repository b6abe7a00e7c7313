"""The report's page: everything escaped, nothing fetched, curves that say what the log says."""

from __future__ import annotations

import math
import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from reinforge import recipe as recipes
from reinforge.evaluation.answers import Answered, Answers, Group
from reinforge.evaluation.findings import Example
from reinforge.evaluation.report import Page, render
from reinforge.evaluation.report_curves import MOST_POINTS, charts, draw, summary
from reinforge.evaluation.report_examples import _example
from reinforge.evaluation.report_html import duration, measured, number, size, span
from reinforge.evaluation.svg import shown

VOID = {"meta", "br", "link", "img", "hr", "input"}
HOSTILE = '<script>alert("x")</script> & "quoted" \'single\''


class Strict(HTMLParser):
    """Fails on what is not closed; collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Strict:
    found = Strict()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def rows(n: int = 20) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(1, n + 1):
        place = {"updates": 50 * i, "seconds": i / 10, "epochs": i / 4}
        found.append({**place, "loss": 1 / i, "model/y": 1 / i, "model/lr": 1e-3, "model/grad_norm": 2 / i})
        if i % 5 == 0:
            found.append({**place, "evaluation/loss": 2 / i, "evaluation/accuracy": 1 - 1 / i})
    return found


def page(**changes: Any) -> Page:
    recipe = recipes.load("penguins")
    status = {
        "state": "finished", "reason": "patience", "clock": {"updates": 1000, "seconds": 83.2},
        "metrics": {"train/accuracy": 1.0, "test/accuracy": 0.9808, "test/loss": None}, "notes": ["a note"],
        "machine": {"device": "cpu", "threads": 2}, "in_memory": False,
    }  # fmt: skip
    values = {"recipe": recipe, "text": recipes.dump(recipe), "status": status, "rows": rows(), "version": "9.9"}
    return Page(**{**values, **changes})


@pytest.fixture(scope="module")
def html() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REINFORGE_LANG", "en")
        return render(page(stages=(page(), page(rows=rows(9)))))


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")


def test_it_tells_what_was_trained_and_how_it_ended(html: str) -> None:
    text = parsed(html).text
    for wanted in (
        "penguins", "finished", "Objective: supervised", "package:palmerpenguins/data/penguins.csv",
        "the monitored metric no longer improved", "0.9808", "1 min 23 s", "1,000", "a note", "device", "9.9",
        "kind: stratified",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_it_needs_nothing_but_itself(html: str) -> None:
    found = parsed(html)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed"}
    for _tag, attributes in found.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "url(http" not in html
    assert "@import" not in html


def test_everything_from_the_run_is_escaped() -> None:
    recipe = recipes.load("penguins", {"data.path": HOSTILE})
    status = {
        "state": HOSTILE, "reason": HOSTILE, "notes": [HOSTILE], "clock": {"updates": 3, "seconds": 1.0},
        "metrics": {f"test/{HOSTILE}": 1.0, HOSTILE: 2.0}, HOSTILE: HOSTILE, "machine": {HOSTILE: [HOSTILE]},
    }  # fmt: skip
    hostile = {"updates": 1, "loss": 1.0, f"{HOSTILE}/{HOSTILE}": 2.0, f"evaluation/{HOSTILE}": 3.0, "a/lr": 1.0}
    child = Page(recipe, HOSTILE, status, [hostile])
    html = render(page(recipe=recipe, text=HOSTILE, status=status, rows=[hostile], stages=(child,), version=HOSTILE))
    assert "<script" not in html
    assert 'alert("x")' not in html
    assert "alert(" in parsed(html).text


def test_every_reference_has_its_target(html: str) -> None:
    svg = re.findall(r'<(?:path|clipPath|g)[^>]* id="([^"]+)"', html)
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert references <= set(svg)


def test_what_counts_stands_on_top() -> None:
    folds = {"mean/train/accuracy": 1.0, "mean/test/accuracy": 0.987, "deviation/test/accuracy": 0.012}
    text = parsed(render(page(status={"state": "finished", "metrics": folds}))).text
    assert text.index("test: accuracy (mean)") < text.index("Metrics") < text.index("deviation")
    rewards = {"final/episodes": 100.0, "final/return": 487.5}
    text = parsed(render(page(status={"state": "finished", "metrics": rewards}))).text
    assert text.index("return (final)487.5") < text.index("Metrics")


def test_what_a_run_recorded_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {"state": "finished", "data": "", "in_memory": False, "skipped_updates": 0, "machine": {"threads": 2}}
    text = parsed(render(page(status={**recorded, "wall_seconds": 2.5}, rows=[]))).text
    assert "time in all2.5 s" in text
    assert not re.search("in memory|skipped|Recordeddata", text)
    text = parsed(render(page(status={**recorded, "in_memory": True, "skipped_updates": 3}, rows=[]))).text
    assert "data in memoryyes" in text
    assert text.count("skipped updates3") == 1
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    text = parsed(render(page(status=recorded, rows=[]))).text
    assert "线程2" in text
    assert "machine" not in text.lower()


def test_a_run_that_only_began_has_a_report_too() -> None:
    assert "running" in parsed(render(page(status={}, rows=[]))).text


def test_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    html = render(page(rows=rows(4)))
    assert '<html lang="zh-CN">' in html
    assert re.search(r"[\u4e00-\u9fff]", parsed(html).text)


def test_charts_group_what_belongs_together() -> None:
    found = {chart.title: chart for chart in charts(rows())}
    assert [curve.name for curve in found["Loss"].curves] == ["training", "held out"]
    # The one term of the one step is the loss itself.
    assert list(found) == ["Loss", "Accuracy", "Length of the gradient"]
    assert found["Loss"].curves[1].points == tuple((50.0 * i, 2 / i) for i in (5, 10, 15, 20))
    assert summary(found["Accuracy"]) == "Accuracy. Accuracy: from 0.8 to 0.95."


def test_what_never_changes_is_no_curve_of_how_it_ran() -> None:
    constant = [{"updates": i, "loss": 1.0, "model/lr": 1e-3, "updates_per_second": 100.0 * i} for i in (1, 2)]
    assert [chart.title for chart in charts(constant)] == ["Loss", "Speed"]
    assert charts(constant[:1]) == []  # one point is no course
    assert "Learning rate" in {chart.title for chart in charts([*constant, {"updates": 3, "model/lr": 1e-4}])}


def test_metrics_are_titled_as_people_write_them() -> None:
    measured = {"evaluation/r2": 0.9, "evaluation/mae": 1.0, "evaluation/log-loss": 2.0, "evaluation/f1": 0.5}
    found = charts([{"updates": i, **measured} for i in (1, 2)])
    assert [chart.title for chart in found] == ["R²", "MAE", "Log loss", "F1"]


def test_returns_are_drawn_over_environment_steps_with_their_spread() -> None:
    measured = {"evaluation/return": 50.0, "evaluation/return_min": 9.0, "evaluation/return_max": 99.0}
    logged = {"critic/td": 1.0, "actor/value": -1.0, "loss": 0.5, **measured}
    found = charts([{"updates": i, "steps": 800 * i, **logged} for i in (1, 2)])
    assert {chart.axis for chart in found} == {"steps"}
    assert found[0].title == "Return of an episode"
    assert found[0].curves[0].band == ((800.0, 9.0, 99.0), (1600.0, 9.0, 99.0))
    assert [chart.title for chart in found[2:]] == ["critic: td", "actor: value"]


def test_what_is_not_finite_leaves_gaps() -> None:
    found = charts([{"updates": 1, "loss": 1.0}, {"updates": 2, "loss": "nan"}, {"updates": 3, "loss": "inf"}])
    assert [math.isnan(y) for _, y in found[0].curves[0].points] == [False, True, True]
    assert charts([{"updates": 1, "loss": "nan"}]) == []
    assert "<svg" in draw(found[0])


def test_thinning_keeps_the_peaks() -> None:
    noise = random.Random(0)
    many = [{"updates": i, "loss": noise.random()} for i in range(20_000)]
    many[12_345]["loss"], many[777]["loss"] = 1000.0, -1000.0
    points = charts(many)[0].curves[0].points
    values = [y for _, y in points]
    assert len(points) <= MOST_POINTS
    assert max(values) == 1000.0
    assert min(values) == -1000.0
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_a_drawing_follows_the_pages_colours() -> None:
    svg = draw(charts(rows())[0])
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "#0101" not in svg
    assert svg == draw(charts(rows())[0])


def test_numbers_are_shown_as_people_read_them() -> None:
    assert [number(v) for v in (1234567, 0.98765, 1234.56, 3.0, None, True)] == [
        "1,234,567", "0.9877", "1,234.6", "3", "–", "yes",
    ]  # fmt: skip
    assert [duration(s) for s in (0.4213, 12.34, 245, 3600 * 3 + 1200)] == [
        "0.421 s",
        "12.3 s",
        "4 min 05 s",
        "3 h 20 min",
    ]
    assert [size(b) for b in (512, 3.4 * 2**20, 2**50)] == ["512 B", "3.4 MiB", "1.02e+03 TiB"]
    assert [shown(v) for v in (0, 500, 20_000, 1_500_000)] == ["0", "500", "20k", "1.5M"]
    assert [measured(v) for v in (0.98765, 40.2345, 1.6e-5, None)] == ["0.988", "40.23", "1.6e-05", "–"]
    assert [span(2e-9, 0.09), span(0.2, 0.31), span(None, 1.0)] == ["0.000 to 0.090", "0.200 to 0.310", ""]


def test_a_chinese_text_that_is_wider_than_a_line_has_lines_of_its_own() -> None:
    """Twenty-two Chinese characters are as wide as forty-four others, and would run out of their card."""
    for value, long in (
        ("地理位置还不错，到哪里都比较方便，但是服务", True),
        ("地理位置还不错", False),
        ("a nice place", False),
    ):
        example = Example(row=0, said="pos", truth="neg", cost=1.0, inputs={"text": value})
        assert ("class=long" in _example(example)) == long


def rewarded(n: int = 20) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(1, n + 1):
        step = {"reward": i / n, "flat": 0.5, "truncated": 0.0, "clipped": 0.0, "mismatch": 1e-7, "length": 3 + i / n}
        found.append({"updates": i, "loss": 1 / i, **{f"model/{name}": value for name, value in step.items()}})
        if i % 5 == 0:
            held = {"accuracy": i / n, "low": i / n - 0.1, "high": i / n + 0.1, "reward": i / n, "tokens": 3.0}
            found.append({"updates": i, **{f"evaluation/{name}": value for name, value in held.items()}})
    return found


def test_rewards_are_drawn_beside_those_of_held_out_questions() -> None:
    found = {chart.title: chart for chart in charts(rewarded())}
    assert next(iter(found)) == "Reward"
    assert [len(curve.points) for curve in found["Reward"].curves] == [20, 4]
    assert found["Accuracy"].curves[0].band[0] == (5, 0.15, 0.35)
    assert [curve.points[0][1] for curve in found["Length of a completion"].curves] == [3.05, 3.0]
    assert not {"Terms of model", "Low", "High", "Length of an episode"} & set(found)
    assert "Held back by the clipping of ratios" not in found, "nothing was"
    without = [{k: v for k, v in row.items() if k != "model/reward"} for row in rewarded()]
    assert "Reward" not in [chart.title for chart in charts(without) if len(chart.curves) > 1]


def test_what_a_model_wrote_is_shown_with_its_rewards() -> None:
    held = (Answered("47+38=", "85", "75", 0.0, True), Answered(HOSTILE, HOSTILE, HOSTILE, 1.0, True))
    group = Group("12+19=", "31", (("21", 0.0), ("31", 1.0), ("31", 1.0), (HOSTILE, 0.0)))
    many = Group("?", "!", tuple((str(i), i / 10) for i in range(10)))
    html = render(page(answers=Answers(held, (group, many))))
    found = parsed(html)
    assert not [tag for tag, _attributes in found.tags if tag == "script"]
    assert "47+38=8575" in found.text
    cards = found.text[found.text.index("12+19=") :]
    assert cards.index("2 × 31") < cards.index("1 × 21"), "the best rewarded first"
    assert "mean reward 0.500 of 4" in cards
    assert "and 2 more completions" in cards
    assert "What it writes" not in render(page(answers=Answers()))
