"""Groups of completions that the newest model writes, with verified rewards: the experience of GRPO."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from reinforge.core.batch import Leaf
from reinforge.core.contracts import Clock, Experience, Outcome, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import derive, generator
from reinforge.data.interactions import Interaction
from reinforge.data.prompts import Prompt
from reinforge.data.questions import QuestionTask
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.errors import ComponentError, TrainingWarning
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.generation import SLOTS
from reinforge.inference.requests import Completion, Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.turns import Trajectory, play
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.registry import REGISTRY
from reinforge.sources.options import CompletionOptions
from reinforge.sources.tasks import STOP, Task


class CompletionSource:
    """Each experience: `options.prompts` prompts of the task, `options.group` completions of each, drawn from the
    model that was published last, untruncated.

    Rows, group after group: "tokens" (prompt and completion, Ragged int64), "prompt" (n,) int64 tokens of the prompt,
    "group" (n,) int64, "reward" (n,) float32, "truncated" (n,) bool, "sampled_log_probs" (Ragged float32, completions
    alone). Where an `interaction` answers between `turns`, a completion is all that follows the prompt, "own" (Ragged
    bool, as "tokens") is True for what the model wrote, and "sampled_log_probs" are of that.
    `samples` are the decoded groups of the last experience.
    """

    sharded = False
    exact = True

    def __init__(
        self, options: CompletionOptions, *, seed: int = 0, task: Task | None = None,
        pipeline: TextPipeline | None = None, interaction: Interaction | None = None, turns: int = 1,
    ) -> None:  # fmt: skip
        self.options, self.seed = options, seed
        self.task: Task = task or REGISTRY.build("task", options.task)
        self.pipeline = pipeline or task_pipeline(self.task)
        self.interaction, self.turns = interaction, turns
        stop = self.pipeline.stops or tuple(self.pipeline.tokenizer.encode(STOP).tolist())
        self.sampling = Sampling(options.max_tokens, options.temperature, stop=stop)
        self.engine: GenerationEngine | None = None
        self.drawn = 0
        self._last: list[tuple[Prompt, Sequence[Completion], list[float]]] = []

    def next(self, clock: Clock) -> Experience:
        """The next experience, a function of (seed, its number, weights)."""
        if self.engine is None:
            raise ComponentError(_("no model was published yet"), where="source completions")
        self.engine.flush()
        group = self.options.group
        kept: list[tuple[Prompt, Sequence[Completion], list[float]]] = []
        written = 0
        for attempt in range(self.options.redraw + 1):
            draws = generator(self.seed, "completions", self.drawn, attempt)
            prompts = [self.task.draw(draws) for _number in range(self.options.prompts - len(kept))]
            found = self._written(prompts, attempt)
            written += sum(len(each.log_probs) for each in found)
            last = attempt == self.options.redraw
            for number, prompt in enumerate(prompts):
                members = found[number * group : (number + 1) * group]
                rewards = self._rewards(prompt, members)
                if last or len(set(rewards)) > 1:
                    kept.append((prompt, members, rewards))
            if len(kept) == self.options.prompts:
                break
        self.drawn += 1
        self._last = kept
        return self._experience(kept, written)

    @property
    def samples(self) -> list[tuple[Prompt, list[tuple[str, float]]]]:
        """Each prompt of the last experience with its completions, decoded, and their rewards."""
        decode = self.pipeline.tokenizer.decode
        return [
            (prompt, [(decode(member.tokens), reward) for member, reward in zip(members, rewards)])
            for prompt, members, rewards in self._last
        ]

    def _written(self, prompts: list[Prompt], attempt: int) -> Sequence[Completion]:
        assert self.engine is not None
        members = [(number, member) for number in range(len(prompts)) for member in range(self.options.group)]
        seeds = [derive(self.seed, "completion", self.drawn, attempt, *member) for member in members]
        asked = [prompts[number] for number, _member in members]
        if self.interaction is not None:
            found = play(
                self.engine, self.pipeline, self.interaction, asked, self.sampling, seeds, turns=self.turns
            )  # fmt: skip
            if all(each.fault is not None for each in found):
                text = _("the interaction failed in every completion, the last time by {fault}")
                warnings.warn(text.format(fault=found[-1].fault), TrainingWarning, stacklevel=3)
            return found
        ids = [tuple(prompt.ids(self.pipeline).tolist()) for prompt in prompts]
        return self.engine.run(
            Request(ids[number], self.sampling, seed) for (number, _member), seed in zip(members, seeds)
        )

    def _rewards(self, prompt: Prompt, members: Sequence[Completion]) -> list[float]:
        texts = [each.said if isinstance(each, Trajectory) else self.pipeline.tokenizer.decode(each.tokens)
                 for each in members]  # fmt: skip
        given = [each.reward if isinstance(each, Trajectory) else None for each in members]
        if None not in given:
            return [float(reward or 0.0) for reward in given]
        if isinstance(self.task, QuestionTask):
            judged = self.task.rewards([prompt] * len(texts), texts)
        else:
            judged = [float(self.task.reward(prompt, text)) for text in texts]
        return [other if reward is None else float(reward) for reward, other in zip(given, judged)]

    def _experience(self, kept: list[tuple[Prompt, Sequence[Completion], list[float]]], written: int) -> Experience:
        members = [(prompt.ids(self.pipeline), member) for prompt, each, _rewards in kept for member in each]
        rows = [torch.cat((ids, torch.tensor(member.tokens, dtype=torch.int64))) for ids, member in members]
        batch: dict[str, Leaf] = {
            "tokens": Ragged.from_rows(rows),
            "prompt": torch.tensor([len(ids) for ids, _member in members]),
            "group": torch.arange(len(kept)).repeat_interleave(self.options.group),
            "reward": torch.tensor([reward for _p, _m, rewards in kept for reward in rewards], dtype=torch.float32),
            "truncated": torch.tensor([member.reason != "stop" for _ids, member in members]),
            "sampled_log_probs": Ragged.from_rows(
                [torch.tensor(member.log_probs, dtype=torch.float32) for _ids, member in members]
            ),
        }
        if self.interaction is not None:
            batch["own"] = Ragged.from_rows([
                torch.tensor([False] * len(ids) + list(member.own)) for ids, member in members
                if isinstance(member, Trajectory)
            ])  # fmt: skip
        drawn_at = {"temperature": torch.tensor(self.options.temperature, dtype=torch.float64)}
        return Experience(batch, samples=len(rows), tokens=written, extra=drawn_at)

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """The model itself: it writes with whatever weights it has at the next `next`."""
        model = learner.model
        if not isinstance(model, Decoder):
            raise ComponentError(_("only a decoder can write completions"), where="source completions")
        if self.engine is None or self.engine.model is not model:
            self.engine = GenerationEngine(model, slots=min(SLOTS, self.options.prompts * self.options.group))

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Nothing."""

    def state_dict(self) -> State:
        """How many experiences were drawn: all randomness follows from it."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: State) -> None:
        """Go on there."""
        self.drawn = state["drawn"]


def task_pipeline(task: Task) -> TextPipeline:
    """Characters of the task's alphabet as tokens."""
    return TextPipeline(CharacterTokenizer("".join(sorted(set(task.alphabet)))))
