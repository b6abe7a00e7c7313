"""What a model that is rewarded for answers wrote: answers to held-out questions, and groups of completions."""

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
class Answers:
    """Some held-out questions, answered greedily, and the groups of the last experience."""

    held: tuple[Answered, ...] = ()
    groups: tuple[Group, ...] = ()
