"""docs/quickstart.md and the README: every command runs as it stands, in an empty folder, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def environment() -> dict[str, str]:
    binaries = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "REINFORGE_LANG": "en"}


def test_every_command_named_in_the_docs_is_a_verb() -> None:
    known = {path.stem for path in (ROOT / "src" / "reinforge" / "cli").glob("*.py")}
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("README*.md")]
    named = {
        verb
        for page in pages
        for verb in re.findall(r"(?:^|\$ |`|    )reinforge ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"train", "prepare", "serve", "doctor"} <= named
    assert named <= known


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    commands = blocks(PAGE, "bash")
    assert len(commands) >= 6
    for script in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (tmp_path / "predictions.csv").read_text("utf-8").count("\n") == 4
    assert (tmp_path / "runs" / "penguins" / "report.html").is_file()
    assert "parents" in (tmp_path / "runs" / "tuned" / "bundle" / "manifest.json").read_text("utf-8")
    for script in blocks(PAGE, "python"):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "'species': {'label': 'Gentoo'" in done.stdout


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path: Path) -> None:
    # The READMEs name files of one's own; the penguins stand in for them.
    from reinforge.data.reading.places import files_of

    penguins = files_of("package:palmerpenguins/data/penguins.csv", Path(), ())[0][0].read_bytes()
    for name in ("birds.csv", "new-birds.csv"):
        (tmp_path / name).write_bytes(penguins)
    scripts = {script for page in ROOT.glob("README*.md") for script in blocks(page, "python")}
    assert len(scripts) == 1
    for script in scripts:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
