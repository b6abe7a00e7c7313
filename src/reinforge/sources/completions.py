"""Groups of completions that the newest model writes, with verified rewards: the experience of GRPO."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reinforge.core.batch import Leaf
from reinforge.core.contracts import Clock, Experience, Outcome, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import derive, generator
from reinforge.data.text import CharacterTokenizer, TextPipeline, Tokenizer
from reinforge.errors import ComponentError
from reinforge.inference.generation import Generated, generate
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder
from reinforge.registry import REGISTRY
from reinforge.sources.options import CompletionOptions
from reinforge.sources.tasks import STOP, Prompt, Task


class CompletionSource:
    """Each experience: `options.prompts` prompts of the task, `options.group` completions of each, drawn from the
    model that was published last, untruncated.

    Rows, group after group: "tokens" (prompt and completion, Ragged int64), "prompt" (n,) int64 tokens of the prompt,
    "group" (n,) int64, "reward" (n,) float32, "truncated" (n,) bool, "sampled_log_probs" (Ragged float32, completions
    alone).
    `samples` holds one decoded (prompt, completion, reward) of each group of the last experience.
    """

    sharded = False
    exact = True

    def __init__(self, options: CompletionOptions, *, seed: int = 0, tokenizer: Tokenizer | None = None) -> None:
        self.options, self.seed = options, seed
        self.task: Task = REGISTRY.build("task", options.task)
        self.tokenizer = tokenizer or task_pipeline(self.task).tokenizer
        stop = self.tokenizer.encode(STOP).tolist()
        self.sampling = Sampling(options.max_tokens, options.temperature, stop=tuple(stop))
        self.model: Decoder | None = None
        self.drawn = 0
        self.samples: list[tuple[str, str, float]] = []

    def next(self, clock: Clock) -> Experience:
        """The next experience, a function of (seed, its number, weights)."""
        if self.model is None:
            raise ComponentError("no model was published yet", where="source completions")
        group = self.options.group
        draws = generator(self.seed, "completions", self.drawn)
        prompts = [self.task.draw(draws) for _ in range(self.options.prompts)]
        repeated = [prompt for prompt in prompts for _ in range(group)]
        encoded = [self.tokenizer.encode(prompt.text).long() for prompt in repeated]
        seeds = [derive(self.seed, "completion", self.drawn, row) for row in range(len(encoded))]
        written = generate(self.model, Ragged.from_rows(encoded), self.sampling, seeds)
        rewards = self._rewards(repeated, written)
        self.drawn += 1
        rows = [torch.cat((prompt, written.tokens.row(index))) for index, prompt in enumerate(encoded)]
        batch: dict[str, Leaf] = {
            "tokens": Ragged.from_rows(rows),
            "prompt": torch.tensor([len(prompt) for prompt in encoded]),
            "group": torch.arange(len(prompts)).repeat_interleave(group),
            "reward": rewards,
            "truncated": ~written.stopped,
            "sampled_log_probs": written.log_probs,
        }
        drawn_at = {"temperature": torch.tensor(self.options.temperature, dtype=torch.float64)}
        return Experience(batch, samples=len(rows), tokens=len(written.tokens.values), extra=drawn_at)

    def _rewards(self, prompts: list[Prompt], written: Generated) -> Tensor:
        texts = [self.tokenizer.decode(written.tokens.row(index)) for index in range(len(prompts))]
        rewards = [self.task.reward(prompt, text) for prompt, text in zip(prompts, texts)]
        shown = range(0, len(prompts), self.options.group)
        self.samples = [(prompts[index].text, texts[index], rewards[index]) for index in shown]
        return torch.tensor(rewards, dtype=torch.float32)

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """The model itself: it writes with whatever weights it has at the next `next`."""
        model = learner.model
        if not isinstance(model, Decoder):
            raise ComponentError("only a decoder can write completions", where="source completions")
        self.model = model

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
