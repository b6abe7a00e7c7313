"""Help comes at once, in both languages, and loads nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from reinforge.cli import main
from reinforge.cli.application import VERBS
from reinforge.cli.output import table
from reinforge.messages.width import width

# A third of a second on a quiet machine; tests share theirs, so the best of several counts, with room to spare.
SECONDS = 0.6


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REINFORGE_LANG": "en", **variables}
    line = [sys.executable, "-m", "reinforge", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_help_comes_at_once() -> None:
    times = []
    for _attempt in range(5):
        begun = time.perf_counter()
        assert command("--help").returncode == 0
        times.append(time.perf_counter() - begun)
    assert min(times) < SECONDS, times


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from reinforge.cli import main\n"
        "heavy = lambda *names: [name for name in names if name in sys.modules]\n"
        "main(['--help']); first = heavy('pydantic', 'yaml')\n"
        # To read a verb's arguments, typer itself loads pydantic.
        "main(['train', '--help']); print(first + heavy('torch', 'polars', 'rich', 'numpy'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("language", "usage", "verbs"), [("en", "Usage: ", "Verbs:"), ("zh_CN", "用法：", "命令：")])
def test_help_speaks_both_languages(
    language: str, usage: str, verbs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REINFORGE_LANG", language)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(usage)
    assert verbs in shown
    for verb, _purpose in VERBS:
        name = verb.__name__
        assert f"\n  {name} " in shown
        assert main([name, "--help"]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"{usage}reinforge {name} ")
        assert "--json" in page


def test_train_has_the_syntax_that_is_promised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")
    assert main(["train", "--help"]) == 0
    usage = capsys.readouterr().out.splitlines()[0]
    assert usage.startswith("Usage: reinforge train [RECIPE] [KEY=VALUE ...] [--from BUNDLE] [-o RUN] [--resume RUN]")


def test_version_and_a_closed_pipe() -> None:
    assert command("--version").stdout.startswith("reinforge ")
    line = f"{sys.executable} -m reinforge recipes --schema | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_columns_align_where_characters_are_wide() -> None:
    assert (width("中文a"), width("é")) == (5, 1)
    assert table([("中文", "x"), ("abcdef", "y")]) == "中文    x\nabcdef  y"
