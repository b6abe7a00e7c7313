"""The whole road: recipes trained, resumed, begun from bundles, in stages and folds, from Python and by command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reinforge
from reinforge.errors import ComponentError, DataError, PathError, RecipeError, ReinforgeError
from reinforge.storage.folder import held
from reinforge.workflow.rehearsal import rehearse
from reinforge.workflow.run import Run
from reinforge.workflow.train import train
from tests.slices.states import differences

QUICK = ["learn.stop={epochs: 3}", "log.updates=5"]
LINEAR: dict[str, Any] = {
    "name": "line",
    "data": {"kind": "linear", "rows": 100, "weights": [2.0, -3.4], "bias": 4.2, "noise": 0.01, "scale": "none"},
    "model": {"kind": "composed", "body": "identity"},
    "objective": "supervised",
    "learn": {"batch": 70, "lr": 0.1, "optimizer": "sgd", "stop": {"epochs": 100}},
}


CARTPOLE: dict[str, Any] = {
    "name": "pole",
    "data": {"kind": "environment", "id": "CartPole-v1"},
    "model": {"kind": "q-network", "sizes": [16]},
    "objective": "dqn",
    "source": {"kind": "replay", "learning_starts": 64},
    "learn": {"stop": {"updates": 40}},
    "evaluate": {"episodes": 4},
}


def command(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """Run `reinforge` as a user would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **keywords.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "reinforge", *arguments], capture_output=True, text=True, env=environment, timeout=240,
        **keywords,
    )  # fmt: skip


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(LINEAR, output=tmp_path_factory.mktemp("line") / "run")


def test_gradient_descent_reaches_least_squares(line: Run) -> None:
    """The guide's case, against the closed form on the same training rows."""
    from reinforge.data.prepared import prepare

    prepared = prepare(line.recipe.data, line.recipe.seed)
    inputs, y = prepared.train["inputs"]["numbers"].double(), prepared.train["targets"]["y"].double()
    design = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    solution = torch.linalg.lstsq(design, y).solution[:, 0]
    weights = torch.cat([p.detach().double().flatten() for p in line.bundle.model.parameters()])
    torch.testing.assert_close(weights, solution, atol=2e-3, rtol=1e-3)
    assert line.metrics["test/r2"] > 0.999
    assert line.metrics["test/rmse"] < 0.02
    assert 0 < line.metrics["test/mae"] < line.metrics["test/rmse"]


def test_a_run_holds_what_it_promises(line: Run) -> None:
    assert {path.name for path in line.folder.iterdir()} >= {
        "recipe.yaml", "run.json", "log.jsonl", "checkpoints", "bundle", "report.html",
    }  # fmt: skip
    assert line.finished
    assert line.recipe.learn.lr == 0.1
    rows = list(line.log())
    assert rows[-1]["updates"] == 100
    assert any("evaluation/loss" in row for row in rows)
    assert line.bundle.provenance["data"] == line.status["data"]  # type: ignore[index,call-overload]
    assert reinforge.evaluate(line.bundle_path)["r2"] == pytest.approx(line.metrics["test/r2"])


def test_ships_the_best_weights_on_validation(tmp_path: Path) -> None:
    """A learning rate that diverges: the last weights are worse than the best."""
    changed = {**LINEAR, "learn": {**LINEAR["learn"], "lr": 1.2, "stop": {"epochs": 12}}}
    run = train(changed, output=tmp_path / "run")
    losses = [row["evaluation/loss"] for row in run.log() if "evaluation/loss" in row]
    assert run.metrics["validation/loss"] == pytest.approx(min(losses), rel=1e-5)
    assert losses[-1] > 2 * min(losses)


