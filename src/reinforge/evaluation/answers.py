"""What a language model wrote: continuations of held-out beginnings; of one that is rewarded for answers, those to
held-out questions, and groups of completions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answered:
    """One question, what was written, and its reward."""

    prompt: str
    answer: str
    written: str
    reward: float
    stopped: bool


@dataclass(frozen=True)
class Group:
    """Completions of one prompt with their rewards."""

    prompt: str
    answer: str
    completions: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Continued:
    """A beginning, and how the model went on."""

    prompt: str
    written: str


@dataclass(frozen=True)
class Answers:
    """Some held-out questions, answered greedily; the groups of the last experience; and held-out beginnings, continued
    as they were drawn."""

    held: tuple[Answered, ...] = ()
    groups: tuple[Group, ...] = ()
    continued: tuple[Continued, ...] = ()
