"""Multiple choice by likelihood: which of several answers a model holds to be the likeliest, without writing any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from reinforge.core.contracts import Clock
from reinforge.core.modes import evaluating
from reinforge.core.ragged import Ragged
from reinforge.data.choices import Choices
from reinforge.evaluation.resampling import Bounds, wilson
from reinforge.models.decoder import Decoder
from reinforge.objectives.preferences import answer_logs

# Tokens that go through the model at once, at least one question's.
TOKENS = 8192


@dataclass(frozen=True)
class Chosen:
    """The log-probability of each answer (nats), its tokens, and which is the likeliest: as it is, and by byte."""

    prompt: str
    answers: tuple[str, ...]
    right: int
    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]
    likeliest: int
    likeliest_by_byte: int


class ChoiceEvaluator:
    """The likeliest answer by log p(answer | question), and by the same over the answer's bytes in UTF-8, which favours
    no short answer.

    `evaluate` returns "accuracy", "accuracy_by_byte", and "chance" (what guessing would get). `chosen` then holds each
    question's part, and `intervals` gives Wilson's of both accuracies.
    """

    def __init__(self, questions: Sequence[Choices]) -> None:
        self.questions = tuple(questions)
        self.chosen: list[Chosen] = []

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `learner.model`; draws nothing, changes nothing."""
        model = cast(Decoder, learner.model)
        with evaluating(model):
            self.chosen = [found for part in self._parts() for found in _chosen(model, part)]
        return {
            "accuracy": float(np.mean(self._right("likeliest"))),
            "accuracy_by_byte": float(np.mean(self._right("likeliest_by_byte"))),
            "chance": float(np.mean([1 / len(each.answers) for each in self.questions])),
        }

    def intervals(self) -> dict[str, Bounds]:
        """Of the last evaluation."""
        total = len(self.chosen)
        return {
            "accuracy": wilson(sum(self._right("likeliest")), total),
            "accuracy_by_byte": wilson(sum(self._right("likeliest_by_byte")), total),
        }

    def _right(self, which: str) -> list[bool]:
        return [getattr(each, which) == each.right for each in self.chosen]

    def _parts(self) -> list[list[Choices]]:
        parts: list[list[Choices]] = [[]]
        held = 0
        for each in self.questions:
            size = sum(map(len, each.ids))
            if parts[-1] and held + size > TOKENS:
                parts.append([])
                held = 0
            parts[-1].append(each)
            held += size
        return parts


def _chosen(model: Decoder, questions: Sequence[Choices]) -> list[Chosen]:
    device = model.embedding.weight.device
    ids = Ragged.from_rows([row.long() for each in questions for row in each.ids])
    own = Ragged.from_rows([row for each in questions for row in each.own])
    ((logs, counts),) = answer_logs(model, [Ragged(ids.values.to(device), ids.offsets)], [own])
    found, start = [], 0
    for each in questions:
        stop = start + len(each.answers)
        log_probs, tokens = logs[start:stop].tolist(), counts[start:stop].int().tolist()
        by_byte = [value / max(len(text.encode()), 1) for value, text in zip(log_probs, each.answers)]
        found.append(Chosen(
            each.prompt, each.answers, each.right, tuple(log_probs), tuple(tokens), int(np.argmax(log_probs)),
            int(np.argmax(by_byte)),
        ))  # fmt: skip
        start = stop
    return found
