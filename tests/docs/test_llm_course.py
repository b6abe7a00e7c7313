"""docs/llm/course.md: every command runs, in an empty folder, in the page's order; and it learns what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_quickstart import environment

PAGE = Path(__file__).parents[2] / "docs" / "llm" / "course.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
READ, IMITATE, REWARD = 0, 2, 6


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_runs(tmp_path: Path) -> None:
    """With two updates in place of hundreds, and with their warming up left out."""
    assert len(BLOCKS) == 8
    trained = 0
    for block in BLOCKS:
        short = re.sub(r"stop(: \{updates: |\.updates=)\d+", r"stop\g<1>2", block)
        run(short.replace("warmup: 50", "warmup: 1"), tmp_path)
        trained += len(re.findall("reinforge train", block))
    assert len(list((tmp_path / "runs").iterdir())) == trained == 7
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_learns_what_the_page_says(tmp_path: Path) -> None:
    """As it stands: the right answer is in the imitator, and rewards bring it out."""
    run(BLOCKS[READ], tmp_path)
    imitated, paid = run(BLOCKS[IMITATE], tmp_path), run(BLOCKS[REWARD], tmp_path)
    (greedy, _drawn), (after,) = (
        [float(value) for value in re.findall(r"^accuracy +([\d.]+)", told, re.MULTILINE)] for told in (imitated, paid)
    )
    (tried,) = re.findall(r"^pass@8 +([\d.]+)", imitated, re.MULTILINE)
    assert float(tried) > greedy + 0.1
    assert after > greedy + 0.15
