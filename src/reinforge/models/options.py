"""Options of encoders, bodies, heads, losses and models, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register

Activation = Literal["relu", "leaky-relu", "gelu", "silu", "tanh"]
Rate = Annotated[float, Field(ge=0, lt=1)]


# Encoders: one input block to (rows, features).


@register("encoder", "reinforge.models.encoders:Flatten")
class FlattenOptions(Options):
    """Numbers and boxes as they are, in one row; bytes scaled to [0, 1]."""

    kind: Literal["flatten"] = "flatten"


@register("encoder", "reinforge.models.encoders:Linear")
class LinearOptions(Options):
    """Numbers and boxes in one row, through one linear layer."""

    kind: Literal["linear"] = "linear"
    size: PositiveInt = Field(64, description="Features that it gives.")
    activation: Activation | None = Field(None, description="What follows the layer; nothing by default.")


@register("encoder", "reinforge.models.encoders:Embedding")
class EmbeddingOptions(Options):
    """A learned vector for each category of each column."""

    kind: Literal["embedding"] = "embedding"
    size: PositiveInt = Field(8, description="Length of a vector.")


@register("encoder", "reinforge.models.encoders:OneHot")
class OneHotOptions(Options):
    """A one at the place of the category, for each column."""

    kind: Literal["one-hot"] = "one-hot"


# Bodies: (rows, features) to (rows, features).


@register("body", "reinforge.models.bodies:Identity")
class IdentityOptions(Options):
    """Nothing between encoders and heads: a linear model."""

    kind: Literal["identity"] = "identity"


@register("body", "reinforge.models.bodies:MLP")
class MLPOptions(Options):
    """A multi-layer perceptron: linear, norm, activation, dropout, again and again."""

    kind: Literal["mlp"] = "mlp"
    sizes: tuple[PositiveInt, ...] = Field((64, 64), min_length=1, description="Width of each layer.")
    activation: Activation = Field("relu", description="What follows each layer.")
    norm: Literal["layer"] | None = Field(None, description="Normalisation before each activation.")
    dropout: Rate = Field(0.0, description="Part of each layer's outputs that is dropped in training.")


# Losses: (output, target) to one number a row.


@register("loss", "reinforge.models.losses:MeanSquaredError")
class MeanSquaredErrorOptions(Options):
    """Squared difference, for numbers (the default)."""

    kind: Literal["mse"] = "mse"


@register("loss", "reinforge.models.losses:MeanAbsoluteError")
class MeanAbsoluteErrorOptions(Options):
    """Absolute difference, for numbers: aims at the median."""

    kind: Literal["mae"] = "mae"


@register("loss", "reinforge.models.losses:Huber")
class HuberOptions(Options):
    """Squared up to `delta`, linear beyond it, for numbers with outliers (Huber, 1964)."""

    kind: Literal["huber"] = "huber"
    delta: PositiveFloat = Field(1.0, description="Where the square turns into a line, in units of the target.")


@register("loss", "reinforge.models.losses:CrossEntropy")
class CrossEntropyOptions(Options):
    """Negative log-likelihood of the right class, for categories (the default)."""

    kind: Literal["cross-entropy"] = "cross-entropy"
    smoothing: Rate = Field(0.0, description="Part of the probability that is spread over all classes.")


# Heads: (rows, features) to an output; each belongs to one form of output.


@register("head", "reinforge.models.heads:Number")
class NumberOptions(Options):
    """Numbers, by one linear layer."""

    kind: Literal["number"] = "number"
    loss: Annotated[Options, OneOf("loss")] = Field(MeanSquaredErrorOptions(), description="The loss of a row.")


@register("head", "reinforge.models.heads:Category")
class CategoryOptions(Options):
    """Logits of classes that exclude each other, by one linear layer."""

    kind: Literal["category"] = "category"
    loss: Annotated[Options, OneOf("loss")] = Field(CrossEntropyOptions(), description="The loss of a row.")


# Models.


@register("model", "reinforge.models.composed:Composed")
class ComposedOptions(Options):
    """An encoder for each input block, joined end to end; a body; a head for each output."""

    kind: Literal["composed"] = "composed"
    encoders: dict[str, Annotated[Options, OneOf("encoder")]] = Field(
        {}, description="Encoders by input block; by default `flatten`, and `embedding` for categories."
    )
    body: Annotated[Options, OneOf("body")] = Field(MLPOptions(), description="What lies between encoders and heads.")
    heads: dict[str, Annotated[Options, OneOf("head")]] = Field(
        {}, description="Heads by output; by default the head named like the output's form."
    )


@register("model", "reinforge.models.decoder:Decoder")
class DecoderOptions(Options):
    """A decoder language model over tokens."""

    kind: Literal["decoder"] = "decoder"
    layers: PositiveInt = Field(4, description="Number of layers.")
    width: PositiveInt = Field(128, description="Width of the stream between layers.")
    heads: PositiveInt = Field(4, description="Query heads; width / heads must be even.")
    kv_heads: PositiveInt | None = Field(None, description="Key-value heads, a divisor of heads; all heads where null.")
    hidden: PositiveInt | None = Field(None, description="Width inside the feed-forward; 8/3 of the width where null.")
    context: PositiveInt = Field(64, description="The most positions the model sees at once.")
    dropout: Rate = Field(0.0, description="Share of attention weights and layer outputs dropped.")
    tied: bool = Field(True, description="Whether the output layer is the embedding itself.")
    rotary_base: PositiveFloat = Field(10_000.0, description="Base of the rotary wavelengths.")

    @property
    def hidden_width(self) -> int:
        """`hidden`, or 8/3 of the width rounded up to a multiple of 32 (as many weights as a plain one of 4 widths)."""
        return self.hidden or -(-8 * self.width // 96) * 32

    @model_validator(mode="after")
    def divisible(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} does not give {self.heads} heads of an even width")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"{self.kv_heads} key-value heads do not divide {self.heads} heads")
        return self


# Policies.


class PolicyOptions(Options):
    """What all policies share."""

    sizes: tuple[PositiveInt, ...] = Field((64, 64), min_length=1, description="Width of each hidden layer.")
    activation: Activation = Field("relu", description="What follows each hidden layer.")
    normalise: bool = Field(False, description="Normalise observations by running statistics, kept in the model.")


@register("model", "reinforge.models.policy:QNetwork")
class QNetworkOptions(PolicyOptions):
    """The value of each discrete action."""

    kind: Literal["q-network"] = "q-network"


@register("model", "reinforge.models.policy:ActorCritic")
class ActorCriticOptions(PolicyOptions):
    """A policy with a state value, for policy gradients; with a memory if wanted."""

    kind: Literal["actor-critic"] = "actor-critic"
    activation: Activation = Field("tanh", description="What follows each hidden layer.")
    shared: bool = Field(False, description="One body for policy and value; always so with a memory.")
    memory: PositiveInt | None = Field(None, description="Width of a GRU after the body; none where null.")


@register("model", "reinforge.models.policy:SquashedGaussian")
class SquashedGaussianOptions(PolicyOptions):
    """A normal distribution squashed by tanh, for continuous actions."""

    kind: Literal["squashed-gaussian"] = "squashed-gaussian"
    sizes: tuple[PositiveInt, ...] = Field((256, 256), min_length=1, description="Width of each hidden layer.")
    log_std_low: float = Field(-5.0, description="Least logarithm of the deviation before tanh.")
    log_std_high: float = Field(2.0, description="Greatest logarithm of the deviation before tanh.")


@register("model", "reinforge.models.composed:given_in_python")
class GivenOptions(Options):
    """A module that a Python caller passed to `train`; a recipe alone can't build it."""

    kind: Literal["given"] = "given"
    name: str = Field(description="What the module is called: `load(bundle, modules={name: ...})` asks for it.")