def test_fine_tuning_improves_and_leaves_the_old_bundle_alone(line: Run, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in line.bundle_path.iterdir()}
    shifted = {**LINEAR, "data": {**LINEAR["data"], "weights": [2.5, -3.0], "shift": 1.0, "seed": 9}}
    data = tmp_path / "shifted.csv"
    from reinforge.data.linear import generate
    from reinforge.recipe import load

    columns = generate(load(shifted).data)  # type: ignore[arg-type]
    data.write_text(
        "x1,x2,y\n" + "\n".join(f"{a!r},{b!r},{c!r}" for a, b, c in zip(*(v.tolist() for v in columns.values())))
    )
    old = reinforge.evaluate(line.bundle_path, data)
    tuned = train(
        {**shifted, "learn": {**LINEAR["learn"], "lr": 0.05}}, start=line.bundle_path, output=tmp_path / "run"
    )
    new = reinforge.evaluate(tuned.bundle_path, data)
    assert new["rmse"] < 0.1 * old["rmse"]
    assert {p.name: p.read_bytes() for p in line.bundle_path.iterdir()} == before
    assert tuned.bundle.parents == (line.bundle.digest,)
    # Schema and pipeline are the parent's.
    for name in ("schema.json", "pipeline.json", "pipeline.safetensors"):
        assert (tuned.bundle_path / name).read_bytes() == before[name]


def test_weights_that_do_not_fit_are_errors_unless_named(line: Run, tmp_path: Path) -> None:
    wider = {**LINEAR, "model": {"kind": "composed", "body": {"kind": "mlp", "sizes": [4]}}}
    with pytest.raises(ComponentError, match=r"heads\.y.*\(1, 2\) in the bundle, \(1, 4\) here"):
        train(wider, start=line.bundle_path, output=tmp_path / "a")
    run = train(wider, ["start.renew=['heads.*', 'body.*']"], start=line.bundle_path, output=tmp_path / "b")
    assert run.finished


def test_a_folder_that_is_there_is_not_touched(line: Run) -> None:
    with pytest.raises(PathError, match="not empty"):
        train(LINEAR, output=line.folder)
    assert train(resume=line.folder).metrics == line.metrics
    told = command("train", "--resume", str(line.folder), env={"REINFORGE_LANG": "en"})
    assert told.returncode == 0
    assert "the run was finished before" in told.stdout


def test_what_fails_before_anything_is_learned_leaves_no_folder(line: Run, tmp_path: Path) -> None:
    """So that the mended command can be given again."""
    staged = {**LINEAR, "stages": [{"name": "one", "data": {"kind": "table", "targets": ["y"], "path": "not.csv"}}]}
    for recipe, start in ((CARTPOLE, line.bundle_path), (staged, None)):
        with pytest.raises(ReinforgeError):
            train(recipe, start=start, output=tmp_path / "run")
        assert list(tmp_path.iterdir()) == []
    # What was learned before a later stage failed stays, to be resumed.
    staged["stages"].insert(0, {"name": "none", "learn": {"stop": {"epochs": 1}}})
    with pytest.raises(DataError, match=r"not\.csv"):
        train(staged, output=tmp_path / "run")
    assert Run(tmp_path / "run").stages[0].finished
    with pytest.raises(PathError, match="--resume"):
        train(LINEAR, output=tmp_path / "run")


def test_a_runs_folder_stands_for_its_bundle(line: Run, tmp_path: Path) -> None:
    run = train(LINEAR, start=line.folder, output=tmp_path / "run")
    assert run.bundle.parents == (line.bundle.digest,)


