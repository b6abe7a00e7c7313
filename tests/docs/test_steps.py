"""docs/steps.md: every command and script runs as it stands, in an empty folder, in the page's order."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_quickstart import environment

PAGE = Path(__file__).parents[2] / "docs" / "steps.md"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_run_as_they_stand(tmp_path: Path) -> None:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert [language for language, _script in blocks].count("bash") >= 6
    told = ""
    for language, script in blocks:
        command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, script], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        told += done.stdout
    # The species that nobody had foreseen is there, behind the known ones.
    schema = json.loads((tmp_path / "runs" / "later" / "bundle" / "schema.json").read_text("utf-8"))
    target = next(field for field in schema["fields"] if field["name"] == "species")
    assert target["labels"] == ["Adelie", "Chinstrap", "Gentoo"]
    assert "the best, on rows that chose nothing:" in told
    assert "temperature" in told
