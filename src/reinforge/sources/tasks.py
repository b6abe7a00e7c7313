"""Tasks whose answers can be checked: prompts, and the reward of what a model writes after them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from reinforge.sources.options import CopyOptions, SumOptions

STOP = "\n"


class Prompt(NamedTuple):
    """What the model sees, and the answer that would be right, without its end."""

    text: str
    answer: str


class Task(Protocol):
    """Prompts drawn from a generator, and a reward that is a function of prompt and completion alone.

    `alphabet`: every character that prompts and answers use, the end `STOP` among them.
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
