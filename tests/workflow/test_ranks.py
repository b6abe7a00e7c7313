"""Runs of several processes by torchrun: children, interruption and resuming."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from reinforge.workflow.run import Run

LINE: dict[str, Any] = {
    "name": "line",
    "data": {"kind": "linear", "rows": 100, "weights": [2.0, -3.4], "bias": 4.2, "noise": 0.01, "scale": "none"},
    "model": {"kind": "composed", "body": "identity"},
    "objective": {"kind": "supervised"},
    "learn": {"batch": 35, "lr": 0.05, "optimizer": {"kind": "sgd"}, "stop": {"epochs": 20}},
}


def start(*arguments: str) -> subprocess.Popen[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
         f"--master-port={port}", "-m", "reinforge", "train", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    try:
        _out, error = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, error


def write(path: Path, recipe: dict[str, Any]) -> str:
    path.write_text(json.dumps(recipe))
    return str(path)


def test_stages_of_two_ranks(tmp_path: Path) -> None:
    stages = [{"name": "first"}, {"name": "second", "learn": {"lr": 0.01}}]
    recipe = write(tmp_path / "recipe.yaml", {**LINE, "stages": stages})
    finish(start(recipe, "-o", str(tmp_path / "run")))
    run = Run(tmp_path / "run")
    first, second = run.stages
    assert run.finished
    assert second.bundle.parents == (first.bundle.digest,)
    assert run.bundle.digest == second.bundle.digest


def test_ctrl_c_on_two_ranks_checkpoints_and_goes_on(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the launcher and both ranks, and the launcher hands it on once more."""
    recipe = {**LINE, "learn": {**LINE["learn"], "stop": {"epochs": 4000}}}
    recipe["checkpoint"] = {"seconds": None, "updates": 50}
    path, folder = write(tmp_path / "recipe.yaml", recipe), tmp_path / "run"
    process = start(path, "-o", str(folder))
    for _ in range(1200):
        if any((folder / "checkpoints").glob("0*")):
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert Run(folder).status["state"] == "interrupted", error
    clock = Run(folder).status["clock"]
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("epochs: 4000", f"epochs: {int(clock['epochs']) + 2}"))
    finish(start("--resume", str(folder)))
    run = Run(folder)
    assert run.finished
    assert run.status["clock"]["updates"] > clock["updates"]
    # How far it came before the signal is a matter of the machine.
    assert run.metrics["train/rmse"] < 0.5
