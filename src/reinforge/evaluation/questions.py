"""Evaluation by answers: what a model writes to questions, and whether that is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from reinforge.core import seeds
from reinforge.core.contracts import Clock
from reinforge.data.questions import Prompt
from reinforge.data.text import TextPipeline
from reinforge.evaluation.answers import Answered
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder

SLOTS = 64


class QuestionEvaluator:
    """Asks questions and takes the likeliest answer of each, greedily; with `samples`, so many drawn at temperature 1.

    `evaluate` returns "accuracy" (part of the questions with the full reward), its Wilson interval of 95% as "low" and
    "high", "reward", "tokens" (of an answer) and "truncated"; of several samples "pass@k" as well (arXiv:2107.03374).
    `answered` holds all of it.
    """

    def __init__(
        self, questions: Sequence[Prompt], reward: Callable[[Prompt, str], float], pipeline: TextPipeline, *,
        tokens: int, samples: int = 1, full: float = 1.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.questions, self.reward, self.pipeline = tuple(questions), reward, pipeline
        self.tokens, self.samples, self.full, self.seed = tokens, samples, full, seed
        self.answered: list[Answered] = []

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `learner.model`; changes nothing."""
        model = cast(Decoder, learner.model)
        engine = GenerationEngine(model, slots=min(SLOTS, len(self.questions) * self.samples))
        temperature = 0.0 if self.samples == 1 else 1.0
        sampling = Sampling(self.tokens, temperature, stop=self.pipeline.stops)
        pipeline = self.pipeline
        requests = [
            Request(tuple(each.ids(pipeline).tolist()), sampling, seeds.derive(self.seed, "answer", number, sample))
            for number, each in enumerate(self.questions)
            for sample in range(self.samples)
        ]
        found = engine.run(requests)
        self.answered = []
        for number, completion in enumerate(found):
            prompt = self.questions[number // self.samples]
            written = self.pipeline.tokenizer.decode(completion.tokens)
            reward = float(self.reward(prompt, written))
            self.answered.append(Answered(prompt.text, prompt.answer, written, reward, completion.reason == "stop"))
        right = np.array([each.reward >= self.full for each in self.answered]).reshape(-1, self.samples)
        lengths = [len(completion.tokens) for completion in found]
        low, high = wilson(int(right.sum()), right.size)
        metrics = {
            "accuracy": float(right.mean()), "low": low, "high": high,
            "reward": float(np.mean([each.reward for each in self.answered])), "tokens": float(np.mean(lengths)),
            "truncated": float(np.mean([not each.stopped for each in self.answered])),
        }  # fmt: skip
        for k in (k for k in (1, 2, 4, 8, 16, 32, 64) if 1 < self.samples >= k):
            metrics[f"pass@{k}"] = float(np.mean([pass_at(self.samples, int(row.sum()), k) for row in right]))
        return metrics


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of 95% of a proportion (Wilson, 1927)."""
    p, n = right / total, total
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def pass_at(samples: int, right: int, k: int) -> float:
    """The probability that one of k draws without replacement is right: 1 - C(n - c, k) / C(n, k)."""
    if samples - right < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - right + 1, samples + 1)))
