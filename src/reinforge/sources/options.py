"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register


@register("source", "reinforge.sources.loader:LoaderSource")
class LoaderOptions(Options):
    """Batches from data in memory, epoch after epoch."""

    kind: Literal["loader"] = "loader"
    shuffle: bool = Field(True, description="A new order in each epoch, drawn from the seed and the epoch's number.")
    drop_last: bool = Field(False, description="Leave out an epoch's last batch where it is short.")
    augment: tuple[Annotated[Options, OneOf("augmentation")], ...] = Field(
        (),
        description="What changes training batches at random, in this order; each row by its own draws in each epoch.",
    )
    sample: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="uniform: each row once an epoch. balanced: each class of `by` equally often, to within one row, "
        "in an epoch of the same length; a class's rows come in new orders, again and again until there are enough.",
    )
    alike: PositiveInt | None = Field(
        None,
        description="Of so many batches in a row, put rows of about the same length together, and the batches in a "
        "random order: less padding, far fewer steps of a recurrent network. Each row still comes once an epoch.",
    )
    by: str | None = Field(None, description="Target whose classes are balanced; by default the first category.")

    @model_validator(mode="after")
    def _balanced_is_drawn(self) -> Self:
        if self.sample == "balanced" and not self.shuffle:
            raise ValueError("sample: balanced draws an order, so it needs shuffle: true")
        if self.by is not None and self.sample != "balanced":
            raise ValueError("by goes with sample: balanced")
        if self.alike is not None and not self.shuffle:
            raise ValueError("alike changes the order, so it needs shuffle: true")
        return self


@register("source", "reinforge.sources.loader:IterableSource")
class IterableOptions(Options):
    """Batches from an iterable of the caller's, given in Python."""

    kind: Literal["iterable"] = "iterable"
    repeatable: bool | None = Field(
        None, description="Each pass gives the same batches, so resuming is exact; by default, where it is a sequence."
    )


Probability = Annotated[float, Field(ge=0, le=1)]


class EpsilonOptions(Options):
    """How often an action is drawn at random: a straight line over environment steps."""

    start: Probability = Field(1.0, description="Probability of a random action at the beginning.")
    end: Probability = Field(0.05, description="Probability of a random action from `steps` on.")
    steps: PositiveInt = Field(10_000, description="Environment steps over which it falls.")


class PrioritiesOptions(Options):
    """Prioritised replay (Schaul et al., 2016)."""

    alpha: Probability = Field(0.6, description="How much priorities count; 0 is uniform.")
    beta: Probability = Field(0.4, description="Correction of the bias at the beginning; it rises to 1.")
    beta_steps: PositiveInt = Field(100_000, description="Environment steps over which beta rises to 1.")
    epsilon: PositiveFloat = Field(1e-6, description="Added to each error, so that nothing is forgotten.")


class HindsightOptions(Options):
    """Hindsight experience replay (Andrychowicz et al., 2017), for environments with goals."""

    goals: PositiveInt = Field(4, description="k: of k + 1 sampled rows, k get a goal that their episode achieved.")
    strategy: Literal["future", "final"] = Field(
        "future", description="future: at a step not before theirs, drawn uniformly. final: at the episode's end."
    )


@register("source", "reinforge.sources.replay:ReplaySource")
class ReplayOptions(Options):
    """Transitions that the newest policy collects, kept and sampled again and again (off-policy)."""

    kind: Literal["replay"] = "replay"
    capacity: PositiveInt = Field(100_000, description="Transitions kept; the oldest give way.")
    learning_starts: NonNegativeInt = Field(1_000, description="Environment steps before the first update.")
    updates_per_step: PositiveFloat = Field(1.0, description="Updates per environment step, at any number of copies.")
    updates_per_round: PositiveInt = Field(
        1, description="Updates between two looks at the newest weights; their batches are sampled at once."
    )
    overlap: bool = Field(
        False,
        description="Environments in processes take their next step while updates run, by the weights before these; "
        "for slow environments.",
    )
    n_step: PositiveInt = Field(1, description="Rewards summed before bootstrapping.")
    epsilon: EpsilonOptions = Field(EpsilonOptions(), description="Random actions, for discrete actions.")
    priorities: PrioritiesOptions | None = Field(None, description="Sample by priority instead of uniformly.")
    hindsight: HindsightOptions | None = Field(
        None, description="Learn from what was achieved as if it had been desired, in environments with goals."
    )

    @model_validator(mode="after")
    def fixed_lag(self) -> Self:
        if self.priorities is not None and self.updates_per_round != 1:
            raise ValueError("priorities need updates_per_round: 1, since each update's errors decide what comes next")
        return self


