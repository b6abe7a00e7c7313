"""Rewards for completions: functions of the right answer and of what was written, and of nothing else.

    reward(answer, completion) -> number

One's own is registered in the same way and comes by --use. A reward that looks at prompts too, or is cheaper for many
at once, has `of(prompts, completions) -> numbers` in place of that.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Protocol

from reinforge.data.prompts import Prompt
from reinforge.data.reward_options import (
    CodeOptions,
    ExactOptions,
    NumericOptions,
    RegexOptions,
    WeightedOptions,
)
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.registry import REGISTRY

# The right answer, and what was written.
Reward = Callable[[str, str], float]


class Rewards(Protocol):
    """A reward of many completions at once, by their prompts."""

    def of(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]: ...


AnyReward = Reward | Rewards


def judged(reward: AnyReward, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """What each completion of its prompt gets."""
    if callable(reward):
        return [float(reward(prompt.answer, text)) for prompt, text in zip(prompts, completions)]
    return reward.of(prompts, completions)


_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")


def exact(options: ExactOptions) -> Reward:
    """Equal texts."""

    def plain(text: str) -> str:
        return text.strip().lower() if options.lower else text.strip()

    return lambda answer, completion: float(plain(answer) == plain(completion))


def numeric(options: NumericOptions) -> Reward:
    """Equal numbers: 1,234.50 is 1234.5."""

    def reward(answer: str, completion: str) -> float:
        wanted, found = last_number(answer), last_number(completion)
        if wanted is None or found is None:
            return 0.0
        return float(abs(found - wanted) <= options.tolerance * abs(wanted))

    return reward


def last_number(text: str) -> float | None:
    """The last number in a text; None where there is none."""
    found = _NUMBER.findall(text)
    value = float(found[-1].replace(",", "")) if found else None
    return value if value is not None and math.isfinite(value) else None


def regex(options: RegexOptions) -> Reward:
    """What a pattern finds. Raises RecipeError for one that can't be read."""
    try:
        pattern = re.compile(options.pattern)
    except re.error as error:
        raise RecipeError(
            _("the pattern can't be read: {reason}").format(reason=error), where="reward.pattern"
        ) from error

    def reward(answer: str, completion: str) -> float:
        found = pattern.search(completion)
        if found is None:
            return 0.0
        return float(not pattern.groups or (found[1] or "").strip() == answer.strip())

    return reward


class Code:
    """Programs in a process of their own: without this one's environment, in an empty folder, with limits of time,
    memory, files and processes. Raises RecipeError unless it is allowed."""

    def __init__(self, options: CodeOptions) -> None:
        if not options.allow:
            raise RecipeError(
                _("the reward `code` runs programs that a model wrote"), where="reward.allow",
                remedy=_("Set it to true where that does no harm; limits are no security boundary."),
            )  # fmt: skip
        self.options = options

    def __call__(self, answer: str, completion: str) -> float:
        """Whether program and tests end without an error."""
        program = f"{unfenced(completion)}\n{answer}\n"
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _LIMITED.format(
                    seconds=math.ceil(self.options.seconds), bytes=self.options.megabytes << 20
                )],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, env={},
                start_new_session=True, text=True,
            )  # fmt: skip
            try:
                process.communicate(program, timeout=2 * self.options.seconds)
            except subprocess.TimeoutExpired:
                return 0.0
            finally:
                # Whatever it has started goes with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return float(process.returncode == 0)


_LIMITED = """
import resource, sys
for limit, value in ((resource.RLIMIT_CPU, {seconds}), (resource.RLIMIT_AS, {bytes}), (resource.RLIMIT_FSIZE, 1 << 20),
                     (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
exec(compile(sys.stdin.read(), "program", "exec"), {{"__name__": "__main__"}})
"""
_FENCE = re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL)


def unfenced(text: str) -> str:
    """The last block between fences, or all of a text without any."""
    found = _FENCE.findall(text)
    return str(found[-1]) if found else text


class Weighted:
    """A weighted sum. Raises RecipeError where there are more weights than rewards, or fewer."""

    def __init__(self, options: WeightedOptions) -> None:
        if len(options.of) != len(options.weights):
            raise RecipeError(
                _("{weights} weights do not go with {rewards} rewards").format(
                    weights=len(options.weights), rewards=len(options.of)
                ),
                where="reward.weights",
            )
        self.weights = options.weights
        self.parts: list[AnyReward] = [REGISTRY.build("reward", each) for each in options.of]

    def of(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Of each."""
        found = [judged(part, prompts, completions) for part in self.parts]
        return [sum(weight * value for weight, value in zip(self.weights, values)) for values in zip(*found)]
