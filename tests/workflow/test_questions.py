"""Rewards for answers, from a recipe: begun from a bundle, measured, and exactly resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

import reinforge
from reinforge import recipe as recipes
from reinforge.errors import RecipeError
from reinforge.workflow.measured import read_answers
from tests.bundle import made

RECIPE = {
    "name": "asked",
    "data": {"kind": "questions", "reward": {"kind": "regex", "pattern": "a"}, "asked": 4, "tokens": 6},
    "model": {"kind": "decoder"},
    "objective": {"kind": "grpo", "preset": "dapo", "mask_truncated": False},
    "source": {"kind": "completions", "prompts": 4, "group": 8, "max_tokens": 6, "redraw": 1},
    "learn": {"batch": 32, "lr": 1e-2, "stop": {"updates": 12}, "threads": 1},
    "evaluate": {"every": 6, "unit": "updates"},
    "log": {"updates": 1},
}
ASKED = ("why", "how", "who", "what", "when", "where")
ROWS = [{"prompt": prompt, "answer": "a"} for prompt in ASKED]


def test_rewards_raise_what_they_pay_for(tmp_path: Path) -> None:
    made.chat_bundle(tmp_path / "start")
    run = reinforge.train(
        {**RECIPE, "model": {"kind": "decoder", "context": 96}},
        data=ROWS,
        start=tmp_path / "start",
        output=tmp_path / "run",
    )
    log = [row["model/reward"] for row in run.log() if "model/reward" in row]
    assert log[-1] > log[0] + 0.2
    answers = read_answers(run.folder)
    assert answers is not None
    assert {each.prompt for each in answers.held} | {group.prompt for group in answers.groups} <= set(ASKED)
    assert [len(group.completions) for group in answers.groups] == [8] * 4
    shown = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "What it writes" in shown
    assert f"{answers.groups[0].prompt}</b>" in shown
    assert run.bundle.form.pipeline.template.name == "chatml"
    assert not run.status.get("warnings")
    with pytest.raises(RecipeError, match="none to begin with"):
        reinforge.train(RECIPE, data=ROWS, output=tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"data.reward": {"kind": "regex", "pattern": "never such a text"}}, "no group has any spread", "source.group"),
        (
            {"source.max_tokens": 1, "data.tokens": 1, "objective.mask_truncated": True}, "every completion was cut",
            "raise source.max_tokens",
        ),
    ],
)  # fmt: skip
def test_what_can_teach_nothing_is_kept_with_the_run(
    changes: dict[str, object], cause: str, remedy: str, tmp_path: Path
) -> None:
    """Said once, not once an update; in the run, its report, and by its cause and remedy."""
    made.chat_bundle(tmp_path / "start")
    recipe = recipes.load({**RECIPE, "model": {"kind": "decoder", "context": 96}}, {**changes, "learn.stop.updates": 3})
    run = reinforge.train(recipe, data=ROWS, start=tmp_path / "start", output=tmp_path / "run")
    told = [text for text in run.status["warnings"] if cause in text]
    assert len(told) == 1
    assert remedy in told[0]
    assert cause in (run.folder / "report.html").read_text(encoding="utf-8")