@register("source", "reinforge.sources.rollout:RolloutSource")
class RolloutOptions(Options):
    """Stretches of experience of the newest policy, used once (on-policy)."""

    kind: Literal["rollout"] = "rollout"
    steps: PositiveInt = Field(128, description="Steps per copy of the environment and rollout.")
    sequence: PositiveInt | None = Field(
        None, description="Steps per sequence, a divisor of `steps`; by default all with a memory, 1 without."
    )
    epsilon: EpsilonOptions = Field(EpsilonOptions(), description="Random actions, for policies that are values.")

    @model_validator(mode="after")
    def divisible(self) -> Self:
        if self.steps % (self.sequence or 1):
            raise ValueError(f"sequences of {self.sequence} steps do not divide {self.steps} steps")
        return self


@register("source", "reinforge.sources.transitions:TransitionSource")
class TransitionOptions(Options):
    """Transitions of a file, sampled again and again: nothing is collected (offline)."""

    kind: Literal["transitions"] = "transitions"
    path: str = Field(
        description="Parquet, .npz or JSON Lines (.jsonl) with the columns observation, action, reward, "
        "next_observation, terminated, truncated, in the environment's own units; of a Dict space, observation.NAME. "
        "Or a folder of Minari (extra `offline`)."
    )
    n_step: PositiveInt = Field(1, description="Rewards summed before bootstrapping.")


@register("source", "reinforge.sources.tokens:TokenSource")
class TokenOptions(Options):
    """Blocks of a token stream, or whole documents packed into blocks."""

    kind: Literal["tokens"] = "tokens"
    block: PositiveInt = Field(64, description="Predicted tokens in a row; at most the model's context.")
    order: Literal["sampled", "shuffled", "consecutive"] = Field(
        "shuffled",
        description="Streams: blocks from random places; blocks that tile the stream, from a new place in each epoch "
        "and in a new order; or tiles in the order of the text. Documents: packed by best fit, anew in each epoch, or "
        "in their own order where consecutive.",
    )
    long: Literal["split", "cut", "drop"] | None = Field(
        None,
        description="Documents longer than a block: split into pieces, cut at its end, or left out; by default split, "
        "and cut where only parts are learned, as in chats.",
    )


@register("task", "reinforge.sources.tasks:CopyTask")
class CopyOptions(Options):
    """Repeat the digits of the prompt; the reward is the part of them that is right, and 1 for the right end too."""

    kind: Literal["copy"] = "copy"
    digits: PositiveInt = Field(2, description="Digits to repeat.")


@register("task", "reinforge.sources.tasks:SumTask")
class SumOptions(Options):
    """Add numbers; the reward is 1 for the right sum, 0 otherwise."""

    kind: Literal["sum"] = "sum"
    terms: PositiveInt = Field(2, description="Numbers to add.")
    digits: PositiveInt = Field(1, description="Digits of each number, at most.")


@register("task", "reinforge.sources.tasks:ReasoningGymTask")
class ReasoningGymOptions(Options):
    """A generator of reasoning-gym (extra `reason`), with its own check of answers."""

    kind: Literal["reasoning-gym"] = "reasoning-gym"
    name: str = Field("chain_sum", description="Its name, as reasoning-gym has it.")
    size: PositiveInt = Field(1000, description="Entries to draw from.")
    seed: int = Field(0, description="Seed of the entries; others for evaluation are the source's matter.")
    settings: dict[str, int | float | str | bool] = Field({}, description="The generator's own settings.")


@register("source", "reinforge.sources.completions:CompletionSource")
class CompletionOptions(Options):
    """Groups of completions that the model itself writes to the prompts of a task, each with its reward."""

    kind: Literal["completions"] = "completions"
    task: Annotated[Options, OneOf("task")] = Field(CopyOptions(), description="Prompts and their rewards.")
    prompts: PositiveInt = Field(8, description="Prompts in an experience.")
    group: Annotated[int, Field(ge=2)] = Field(8, description="Completions of each prompt.")
    max_tokens: PositiveInt = Field(8, description="Tokens of a completion, at most.")
    temperature: PositiveFloat = Field(1.0, description="Divides the logits; the objective takes the same.")
    redraw: Annotated[int, Field(ge=0)] = Field(
        0,
        description="How often prompts are drawn anew in place of groups without any spread in their rewards "
        "(dynamic sampling, as in DAPO).",
    )
