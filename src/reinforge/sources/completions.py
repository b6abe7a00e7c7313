"""Groups of completions that the newest model writes, with verified rewards: the experience of GRPO."""

from __future__ import annotations

import torch
from torch import nn

from reinforge.core.batch import Leaf
from reinforge.core.contracts import Clock, Experience, Outcome, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import derive, generator
from reinforge.data.prompts import Prompt
from reinforge.data.questions import QuestionTask
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.errors import ComponentError
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.generation import SLOTS, gathered
from reinforge.inference.requests import Completion, Request
from reinforge.inference.sampling import Sampling
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
    alone).
    `samples` are the decoded groups of the last experience.
    """

    sharded = False
    exact = True

    def __init__(
        self, options: CompletionOptions, *, seed: int = 0, task: Task | None = None,
        pipeline: TextPipeline | None = None,
    ) -> None:  # fmt: skip
        self.options, self.seed = options, seed
        self.task: Task = task or REGISTRY.build("task", options.task)
        self.pipeline = pipeline or task_pipeline(self.task)
        stop = self.pipeline.stops or tuple(self.pipeline.tokenizer.encode(STOP).tolist())
        self.sampling = Sampling(options.max_tokens, options.temperature, stop=stop)
        self.engine: GenerationEngine | None = None
        self.drawn = 0
        self._last: list[tuple[Prompt, list[Completion], list[float]]] = []

    def next(self, clock: Clock) -> Experience:
        """The next experience, a function of (seed, its number, weights)."""
        if self.engine is None:
            raise ComponentError(_("no model was published yet"), where="source completions")
        self.engine.flush()
        group = self.options.group
        kept: list[tuple[Prompt, list[Completion], list[float]]] = []
        written = 0
        for attempt in range(self.options.redraw + 1):
            draws = generator(self.seed, "completions", self.drawn, attempt)
            prompts = [self.task.draw(draws) for _number in range(self.options.prompts - len(kept))]
            found = self._written(prompts, attempt)
            written += sum(len(each.tokens) for each in found)
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

    def _written(self, prompts: list[Prompt], attempt: int) -> list[Completion]:
        assert self.engine is not None
        requests = []
        for number, prompt in enumerate(prompts):
            ids = tuple(prompt.ids(self.pipeline).tolist())
            for member in range(self.options.group):
                seed = derive(self.seed, "completion", self.drawn, attempt, number, member)
                requests.append(Request(ids, self.sampling, seed))
        return self.engine.run(requests)

    def _rewards(self, prompt: Prompt, members: list[Completion]) -> list[float]:
        texts = [self.pipeline.tokenizer.decode(member.tokens) for member in members]
        if isinstance(self.task, QuestionTask):
            return self.task.rewards([prompt] * len(texts), texts)
        return [float(self.task.reward(prompt, text)) for text in texts]

    def _experience(self, kept: list[tuple[Prompt, list[Completion], list[float]]], written: int) -> Experience:
        members = [(prompt.ids(self.pipeline), member) for prompt, each, _rewards in kept for member in each]
        found = gathered([member for _ids, member in members])
        rows = [torch.cat((ids, found.tokens.row(index))) for index, (ids, _member) in enumerate(members)]
        batch: dict[str, Leaf] = {
            "tokens": Ragged.from_rows(rows),
            "prompt": torch.tensor([len(ids) for ids, _member in members]),
            "group": torch.arange(len(kept)).repeat_interleave(self.options.group),
            "reward": torch.tensor([reward for _p, _m, rewards in kept for reward in rewards], dtype=torch.float32),
            "truncated": ~found.stopped,
            "sampled_log_probs": found.log_probs,
        }
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
