"""Rewards: functions of the right answer and of what was written."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reinforge.data.prompts import Prompt
from reinforge.data.reward_options import (
    CodeOptions,
    ExactOptions,
    NumericOptions,
    RegexOptions,
    WeightedOptions,
)
from reinforge.data.rewards import Reward, judged
from reinforge.errors import RecipeError
from reinforge.registry import REGISTRY, Options


def reward(options: Options) -> Reward:
    built: Reward = REGISTRY.build("reward", options)
    return built


def test_texts_and_patterns() -> None:
    exact = reward(ExactOptions())
    assert [exact("Paris", text) for text in ("Paris", " Paris\n", "paris", "Paris.")] == [1, 1, 0, 0]
    assert reward(ExactOptions(lower=True))("Paris", "PARIS") == 1
    pattern = reward(RegexOptions())
    assert [pattern("7", text) for text in ("answer: 7", "the answer: 7 ", "answer: 8", "7")] == [1, 1, 0, 0]
    assert reward(RegexOptions(pattern="^<think>"))("", "<think>hm") == 1
    with pytest.raises(RecipeError, match="pattern"):
        reward(RegexOptions(pattern="("))


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("85", "85", True),
        ("85", "47 and 38 make 85.", True),
        ("85", "85 and 75", False),
        ("-3", "it is -3", True),
        ("1234.5", "1,234.50", True),
        ("12", "1,2", False),
        ("0.001", "1e-3", True),
        ("85", "", False),
        ("85", "none", False),
        ("85", "9" * 400, False),
    ],
)
def test_numbers(answer: str, text: str, right: bool) -> None:
    assert reward(NumericOptions())(answer, text) == float(right)


def test_numbers_within_a_tolerance() -> None:
    near = reward(NumericOptions(tolerance=0.01))
    assert [near("100", text) for text in ("100.9", "99.1", "102")] == [1, 1, 0]


def test_sums_of_rewards() -> None:
    both = REGISTRY.build(
        "reward", WeightedOptions(of=(NumericOptions(), RegexOptions(pattern="<b>")), weights=(1.0, 0.25))
    )
    assert judged(both, [Prompt("?", "7")] * 4, ["7", "<b>7", "<b>8", "8"]) == [1.0, 1.25, 0.25, 0.0]
    with pytest.raises(RecipeError, match="weights"):
        reward(WeightedOptions(weights=(1.0, 2.0)))


def test_programs_run_only_where_that_is_allowed() -> None:
    with pytest.raises(RecipeError, match="programs that a model wrote"):
        reward(CodeOptions())


def test_programs(tmp_path: Path) -> None:
    """Right, wrong, endless, greedy ones, and one that leaves a child behind."""
    code = reward(CodeOptions(allow=True, seconds=1.0, megabytes=256))
    tests = "assert double(4) == 8"
    assert code(tests, "def double(x):\n    return 2 * x") == 1
    assert code(tests, "Here:\n```python\ndef double(x):\n    return x + x\n```\nDone.") == 1
    assert code(tests, "def double(x):\n    return x") == 0
    assert code(tests, "def double(x)") == 0
    began = time.monotonic()
    assert code(tests, "while True: pass") == 0
    assert time.monotonic() - began < 30
    assert code(tests, "double = lambda x: 2 * x\nhoard = bytearray(1 << 30)") == 0
    left = tmp_path / "left"
    child = f"import time; time.sleep(3); open({str(left)!r}, 'w')"
    spawn = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    assert code("", spawn) == 1
    time.sleep(4)
    assert not left.exists()
    os.environ["SECRET_OF_TEST"] = "1"
    assert code("", "import os; assert 'SECRET_OF_TEST' not in os.environ") == 1
