"""docs/rl: links lead somewhere, and the quickstart's commands run as they stand, in an empty folder, in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_quickstart import blocks, environment

FOLDER = Path(__file__).parents[2] / "docs" / "rl"


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target.partition("#")[0]).resolve().exists(), target


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    page = FOLDER / "quickstart.md"
    for script in blocks(page, "bash"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for script in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "{'action': {'action': " in done.stdout
    for clip in ("pole.gif", "lake.gif", "python.gif"):
        assert (tmp_path / clip).read_bytes()[:6] == b"GIF89a"
    assert (tmp_path / "runs" / "lake" / "clip.webp").is_file()
