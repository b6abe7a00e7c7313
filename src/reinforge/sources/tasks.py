"""Tasks whose answers can be checked: prompts, and the reward of what a model writes after them."""

from __future__ import annotations

import difflib
import re
from typing import Any, Protocol

import torch

from reinforge.data.prompts import Prompt
from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.sources.options import CopyOptions, ReasoningGymOptions, SumOptions

STOP = "\n"


class Task(Protocol):
    """Prompts drawn from a generator, and a reward that is a function of prompt and completion alone.

    `alphabet`: every character that prompts and answers use, the end `STOP` among them; empty for tasks in free text.
    """

    alphabet: str

    def draw(self, generator: torch.Generator) -> Prompt: ...

    def reward(self, prompt: Prompt, completion: str) -> float:
        """`completion` as written, with its end if it has one."""
        ...


class CopyTask:
    """ "37>" is answered by "37" and the end; the reward is the part of these characters that is right."""

    alphabet = STOP + "0123456789>"

    def __init__(self, options: CopyOptions) -> None:
        self.digits = options.digits

    def draw(self, generator: torch.Generator) -> Prompt:
        """Random digits."""
        digits = torch.randint(10, (self.digits,), generator=generator).tolist()
        answer = "".join(map(str, digits))
        return Prompt(f"{answer}>", answer)

    def reward(self, prompt: Prompt, completion: str) -> float:
        """In [0, 1]."""
        right = prompt.answer + STOP
        return sum(a == b for a, b in zip(right, completion)) / len(right)


class SumTask:
    """ "3+4=" is answered by "7" and the end."""

    alphabet = STOP + "+0123456789="

    def __init__(self, options: SumOptions) -> None:
        self.terms, self.below = options.terms, 10**options.digits

    def draw(self, generator: torch.Generator) -> Prompt:
        """Random terms."""
        terms = torch.randint(self.below, (self.terms,), generator=generator).tolist()
        return Prompt("+".join(map(str, terms)) + "=", str(sum(terms)))

    def reward(self, prompt: Prompt, completion: str) -> float:
        """1 for the right sum and its end, else 0."""
        return float(completion == prompt.answer + STOP)


class ReasoningGymTask:
    """One of the generators of reasoning-gym: puzzles, algebra, logic, games, each with a check of its own."""

    alphabet = ""

    def __init__(self, options: ReasoningGymOptions) -> None:
        try:
            import reasoning_gym  # type: ignore[import-untyped]
        except ImportError as error:
            raise ComponentError(
                _("{package} is not installed").format(package="reasoning-gym"), where="task reasoning-gym",
                remedy="pip install 'reinforge[reason]'",
            ) from error  # fmt: skip
        known = sorted(reasoning_gym.factory.DATASETS)
        if options.name not in known:
            near = difflib.get_close_matches(options.name, known, 3)
            raise ComponentError(
                _("reasoning-gym has no generator {name!r}").format(name=options.name), where="task.name",
                remedy=_("Near are: {names}.").format(names=", ".join(near or known[:8])),
            )  # fmt: skip
        self.data: Any = reasoning_gym.create_dataset(
            options.name, size=options.size, seed=options.seed, **options.settings
        )
        self._entries: dict[str, Any] = {}

    def draw(self, generator: torch.Generator) -> Prompt:
        """Any of its first `size` entries."""
        entry = self.data[int(torch.randint(len(self.data), (), generator=generator))]
        self._entries[entry["question"]] = entry
        return Prompt(entry["question"], str(entry["answer"]))

    def reward(self, prompt: Prompt, completion: str) -> float:
        """The generator's own score of what stands between <answer> and </answer>, or of all of it."""
        found = _ANSWER.findall(completion)
        return float(self.data.score_answer(found[-1] if found else completion.strip(), self._entries[prompt.text]))


_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
