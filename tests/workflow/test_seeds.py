"""Several seeds of one recipe: runs of their own, resumable, reported and evaluated together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import trim_mean

import reinforge
from reinforge.cli import main
from reinforge.errors import PathError, RecipeError
from reinforge.workflow.run import Run
from reinforge.workflow.train import train

POLE: dict[str, Any] = {
    "name": "pole",
    "seed": 3,
    "data": {"kind": "environment", "id": "CartPole-v1"},
    "model": {"kind": "q-network", "sizes": [16]},
    "objective": "dqn",
    "source": {"kind": "replay", "learning_starts": 64},
    "learn": {"stop": {"updates": 60}},
    "evaluate": {"episodes": 4, "every": 20, "unit": "updates"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(POLE, seeds=5, output=tmp_path_factory.mktemp("seeds") / "run")


def test_each_seed_is_a_run_of_its_own(run: Run, tmp_path: Path) -> None:
    assert [child.folder.name for child in run.stages] == [f"{i:02d}-seed-{i + 3}" for i in range(5)]
    assert [child.recipe.seed for child in run.stages] == [3, 4, 5, 6, 7]
    assert all(child.recipe.seeds is None and child.finished for child in run.stages)
    alone = train({**POLE, "seed": 5}, output=tmp_path / "alone")
    assert run.stages[2].metrics == alone.metrics
    assert (run.status["reason"], run.finished) == ("seeds", True)


def test_its_metrics_are_theirs_together(run: Run) -> None:
    returns = [child.metrics["final/return"] for child in run.stages]
    assert len(set(returns)) > 1
    assert run.metrics["iqm/final/return"] == pytest.approx(trim_mean(returns, 0.25))
    low, high = run.metrics["low/final/return"], run.metrics["high/final/return"]
    assert min(returns) <= low < run.metrics["iqm/final/return"] < high <= max(returns)
    told = run.summary()["metrics"]
    assert list(told) == [f"{each}/final/return" for each in ("iqm", "low", "high", "mean", "deviation")]


def test_it_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    stopped = Run(folder)
    shutil.rmtree(stopped.stages[4].folder)
    broken = stopped.stages[3]
    for name in ("bundle", "checkpoints"):
        shutil.rmtree(broken.folder / name)
    broken.write_status(state="interrupted")
    stopped.write_status(state="interrupted", metrics={})
    kept = (stopped.stages[0].folder / "run.json").stat().st_mtime_ns
    assert train(resume=folder).metrics == run.metrics
    assert (Run(folder).stages[0].folder / "run.json").stat().st_mtime_ns == kept


def test_all_seeds_are_evaluated_together(run: Run) -> None:
    found = reinforge.evaluate(run.folder, episodes=6)
    alone = [reinforge.evaluate(child, episodes=6) for child in run.stages]
    returns = [one["return"] for one in alone]
    assert found["each"]["return"] == returns
    assert found["iqm"]["return"] == pytest.approx(trim_mean(returns, 0.25))
    low, high = found["intervals"]["return"]
    assert min(returns) <= low < high <= max(returns)
    assert found["seeds"] == [f"seed-{n}" for n in range(3, 8)]
    assert (found["episodes"], found["actions"]) == (6, "deterministic")
    assert "seed" not in found["iqm"]


def test_an_evaluation_states_its_interval_and_its_actions(run: Run) -> None:
    child = run.stages[0]
    found = reinforge.evaluate(child, episodes=30)
    assert found == reinforge.evaluate(child, episodes=30)
    assert found != reinforge.evaluate(child, episodes=30, seed=1)
    for name in ("return", "return_iqm"):
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    with pytest.raises(reinforge.ReinforgeError, match="no distribution to draw actions from"):
        reinforge.evaluate(child, episodes=2, stochastic=True)


def test_one_report_shows_all_seeds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")
    page = reinforge.report(run).read_text()
    assert "5 seeds together" in page
    assert "Return, interquartile mean over 5 seeds" in page
    assert all(f"seed-{n}" in page for n in range(3, 8))
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    assert "5 个种子合在一起" in reinforge.report(run).read_text()


def test_it_has_no_bundle_of_its_own(run: Run) -> None:
    with pytest.raises(PathError, match="the run has several bundles") as caught:
        reinforge.load(run.folder)
    assert "00-seed-3/bundle" in str(caught.value)


def test_seeds_of_a_table_and_of_stages(tmp_path: Path) -> None:
    stages = [{"name": "one", "learn": {"stop": {"epochs": 2}}}, {"name": "two", "seed": 9}]
    quick = {"learn.stop.epochs": 3, "evaluate.baselines": False, "stages": stages}
    found = train("penguins", quick, seeds=2, output=tmp_path / "run")
    assert [stage.recipe.seed for child in found.stages for stage in child.stages] == [0, 9, 1, 10]
    accuracy = [child.metrics["test/accuracy"] for child in found.stages]
    assert found.metrics["mean/test/accuracy"] == pytest.approx(sum(accuracy) / 2)
    assert reinforge.evaluate(found)["each"]["accuracy"] == pytest.approx(accuracy)


def test_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["learn.stop={updates: 3}", "evaluate.episodes=2", "evaluate.every=null", "source.learning_starts=64"]
    assert main(["train", "cartpole-dqn", *quick, "--seeds", "2", "-o", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["reason"] == "seeds"
    assert "iqm/final/return" in told["metrics"]
    assert main(["evaluate", "run", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["iqm"]["length"] > 0
    assert main(["train", "--resume", "run", "--seeds", "2"]) == 2
    with pytest.raises(RecipeError, match="seeds"):
        train(POLE, seeds=0)
