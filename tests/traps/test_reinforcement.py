"""Every trap of reinforcement learning has tests by name, and they fail when it is sprung."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.traps.reinforcement import TRAPS, Slip

ROOT = Path(__file__).parents[2]
SLIPS = [pytest.param(f"{name}/{i}", slip, id=f"{name}/{i}") for name in TRAPS for i, slip in enumerate(TRAPS[name])]


@pytest.mark.parametrize(("name", "slip"), SLIPS)
def test_its_test_is_there_and_the_slip_fits(name: str, slip: Slip) -> None:
    file, _, test = slip.test.partition("::")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    assert callable(getattr(module, test, None)), f"{slip.test} is gone: name the test that stands before {name!r} now"
    source = (ROOT / "src" / "reinforge" / slip.module).read_text("utf-8")
    assert source.count(slip.old) == 1, f"{slip.module} has another form: say how {name!r} is sprung now"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "slip"), SLIPS)
def test_its_test_fails_when_it_is_sprung(name: str, slip: Slip) -> None:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "tests.traps.spring", "-p", "no:cacheprovider", slip.test]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "REINFORGE_SLIP": name, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1, f"{slip.test} does not notice it:\n{done.stdout[-2000:]}{done.stderr[-1000:]}"
