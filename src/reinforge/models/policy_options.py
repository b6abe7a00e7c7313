"""Options of policies, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from reinforge.models.options import Activation, Rate
from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register


class PolicyOptions(Options):
    """What all policies share."""

    sizes: tuple[PositiveInt, ...] = Field((64, 64), min_length=1, description="Width of each hidden layer.")
    activation: Activation = Field("relu", description="What follows each hidden layer.")
    encoders: dict[str, Annotated[Options, OneOf("encoder")]] = Field(
        {},
        description="Encoders by part of the observation (`observation` where it has no parts); by default boxes as "
        "they are, choices one-hot, and images of bytes through nature-cnn. They meet end to end before the layers.",
    )
    normalise: bool = Field(False, description="Normalise boxes by running statistics, kept in the model.")
    frames: PositiveInt = Field(
        1,
        description="Observations seen at once, the last ones of the episode, kept in the policy's state; at its "
        "beginning the first one stands for those before it.",
    )


@register("encoder", "reinforge.models.places:Attention")
class AttentionOptions(Options):
    """A Transformer over the rows of a matrix of numbers: the frames that a policy sees, or the things in one."""

    kind: Literal["attention"] = "attention"
    layers: PositiveInt = Field(1, description="Number of layers.")
    width: PositiveInt = Field(64, description="Width of the stream between layers, and of what it gives.")
    heads: PositiveInt = Field(4, description="Attention heads; a divisor of the width.")
    hidden: PositiveInt | None = Field(None, description="Width inside the feed-forward; 4 widths where null.")
    positions: bool = Field(True, description="Tell places apart; without, they are a set.")
    pool: Literal["mean", "last"] = Field(
        "mean", description="How places become one row; the last frame is the newest."
    )
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")

    @model_validator(mode="after")
    def divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not give {self.heads} heads")
        return self


class MemoryOptions(Options):
    """A recurrent cell."""

    kind: Literal["gru", "lstm"] = Field("gru", description="The kind of cell.")
    size: PositiveInt = Field(64, description="Its width.")


class DistributionOptions(Options):
    """The whole distribution of returns in place of their mean."""

    kind: Literal["categorical", "quantile"] = Field(
        "quantile",
        description="categorical: probabilities of fixed returns (C51; Bellemare et al., 2017). quantile: returns of "
        "fixed probabilities (QR-DQN; Dabney et al., 2018), which need no bounds.",
    )
    atoms: Annotated[int, Field(ge=2)] = Field(51, description="How many returns, or quantiles.")
    low: float = Field(-10.0, description="categorical: the least return; what is below counts as it.")
    high: float = Field(10.0, description="categorical: the greatest return; what is above counts as it.")

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        return self


@register("model", "reinforge.models.q_network:QNetwork")
class QNetworkOptions(PolicyOptions):
    """The value of each discrete action; its switches combine."""

    kind: Literal["q-network"] = "q-network"
    duelling: bool = Field(
        False,
        description="The value of the state and each action's advantage over the mean, in two streams that part before "
        "the last hidden layer (Wang et al., 2016).",
    )
    distribution: DistributionOptions | None = Field(
        None, description="Learn the distribution of returns; actions go by its mean."
    )
    noisy: PositiveFloat | None = Field(
        None,
        description="Layers whose weights have learned noise, which explores in place of epsilon: its deviation at the "
        "beginning, 0.5 in the paper (Fortunato et al., 2018). None where null.",
    )


@register("model", "reinforge.models.q_table:QTable")
class QTableOptions(Options):
    """The values of actions in numbered states, one by one."""

    kind: Literal["q-table"] = "q-table"
    initial: float = Field(
        0.0, description="What every action is worth at the beginning; more than can be had makes it try everything."
    )


@register("model", "reinforge.models.actor_critic:ActorCritic")
class ActorCriticOptions(PolicyOptions):
    """A policy with a state value, for policy gradients; with a memory if wanted."""

    kind: Literal["actor-critic"] = "actor-critic"
    activation: Activation = Field("tanh", description="What follows each hidden layer.")
    shared: bool = Field(False, description="One body for policy and value; always so with a memory.")
    memory: MemoryOptions | None = Field(None, description="A recurrent cell after the body; none where null.")


@register("model", "reinforge.models.squashed_gaussian:SquashedGaussian")
class SquashedGaussianOptions(PolicyOptions):
    """A normal distribution squashed by tanh, for continuous actions."""

    kind: Literal["squashed-gaussian"] = "squashed-gaussian"
    sizes: tuple[PositiveInt, ...] = Field((256, 256), min_length=1, description="Width of each hidden layer.")
    log_std_low: float = Field(-5.0, description="Least logarithm of the deviation before tanh.")
    log_std_high: float = Field(2.0, description="Greatest logarithm of the deviation before tanh.")


@register("model", "reinforge.models.deterministic:Deterministic")
class DeterministicOptions(PolicyOptions):
    """One action for each observation, for continuous actions."""

    kind: Literal["deterministic"] = "deterministic"
    sizes: tuple[PositiveInt, ...] = Field((256, 256), min_length=1, description="Width of each hidden layer.")
    exploration: NonNegativeFloat = Field(
        0.1, description="Deviation of the noise on actions while it collects; half of the actions' range is 1."
    )
