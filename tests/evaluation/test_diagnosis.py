"""Each sign is found in a made log that shows it, once, and not in one that is well."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reinforge.evaluation.diagnosis import TEXTS, Finding, Setting, Watcher, told

Row = dict[str, Any]
Course = Callable[[int], float]


def log(**courses: Any) -> Iterator[Row]:
    """Lines of a training that goes well, but for what is given: a number, or a function of the line's number."""
    usual: dict[str, Any] = {
        "loss": 0.1,
        "updates": lambda line: 50 * (line + 1),
        "steps": lambda line: 400 * (line + 1),
        "training/return": lambda line: 20.0 + 3 * line,
        "training/length": lambda line: 20.0 + 3 * line,
        "training/shift": 0.4,
        "training/epsilon": lambda line: max(0.05, 1 - line / 30),
        "q/q": lambda line: min(10.0, 0.2 * line),
        "ppo/entropy": lambda line: 0.69 * math.exp(-line / 100),
        "ppo/kl": 0.01,
        "ppo/explained": lambda line: 1 - math.exp(-line / 20),
    }
    courses = {name.replace("__", "/"): course for name, course in courses.items()}
    for line in range(150):
        yield {name: course(line) if callable(course) else course for name, course in {**usual, **courses}.items()}
        yield {"updates": 50 * (line + 1), "evaluation/return": -1e9, "evaluation/length": 1.0}


def watch(rows: Iterator[Row], **setting: Any) -> list[Finding]:
    chosen = {"most_entropy": math.log(2), "exploration": 12_000.0, **setting}
    watcher = Watcher(Setting(**chosen))
    return [finding for row in rows for finding in watcher.take(row)]


flat: Course = lambda line: 20.0 + math.sin(line)  # noqa: E731

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "q-explodes": ({"q__q": lambda line: min(1e12, 1.3**line)}, {}),
    "entropy-collapsed": ({"ppo__entropy": 0.001, "training__return": flat}, {"exploration": None}),
    "kl-far": ({"ppo__kl": 0.5}, {}),
    "values-explain-nothing": ({"ppo__explained": -0.4}, {}),
    "replay-ratio": ({"steps": lambda line: 5 * (line + 1)}, {}),
    "rewards-large": ({"training__return": lambda line: -9e4 * (1 - line / 200)}, {}),
    "rewards-small": ({"training__return": lambda line: 1e-5 * line, "q__q": 0.0}, {}),
    "normaliser-unsettled": ({"training__shift": 6.0}, {}),
    "nothing-learned": ({"training__return": flat}, {}),
}


def test_a_training_that_goes_well_gets_no_warning() -> None:
    assert watch(log()) == []
    assert watch(log(), most_entropy=None, numbers=3, kl_limit=0.02) == []


@pytest.mark.parametrize("name", CASES)
def test_each_sign_is_found_once_and_alone(name: str) -> None:
    courses, setting = CASES[name]
    found = watch(log(**courses), **setting)
    assert [each.name for each in found] == [name]
    assert math.isfinite(found[0].value)


def test_every_text_has_its_case() -> None:
    assert set(CASES) == set(TEXTS)


@pytest.mark.parametrize("name", CASES)
def test_a_few_bad_lines_are_no_sign(name: str) -> None:
    courses, setting = CASES[name]

    def briefly(course: Any, usual: Any) -> Course:
        return lambda line: (course if line in (60, 61) else usual)(line)

    usual = next(log())
    changed = {}
    for key, course in courses.items():
        whole = key.replace("__", "/")
        if whole in ("steps", "training/return"):
            continue
        given = course if callable(course) else (lambda line, value=course: value)
        changed[key] = briefly(given, lambda line, value=usual[whole]: value)
    assert watch(log(**changed), **setting) == []


def test_what_was_solved_may_be_sure_and_what_fell_again_is_told() -> None:
    sure: Any = {"ppo__entropy": 0.001}
    assert watch(log(**sure)) == []
    fell = log(**sure, training__return=lambda line: 200.0 if 20 < line < 60 else 20.0)
    assert [each.name for each in watch(fell)] == ["entropy-collapsed"]


def test_continuous_actions_are_judged_by_each_number() -> None:
    rows: Any = {"ppo__entropy": -10.0, "training__return": flat}
    assert watch(log(**rows), most_entropy=None, numbers=6, exploration=None) == []
    assert [each.name for each in watch(log(**rows), most_entropy=None, numbers=2, exploration=None)] == [
        "entropy-collapsed"
    ]


def test_scaled_rewards_are_not_judged_by_true_returns() -> None:
    assert watch(log(**CASES["rewards-large"][0]), scaled=True) == []


def test_the_limit_of_a_recipe_counts() -> None:
    assert watch(log(ppo__kl=0.1)) == []
    assert [each.name for each in watch(log(ppo__kl=0.1), kl_limit=0.02)] == ["kl-far"]


def test_values_that_are_no_numbers_are_passed_over() -> None:
    assert watch(log(**{"q__q": "nan", "ppo__kl": math.nan, "loss": "inf"})) == []


def test_a_log_tells_of_what_was_found_and_is_not_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(Setting(most_entropy=math.log(2)))
    rows = list(log(ppo__kl=0.5))
    written = []
    for row in rows:
        written.append(row)
        written += [finding.row() for finding in watcher.take(row)]
    again = list(told(written))
    assert [each.name for each in again] == ["kl-far"]
    watcher.forget()
    assert [finding for row in written for finding in watcher.take(row)] != []  # the sign comes before its line
    watcher.forget()
    half = written[: written.index(again[0].row()) + 1]
    first = [finding for row in half for finding in watcher.take(row)]
    assert [each.name for each in first] == ["kl-far"]
    assert [finding for row in written[len(half) :] for finding in watcher.take(row)] == []
    monkeypatch.setenv("REINFORGE_LANG", "en")
    assert "a KL divergence of 0.5 nats. Lower learn.lr" in again[0].text()
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    assert "KL 散度 0.5 奈特" in again[0].text()
