"""docs/rl: links lead somewhere, and the quickstart's commands run as they stand, in an empty folder, in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reinforge import recipe as recipes
from tests.docs.test_quickstart import blocks, environment

FOLDER = Path(__file__).parents[2] / "docs" / "rl"


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target.partition("#")[0]).resolve().exists(), target


PLAIN: dict[str, dict[str, object]] = {
    "data": {"kind": "environment", "id": "CartPole-v1"}, "model": {"kind": "q-network"}, "objective": {"kind": "dqn"},
    "source": {"kind": "replay"},
}  # fmt: skip


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_recipes_and_options_in_the_text_are_ones(page: Path) -> None:
    """Every block of YAML, over a plain recipe where it is only a part; and every `section: {...}` in a sentence."""
    sections = "data|model|objective|source|learn|evaluate|checkpoint|log"
    inline = re.findall(rf"`((?:{sections}): \{{[^`]*\}})`", page.read_text("utf-8"))
    for text in [*blocks(page, "yaml"), *inline]:
        given = yaml.safe_load(text)
        assert isinstance(given, dict), text
        for name, part in PLAIN.items():
            there = given.get(name, part)
            given[name] = there if isinstance(there, str) or "kind" in there else part | there
        recipes.load(given)


@pytest.mark.slow
@pytest.mark.timeout(1800)
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
    for clip in ("pole.gif", "lake.gif", "lander.gif", "python.gif"):
        assert (tmp_path / clip).read_bytes()[:6] == b"GIF89a"
    assert (tmp_path / "runs" / "lake" / "clip.webp").is_file()
