"""Seeds and folds at once, in processes of their own: the same to the bit, interrupted and resumed; their errors."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforge.errors import ReinforgeError
from reinforge.workflow import children
from reinforge.workflow.run import Run
from reinforge.workflow.train import train

POLE: dict[str, Any] = {
    "name": "pole",
    "seed": 3,
    "data": {"kind": "environment", "id": "CartPole-v1"},
    "model": {"kind": "q-network", "sizes": [16]},
    "objective": "dqn",
    "source": {"kind": "replay", "learning_starts": 64},
    "learn": {"stop": {"updates": 40}, "threads": 1},
    "evaluate": {"episodes": 4, "clip": False},
}
# Where the parent interrupts them: long enough to be in the midst of it.
LONG = {"learn.stop.updates": 1_000_000, "checkpoint.seconds": 1}


def _weights(run: Run) -> list[dict[str, torch.Tensor]]:
    return [child.bundle.model.state_dict() for child in run.stages]


def test_they_are_what_they_would_be_alone(tmp_path: Path) -> None:
    one = train(POLE, seeds=2, output=tmp_path / "one")
    two = train(POLE, seeds=2, jobs=2, output=tmp_path / "two")
    assert two.finished
    assert two.metrics == one.metrics
    for mine, theirs in zip(_weights(two), _weights(one)):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert [child.folder.name for child in two.stages] == ["00-seed-3", "01-seed-4"]


def test_an_error_of_one_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = {**POLE, "source": {"kind": "transitions", "path": str(tmp_path / "none.npz")}}
    with pytest.raises(ReinforgeError, match="no such file") as caught:
        train(broken, seeds=2, jobs=2, output=tmp_path / "run")
    assert caught.value.exit_status == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_interrupted_they_save(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("stages/*/checkpoints/[!.]*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    run = train(POLE, LONG, seeds=2, jobs=2, output=folder)
    thread.join()
    assert run.status["state"] == "interrupted"
    assert [child.status["state"] for child in run.stages] == ["interrupted"] * 2
    assert all(list((child.folder / "checkpoints").glob("*")) for child in run.stages)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_left_to_itself_it_begins_processes_where_they_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def together(runs: list[Run], jobs: int, report: Any) -> bool:
        counted.append(jobs)
        return all(train(resume=run.folder).finished for run in runs)

    monkeypatch.setattr(children, "train_at_once", together)
    monkeypatch.setattr(children, "processors", lambda: 2)
    quick = train(POLE, {"learn.stop.updates": 2}, seeds=3, jobs=None, output=tmp_path / "quick")
    assert (quick.finished, counted) == (True, [])
    monkeypatch.setattr(children, "_WORTH_SECONDS", 0.0)
    slow = train(POLE, {"learn.stop.updates": 2}, seeds=3, jobs=None, output=tmp_path / "slow")
    assert (slow.metrics, counted) == (quick.metrics, [2])
    train(POLE, {"learn.stop.updates": 2, "learn.threads": None}, seeds=3, jobs=None, output=tmp_path / "threads")
    assert counted == [2], "it may want all processors for each"