def test_one_process_at_a_time_trains_in_a_folder(line: Run, tmp_path: Path) -> None:
    """Two would prune each other's checkpoints and mix their logs."""
    folder = tmp_path / "run"
    shutil.copytree(line.folder, folder)
    Run(folder).write_status(state="interrupted")
    with held(folder), pytest.raises(PathError, match="another process is training in this folder"):
        train(resume=folder)
    assert (folder / "checkpoints").is_dir()
    train(resume=folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with held(empty):
        with pytest.raises(PathError, match="another process"):
            train(LINEAR, output=empty)
        assert empty.is_dir(), "what another process began is not removed"


def test_what_was_logged_before_the_first_checkpoint_is_not_logged_twice(tmp_path: Path) -> None:
    run = train(LINEAR, ["log.updates=20", "log.csv=true"], output=tmp_path / "run")
    whole = [row["updates"] for row in run.log()]
    table = len((run.folder / "log.csv").read_text().splitlines())
    for name in ("checkpoints", "bundle"):
        shutil.rmtree(run.folder / name)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"updates": 12')
    run.write_status(state="running")
    again = train(resume=run.folder)
    assert [row["updates"] for row in again.log()] == whole
    assert len((run.folder / "log.csv").read_text().splitlines()) == table


def test_another_kind_of_bundle_is_refused(line: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="form 'table'"):
        train(CARTPOLE, start=line.bundle_path, output=tmp_path / "run")


def test_folds_are_children_with_mean_and_deviation(tmp_path: Path) -> None:
    run = train("penguins", [*QUICK, "data.split={kind: folds, folds: 3}"], output=tmp_path / "run")
    each = [child.metrics["test/accuracy"] for child in run.stages]
    assert len(each) == 3
    assert run.metrics["mean/test/accuracy"] == pytest.approx(np.mean(each))
    assert run.metrics["deviation/test/accuracy"] == pytest.approx(np.std(each, ddof=1))
    assert run.finished
    assert train(resume=run.folder).metrics == run.metrics


def test_stages_begin_from_the_bundle_before(tmp_path: Path) -> None:
    stages = [{"name": "first", "learn": {"stop": {"epochs": 40}}}, {"name": "second", "learn": {"lr": 0.01}}]
    run = train({**LINEAR, "stages": stages}, output=tmp_path / "run")
    first, second = run.stages
    assert second.bundle.parents == (first.bundle.digest,)
    assert run.bundle.digest == second.bundle.digest
    # The second goes on where the first ended, instead of from new weights.
    loss = {
        r.folder.name: next(row["evaluation/loss"] for row in r.log() if "evaluation/loss" in row) for r in run.stages
    }
    assert loss["01-second"] < 0.1 * loss["00-first"]


def test_a_policy_is_the_same_in_bundle_evaluation_and_resume(tmp_path: Path) -> None:
    run = train(CARTPOLE, output=tmp_path / "run")
    bundle = run.bundle
    observation = [[0.1, -0.2, 0.05, 0.3], [0.0, 0.0, -0.1, 0.0]]
    actions = [p["action"]["action"] for p in bundle.predict([{"observation": o} for o in observation])]
    scores = bundle.model({"observation": torch.tensor(observation)})[0]["action"]
    assert actions == scores.argmax(-1).tolist()
    one, two = (reinforge.evaluate(run.bundle_path, episodes=6) for _ in range(2))
    assert one == two
    assert one["episodes"] == 6
    assert run.metrics["final/episodes"] == 100


def frame(rows: int = 300) -> dict[str, Any]:
    g = np.random.default_rng(0)
    x = g.normal(size=(rows, 2))
    return {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(x.sum(1) > 0, "up", "down").tolist()}


def test_python_data_without_a_recipe(tmp_path: Path) -> None:
    run = train(data=frame(), target="y", overrides=["learn.stop.epochs=20"], output=tmp_path / "run")
    assert run.metrics["test/accuracy"] > 0.8
    assert run.bundle.predict([{"a": 3.0, "b": 2.0}])[0]["y"]["label"] == "up"


class Net(nn.Module):
    """A user's own network: (rows, 2) to logits (rows, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_a_users_own_module(tmp_path: Path) -> None:
    run = reinforge.train(
        model=Net(), data=frame(), target="y", overrides=["learn={lr: 0.01, stop: {epochs: 20}}"], output=tmp_path / "r"
    )
    assert run.metrics["test/accuracy"] > 0.8
    with pytest.raises(ComponentError, match="Net"):
        reinforge.load(run.bundle_path)
    bundle = reinforge.load(run.bundle_path, modules={"Net": Net})
    assert bundle.predict([{"a": -3.0, "b": -2.0}])[0]["y"]["label"] == "down"


def test_any_iterable_is_a_source(tmp_path: Path) -> None:
    """A DataLoader and a generator, a network of one's own, and a bundle that predicts raw rows."""
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    run = train(model=Net(), data=loader, overrides=["learn={lr: 0.01, stop: {epochs: 20}}"], output=tmp_path / "a")
    bundle = reinforge.load(run.bundle_path, modules={"Net": Net})
    assert bundle.predict([{"input": [2.0, 1.0]}])[0]["target"]["label"] == "1"
    with pytest.raises(DataError, match="row 0"):
        bundle.predict([{"input": [2.0]}])
    assert run.recipe.model.name == "Net"  # type: ignore[attr-defined]
    with pytest.raises(ComponentError, match="given in Python"):
        reinforge.train(run.recipe, data=loader, output=tmp_path / "b")
    stream = ((x[i : i + 20], x[i : i + 20, 0] * 3) for i in range(0, 200, 20))
    once = train(model=nn.Linear(2, 1), data=stream, output=tmp_path / "c")
    assert once.status["reason"] == "end"
    assert once.status["clock"]["updates"] == 10
    with pytest.raises(DataError, match="pair"):
        train(model=Net(), data=iter([3]), output=tmp_path / "d")


def test_missing_arguments_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="recipe"):
        train()
    with pytest.raises(DataError):
        train(
            {**LINEAR, "data": {"kind": "table", "targets": ["y"], "path": "/nowhere/there.csv"}},
            output=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_a_dry_run_leaves_nothing_and_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = rehearse(LINEAR)
    assert found.estimated_seconds is not None
    assert found.estimated_seconds == pytest.approx(100 * found.seconds_per_update)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_and_csv(tmp_path: Path) -> None:
    run = train(LINEAR, ["log={updates: 10, csv: true, tensorboard: true}"], output=tmp_path / "run")
    assert len((run.folder / "log.csv").read_text().splitlines()) > 10
    assert any((run.folder / "tensorboard").iterdir())


LONG = [
    "linear-regression",
    "learn.stop={epochs: 4000}",
    "learn.batch=1",
    "checkpoint={seconds: null, updates: 100}",
    "log.updates=1000",
]


def _wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if any((folder / "checkpoints").glob("0*")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no checkpoint came")


def test_ctrl_c_checkpoints_and_prints_the_command_that_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "reinforge", "train", *LONG, "-o", str(folder)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGINT)
    _out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    resume = re.search(r"reinforge (train --resume \S+)", error)
    assert resume
    assert Run(folder).status["state"] == "interrupted"
    # Less work left, so that the test ends soon: the recipe of the run is what resuming reads.
    text = (folder / "recipe.yaml").read_text()
    done = Run(folder).status["clock"]["epochs"]
    (folder / "recipe.yaml").write_text(text.replace("epochs: 4000", f"epochs: {int(done) + 2}"))
    again = command(*resume[1].split())
    assert again.returncode == 0, again.stderr
    assert Run(folder).finished


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Through the command line, evaluation and bundle included."""
    short = [*LONG]
    short[1] = "learn.stop={epochs: 30}"
    whole = train(short[0], short[1:], output=tmp_path / "whole")
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "reinforge", "train", *short, "-o", str(folder)], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _wait_for_checkpoint(folder, process)
    process.kill()
    process.wait()
    assert not Run(folder).finished
    resumed = train(resume=folder)
    assert not list(differences(dict(whole.bundle.model.state_dict()), dict(resumed.bundle.model.state_dict())))
    assert resumed.metrics == whole.metrics


def test_two_ranks_by_torchrun(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    arguments = ["train", "linear-regression", "learn.stop={epochs: 5}", "--json", "-o"]
    two = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
         f"--master-port={port}", "-m", "reinforge", *arguments, str(tmp_path / "two")],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    one = command(*arguments, str(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    metrics = [json.loads(r.stdout.splitlines()[-1])["metrics"] for r in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)


def test_a_run_of_a_file_is_named_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reinforge.workflow.train import resolve

    names = {
        "my birds.csv": "my-birds", "data/birds.csv.gz": "birds", "package:birds/data/penguins.csv": "penguins",
        "sqlite:///people.db": "people", "pixels:sklearn:digits": "digits", "parts/*.csv": "run", "folder/": "folder",
    }  # fmt: skip
    assert {path: resolve(None, data=path, target="y").name for path in names} == names
    assert resolve(None, data={"x": [1.0], "y": [2.0]}, target="y").name == "run"
