"""Evaluation by answers: what a model writes to questions, and whether that is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reinforge.core import seeds
from reinforge.core.contracts import Clock
from reinforge.data.interactions import Interaction
from reinforge.data.prompts import Prompt
from reinforge.data.text import TextPipeline
from reinforge.evaluation.answers import Answered
from reinforge.evaluation.resampling import Bounds, proportion_interval, ratio_interval
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Completion, Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.turns import Trajectory, play
from reinforge.models.decoder import Decoder

SLOTS = 64


class QuestionEvaluator:
    """Asks questions and takes the likeliest answer of each, greedily; with `samples`, so many drawn at `temperature`
    (by default 1; 0 where there is one). With an `interaction`, each answer takes `turns` turns at most.

    `evaluate` returns "accuracy" (part of the questions with the full reward), its interval of 95% as "low" and
    "high", "reward", "tokens" (of an answer) and "truncated"; of several samples "pass@k" as well (arXiv:2107.03374).
    `answered` then holds all answers, and `intervals` those of each metric, over questions.
    """

    def __init__(
        self, questions: Sequence[Prompt], reward: Callable[[Prompt, str], float], pipeline: TextPipeline, *,
        tokens: int, samples: int = 1, temperature: float | None = None, full: float = 1.0, seed: int = 0,
        interaction: Interaction | None = None, turns: int = 1,
    ) -> None:  # fmt: skip
        self.questions, self.reward, self.pipeline = tuple(questions), reward, pipeline
        self.tokens, self.samples, self.full, self.seed = tokens, samples, full, seed
        self.temperature = temperature if temperature is not None else float(samples > 1)
        self.interaction, self.turns = interaction, turns
        self.answered: list[Answered] = []
        self.intervals: dict[str, Bounds] = {}

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `learner.model`; changes nothing."""
        model = cast(Decoder, learner.model)
        engine = GenerationEngine(model, slots=min(SLOTS, len(self.questions) * self.samples))
        sampling = Sampling(self.tokens, self.temperature, stop=self.pipeline.stops)
        pipeline = self.pipeline
        asked = [(each, seeds.derive(self.seed, "answer", number, sample))
                 for number, each in enumerate(self.questions) for sample in range(self.samples)]  # fmt: skip
        found: Sequence[Completion]
        if self.interaction is not None:
            prompts, numbers = [each for each, _seed in asked], [seed for _each, seed in asked]
            found = play(engine, pipeline, self.interaction, prompts, sampling, numbers, turns=self.turns)
        else:
            requests = [Request(tuple(each.ids(pipeline).tolist()), sampling, seed) for each, seed in asked]
            found = engine.run(requests)
        self.answered = []
        for number, completion in enumerate(found):
            prompt = self.questions[number // self.samples]
            written = self.pipeline.tokenizer.decode(completion.tokens)
            if isinstance(completion, Trajectory):
                given = completion.reward
                reward = float(self.reward(prompt, completion.said) if given is None else given)
            else:
                reward = float(self.reward(prompt, written))
            self.answered.append(Answered(prompt.text, prompt.answer, written, reward, completion.reason == "stop"))
        return self._measured(np.array([len(completion.log_probs) for completion in found]))

    def _measured(self, lengths: NDArray[Any]) -> dict[str, float]:
        """Everything by question (questions, samples), then over questions."""
        reward = np.array([each.reward for each in self.answered]).reshape(-1, self.samples)
        right = reward >= self.full
        parts = {
            "accuracy": right.mean(1),
            "truncated": np.array([not each.stopped for each in self.answered]).reshape(reward.shape).mean(1),
        }
        for k in (k for k in (1, 2, 4, 8, 16, 32, 64) if 1 < self.samples >= k):
            parts[f"pass@{k}"] = np.array([pass_at(self.samples, int(row.sum()), k) for row in right])
        amounts = {"reward": reward.mean(1), "tokens": lengths.reshape(reward.shape).mean(1)}
        self.intervals = {name: proportion_interval(values, seed=self.seed) for name, values in parts.items()}
        for name, values in amounts.items():
            if (bounds := ratio_interval(values, seed=self.seed)) is not None:
                self.intervals[name] = bounds
        low, high = self.intervals["accuracy"]
        means = {name: float(values.mean()) for name, values in (parts | amounts).items()}
        return {"accuracy": means.pop("accuracy"), "low": low, "high": high, **means}


def pass_at(samples: int, right: int, k: int) -> float:
    """The probability that one of k draws without replacement is right: 1 - C(n - c, k) / C(n, k)."""
    if samples - right < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - right + 1, samples + 1)))
