"""`make demo`: it walks the whole road, says what came out, leaves nothing running, and ends in time."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("prepare", "train", "evaluate", "fine-tune", "predict", "serve")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_walks_the_whole_road(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(tmp_path / "demo")]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "REINFORGE_LANG": "en"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = done.stdout[done.stdout.index("recipe  ") :]
    found = re.findall(r"^(penguins|cartpole-dqn) +([\w-]+) +[\d.]+  (.+)$", table, re.MULTILINE)
    assert [(recipe, stage) for recipe, stage, _ in found] == [
        (recipe, stage) for recipe in ("penguins", "cartpole-dqn") for stage in STAGES
    ]
    results = {(recipe, stage): result for recipe, stage, result in found}
    before, after = re.findall(r"accuracy ([\d.]+) before, ([\d.]+) after", results["penguins", "fine-tune"])[0]
    assert float(after) > float(before)
    assert "push 0, right: push 1" in results["cartpole-dqn", "predict"]
    assert (tmp_path / "demo" / "cartpole" / "report.html").is_file()
    # The servers are gone: nobody listens where they did.
    for port in re.findall(r"http://127\.0\.0\.1:(\d+)/v1", done.stdout):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0
