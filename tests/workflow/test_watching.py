"""What goes wrong in a training is said in the log, at the end, and in the report; once, over an interruption too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import reinforge
from reinforge.cli import main
from reinforge.evaluation.diagnosis import told
from reinforge.workflow.run import Run
from reinforge.workflow.train import train

GREEDY: dict[str, Any] = {
    "name": "greedy",
    "data": {"kind": "environment", "id": "CartPole-v1", "count": 1},
    "model": {"kind": "q-network", "sizes": [8]},
    "objective": "dqn",
    "source": {"kind": "replay", "learning_starts": 64, "updates_per_step": 20.0},
    "learn": {"stop": {"updates": 80}, "compile": "off"},
    "log": {"updates": 1},
    "evaluate": {"episodes": 2, "clip": False},
}
SAID = "updates for each step in the environment"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REINFORGE_LANG", "en")
        return train(GREEDY, output=tmp_path_factory.mktemp("greedy") / "run")


def test_a_warning_is_in_the_log_once(run: Run) -> None:
    rows = list(run.log())
    assert [finding.name for finding in told(rows)] == ["replay-ratio"]
    place = next(index for index, row in enumerate(rows) if "warning" in row)
    assert rows[place]["updates"] == rows[place - 1]["updates"] == 30
    assert rows[place]["value"] > 4


def test_it_is_told_at_the_end_and_in_the_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [SAID in text for text in run.summary()["warnings"]] == [True]
    monkeypatch.setenv("REINFORGE_LANG", "en")
    page = reinforge.report(run).read_text()
    assert page.count(SAID) == 1
    assert "Lower source.updates_per_step" in page
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    assert "环境每走一步就有" in reinforge.report(run).read_text()


def test_a_resumed_run_says_it_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")
    for begun in (20, 40):  # before the sign was found, and after
        folder = tmp_path / str(begun)
        changed = {**GREEDY, "checkpoint": {"updates": begun, "keep": 9}}
        first = train(changed, output=folder)
        # As killed after its first checkpoint, long after which it had gone on logging.
        for path in sorted((folder / "checkpoints").iterdir())[1:]:
            if path.is_dir():
                shutil.rmtree(path)
        shutil.rmtree(folder / "bundle")
        first.write_status(state="interrupted")
        again = train(resume=folder)
        assert [finding.name for finding in told(again.log())] == ["replay-ratio"]
        assert len(again.status["warnings"]) == 1
        assert [row["updates"] for row in again.log() if "warning" in row] == [30]


def test_what_goes_well_has_no_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["source.updates_per_step=1", "learn.stop.updates=40"]
    calm = train(GREEDY, quick, output=tmp_path / "run")
    assert "warnings" not in calm.status
    assert "warnings" not in calm.summary()
    assert 'class="warnings"' not in (calm.folder / "report.html").read_text()


def test_by_command_and_over_seeds(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reinforge import recipe as recipes

    path = tmp_path / "greedy.yaml"
    path.write_text(recipes.dump(recipes.load(GREEDY)))
    assert main(["train", str(path), "-o", str(tmp_path / "run"), "--seeds", "2", "--json"]) == 0
    shown = capsys.readouterr().out
    warnings = json.loads(shown.splitlines()[-1])["warnings"]
    assert [text[:7] for text in warnings] == ["seed-0:", "seed-1:"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cartpole-dqn", "cartpole-ppo", "cartpole-rainbow", "frozenlake-q"])
def test_shipped_recipes_give_no_warnings(recipe: str, tmp_path: Path) -> None:
    done = train(recipe, ["evaluate.clip=false"], output=tmp_path / "run")
    assert list(told(done.log())) == []
