"""What is asked for, how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from reinforge.core import seeds
from reinforge.inference.sampling import Sampling

# Uniform numbers that a request draws ahead at once.
AHEAD = 64
Reason = Literal["stop", "length", "cancelled"]


class Constraint(Protocol):
    """What may follow, token after token: a grammar, say."""

    def allowed(self) -> Tensor:
        """(vocabulary,) bool, at least one of them True."""
        ...

    def advance(self, token: int) -> None:
        """A token was written."""
        ...


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt (token ids, one at least) to go on from. `seed` alone decides its draws. `allowed`: a (vocabulary,) bool
    mask of what may be written; `constraint`, one that moves on. `watch` sees each token that is written, and ends the
    completion by answering True (stop strings do so). `likeliest`: how many of the likeliest tokens to tell with each
    that is written; 0 tells its own log-probability alone, None nothing."""

    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int = 0
    allowed: Tensor | None = None
    constraint: Constraint | None = None
    watch: Callable[[int], bool] | None = None
    likeliest: int | None = None


@dataclass(frozen=True)
class Completion:
    """`tokens` without the prompt, a stop token included; `log_probs` of each. `reason`: "stop" after a stop token or
    where `watch` ended it, "length" where a limit cut it."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    reason: Reason


@dataclass(frozen=True)
class Likeliest:
    """What the model itself expected where a token was written, whatever temperature, penalties or masks made of it:
    the log-probability of that token, and (token, log-probability) of the likeliest, the likeliest first."""

    log_prob: float
    tokens: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Token:
    """One token as it is written. `reason` with the last one of its request, whose number is `request`."""

    request: int
    token: int
    log_prob: float
    reason: Reason | None
    likeliest: Likeliest | None = None


@dataclass(eq=False)
class Running:
    """A request in a slot. `limit`: the most tokens that fit."""

    number: int
    request: Request
    limit: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    likeliest: Likeliest | None = None

    def __post_init__(self) -> None:
        self._draws = torch.Generator().manual_seed(seeds.derive(self.request.seed, "generation"))
        self._ahead: list[float] = []

    def uniform(self) -> float:
        """The next number in [0, 1) of its own."""
        if not self._ahead:
            self._ahead = torch.rand(AHEAD, generator=self._draws, dtype=torch.float64).tolist()[::-1]
        return self._ahead.pop()

    def write(self, token: int, log_prob: float) -> Reason | None:
        """One more token; why it was the last, if it was."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        request = self.request
        if request.constraint is not None:
            request.constraint.advance(token)
        watched = request.watch is not None and request.watch(token)
        if watched or token in request.sampling.stop:
            return "stop"
        return "length" if len(self.tokens) >= self.limit else None

    def completion(self, reason: Reason) -> Completion:
        """All of it."""
        return Completion(tuple(self.tokens), tuple(self.log_probs), reason)
