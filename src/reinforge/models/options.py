"""Options of encoders, bodies, heads, losses and models, free of torch.

Over 600 lines: many components, each a short list of options that is read by itself.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register

Activation = Literal["relu", "leaky-relu", "gelu", "silu", "tanh"]
Rate = Annotated[float, Field(ge=0, lt=1)]
# Weights of classes in the order of their codes.
ClassWeights = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | Literal["balanced"] | None


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
    size: PositiveInt | None = Field(
        8, description="Length of a vector; where null, 1.6 n^0.56 for a column of n categories, at most 600."
    )
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")
    sparse: bool = Field(
        False, description="Update the rows of a batch alone (see learn.sparse): for tables of many thousand rows."
    )


@register("encoder", "reinforge.models.encoders:OneHot")
class OneHotOptions(Options):
    """A one at the place of the category, for each column."""

    kind: Literal["one-hot"] = "one-hot"


@register("encoder", "reinforge.models.numeric:Piecewise")
class PiecewiseOptions(Options):
    """Each number as the part of each of its bins that lies below it, then a layer of its own (Gorishniy et al., 2022).

    Bins are the training rows' quantiles.
    """

    kind: Literal["piecewise"] = "piecewise"
    bins: PositiveInt = Field(16, description="Bins of a column, at most.")
    size: PositiveInt | None = Field(8, description="Features of a column; the bins themselves where null.")
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")


@register("encoder", "reinforge.models.numeric:Periodic")
class PeriodicOptions(Options):
    """Sines and cosines of each number at learned frequencies, then a layer of its own (Gorishniy et al., 2022)."""

    kind: Literal["periodic"] = "periodic"
    frequencies: PositiveInt = Field(16, description="Frequencies of a column.")
    deviation: PositiveFloat = Field(0.1, description="Standard deviation of the frequencies at the beginning.")
    size: PositiveInt = Field(8, description="Features of a column.")
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")


@register("encoder", "reinforge.models.images:NatureCNN")
class NatureCNNOptions(Options):
    """Three convolutions and a linear layer: deep Q-learning's network for frames of games (Mnih et al., 2015)."""

    kind: Literal["nature-cnn"] = "nature-cnn"
    size: PositiveInt = Field(512, description="Features that it gives.")


@register("encoder", "reinforge.models.grid:Grid")
class GridOptions(Options):
    """Codes of what lies in each cell of a grid, as MiniGrid gives them: a vector per code, then convolutions."""

    kind: Literal["grid"] = "grid"
    codes: PositiveInt = Field(16, le=256, description="Codes of a channel, from 0; higher ones count as the last.")
    width: PositiveInt | None = Field(
        16, description="Length of a code's vector; a cell's are added. Where null, a 0 or 1 for each code."
    )
    channels: tuple[PositiveInt, ...] = Field((32,), description="Channels of each 3x3 convolution; none where empty.")


@register("encoder", "reinforge.models.images:CNN")
class CNNOptions(Options):
    """A convolutional network with global pooling, for images of any size."""

    kind: Literal["cnn"] = "cnn"
    block: Literal["plain", "residual", "bottleneck", "separable"] = Field(
        "residual",
        description="plain: 3x3; residual: two 3x3 beside a shortcut (He et al., 2016); bottleneck: 1x1, 3x3, 1x1 "
        "beside a shortcut; separable: depthwise 3x3, then 1x1 (Howard et al., 2017).",
    )
    width: PositiveInt = Field(32, description="Channels of the first stage; each further stage has twice as many.")
    stages: PositiveInt = Field(3, description="Stages; each after the first halves height and width.")
    depth: PositiveInt = Field(1, description="Blocks of a stage.")
    stride: PositiveInt = Field(1, description="Stride of the first convolution: 2 or 4 for large images.")
    norm: Literal["group", "layer", "batch"] | None = Field(
        "group",
        description="Normalisation after each convolution. `batch` ties the rows of a batch together: no microbatches.",
    )
    activation: Activation = Field("relu", description="What follows each normalisation.")
    pool: Literal["mean", "max"] = Field("mean", description="How positions become one row.")
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")
    checkpointing: bool = Field(False, description="Recompute stages in the backward pass, to save memory.")


class TokenEncoderOptions(Options):
    """What encoders of tokens share."""

    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")


NGrams = Annotated[int, Field(ge=1, le=8)]
NGRAMS: int = Field(
    1,
    description="Up to how many tokens in a row have a vector of their own, added to that of the token that ends them.",
)
BUCKETS: int = Field(20_000, description="Vectors that all n-grams share, by their hash.")


@register("encoder", "reinforge.models.tokens:Bag")
class BagOptions(TokenEncoderOptions):
    """The mean of the tokens' learned vectors, in any order; with n-grams if wanted (Joulin et al., 2017)."""

    kind: Literal["bag"] = "bag"
    size: PositiveInt = Field(64, description="Length of a vector.")
    pool: Literal["mean", "root"] = Field(
        "mean",
        description="The sum of the vectors divided by their number, or by its square root: longer texts then say "
        "more, as where rows of counts have length 1. Better for telling texts of different lengths apart.",
    )
    ngrams: NGrams = NGRAMS
    buckets: PositiveInt = BUCKETS


@register("encoder", "reinforge.models.tokens:RNN")
class RNNOptions(TokenEncoderOptions):
    """A recurrent network over the tokens."""

    kind: Literal["rnn"] = "rnn"
    ngrams: NGrams = NGRAMS
    buckets: PositiveInt = BUCKETS
    cell: Literal["gru", "lstm"] = Field("gru", description="Kind of cell.")
    embedding: PositiveInt = Field(64, description="Length of a token's vector.")
    size: PositiveInt = Field(128, description="Width of the memory, in each direction.")
    layers: PositiveInt = Field(1, description="Number of layers.")
    bidirectional: bool = Field(True, description="Also read from the end.")
    pool: Literal["last", "mean", "max"] = Field("last", description="How positions become one row.")


@register("encoder", "reinforge.models.transformer:Transformer")
class TransformerOptions(TokenEncoderOptions):
    """A bidirectional Transformer over the tokens, normalised before each part (Xiong et al., 2020)."""

    kind: Literal["transformer"] = "transformer"
    ngrams: NGrams = NGRAMS
    buckets: PositiveInt = BUCKETS
    layers: PositiveInt = Field(2, description="Number of layers.")
    width: PositiveInt = Field(128, description="Width of the stream between layers.")
    heads: PositiveInt = Field(4, description="Attention heads; a divisor of the width.")
    hidden: PositiveInt | None = Field(None, description="Width inside the feed-forward; 4 widths where null.")
    positions: Literal["rotary", "learned"] = Field("rotary", description="How a token knows where it stands.")
    context: PositiveInt = Field(512, description="The most tokens, where the data don't limit them.")
    pool: Literal["mean", "max", "first"] = Field("mean", description="How positions become one row.")
    checkpointing: bool = Field(False, description="Recompute layers in the backward pass, to save memory.")

    @model_validator(mode="after")
    def divisible(self) -> Self:
        if self.width % self.heads or (self.positions == "rotary" and self.width // self.heads % 2):
            even = " of an even width" if self.positions == "rotary" else ""
            raise ValueError(f"width {self.width} does not give {self.heads} heads{even}")
        return self


@register("encoder", "reinforge.models.pretrained:pretrained")
class PretrainedOptions(Options):
    """A network of `transformers` that was trained before, for texts or images (BERT, MiniLM, ViT, ResNet, ...)."""

    kind: Literal["pretrained"] = "pretrained"
    source: str = Field(
        description="A folder with config.json and model.safetensors, package:NAME/PATH for one in an installed "
        "package, or a hub id, with @REVISION after it if wanted."
    )
    weights: bool = Field(True, description="Take its weights; otherwise the same network begins anew.")
    pool: Literal["mean", "cls"] = Field(
        "mean", description="How tokens or places become one row: their mean, or the first, which some train for that."
    )
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training; inside, its own counts.")
    mean: tuple[float, ...] | None = Field(
        None, description="Mean of an image's channels, from 0 to 1; by default as its files say, or 0.5."
    )
    deviation: tuple[float, ...] | None = Field(
        None, description="Standard deviation of an image's channels; by default as its files say, or 0.5."
    )
    config: dict[str, JsonValue] | None = Field(
        None, description="What builds the network without its files, as a bundle keeps it: its `model_type` and the "
        "settings of that. Only without weights.",
    )  # fmt: skip

    @model_validator(mode="after")
    def one_description(self) -> Self:
        if self.config is not None and self.weights:
            raise ValueError("a network built from `config` has no weights: add weights: false")
        return self


# Fusion: the features of several inputs to (rows, features).


@register("fusion", "reinforge.models.fusion:Concat")
class ConcatOptions(Options):
    """Features end to end."""

    kind: Literal["concat"] = "concat"


@register("fusion", "reinforge.models.fusion:WeightedSum")
class WeightedSumOptions(Options):
    """The sum of the inputs, brought to one size, with learned weights that add up to 1."""

    kind: Literal["weighted-sum"] = "weighted-sum"
    size: PositiveInt = Field(64, description="Features that it gives.")


@register("fusion", "reinforge.models.fusion:Gate")
class GateOptions(Options):
    """The sum of the inputs, each through a gate that looks at all of them (Arevalo et al., 2017)."""

    kind: Literal["gate"] = "gate"
    size: PositiveInt = Field(64, description="Features that it gives.")


@register("fusion", "reinforge.models.fusion:Attention")
class AttentionOptions(Options):
    """A learned question to all inputs, and to each token of a text or place of an image among them."""

    kind: Literal["attention"] = "attention"
    size: PositiveInt = Field(64, description="Features that it gives.")
    heads: PositiveInt = Field(4, description="Attention heads; a divisor of the size.")

    @model_validator(mode="after")
    def divisible(self) -> Self:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} does not give {self.heads} heads")
        return self


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


@register("body", "reinforge.models.bodies:ResidualMLP")
class ResidualMLPOptions(Options):
    """Blocks of two linear layers beside a shortcut, for deeper networks on tables (Gorishniy et al., 2021)."""

    kind: Literal["residual-mlp"] = "residual-mlp"
    width: PositiveInt = Field(128, description="Width of the stream between blocks.")
    blocks: PositiveInt = Field(2, description="Number of blocks.")
    hidden: PositiveInt | None = Field(None, description="Width inside a block; 2 widths where null.")
    activation: Activation = Field("relu", description="What follows the first layer of a block.")
    dropout: Rate = Field(0.0, description="Part of what a block adds, and holds inside, that is dropped in training.")


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


@register("loss", "reinforge.models.losses:Quantile")
class QuantileOptions(Options):
    """Pinball loss, for numbers: aims at a quantile (Koenker and Bassett, 1978)."""

    kind: Literal["quantile"] = "quantile"
    level: float = Field(0.5, gt=0, lt=1, description="Part of the targets that lies below what is aimed at.")


@register("loss", "reinforge.models.losses:Poisson")
class PoissonOptions(Options):
    """Half the Poisson deviance of a log rate, for counts (the default)."""

    kind: Literal["poisson"] = "poisson"


class ClassLossOptions(Options):
    """What losses of classes share."""

    smoothing: Rate = Field(0.0, description="Part of the probability that is spread over all classes.")
    weights: ClassWeights = Field(
        None,
        description="Weight of each class, in the order of its code; `balanced`: rows / (classes x rows of the class) "
        "of the training part. A weighted sum is still divided by the number of rows.",
    )


@register("loss", "reinforge.models.losses:CrossEntropy")
class CrossEntropyOptions(ClassLossOptions):
    """Negative log-likelihood of the right class, for categories (the default)."""

    kind: Literal["cross-entropy"] = "cross-entropy"


@register("loss", "reinforge.models.losses:Focal")
class FocalOptions(ClassLossOptions):
    """Cross-entropy that fades where the model is sure and right, for categories (Lin et al., 2017)."""

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = Field(2.0, description="How fast it fades; 0 is cross-entropy.")


class LabelLossOptions(Options):
    """What losses of labels share."""

    smoothing: Rate = Field(0.0, description="Part of the probability that is spread over yes and no.")
    weights: ClassWeights = Field(
        None,
        description="Weight of each label where it holds; `balanced`: rows without it / rows with it, of the training "
        "part.",
    )


@register("loss", "reinforge.models.losses:BinaryCrossEntropy")
class BinaryCrossEntropyOptions(LabelLossOptions):
    """Negative log-likelihood of each label, averaged over labels (the default of labels)."""

    kind: Literal["binary-cross-entropy"] = "binary-cross-entropy"


@register("loss", "reinforge.models.losses:BinaryFocal")
class BinaryFocalOptions(LabelLossOptions):
    """Binary cross-entropy that fades where the model is sure and right, for labels (Lin et al., 2017)."""

    kind: Literal["binary-focal"] = "binary-focal"
    gamma: NonNegativeFloat = Field(2.0, description="How fast it fades; 0 is binary cross-entropy.")


# Heads: (rows, features) to an output; each belongs to one form of output.


class LossOptions(Options):
    """What heads share whose loss of a row is a component."""

    loss: Annotated[Options, OneOf("loss")] = Field(description="The loss of a row.")


@register("head", "reinforge.models.heads:Number")
class NumberOptions(LossOptions):
    """Numbers, by one linear layer."""

    kind: Literal["number"] = "number"
    loss: Annotated[Options, OneOf("loss")] = Field(MeanSquaredErrorOptions(), description="The loss of a row.")


@register("head", "reinforge.models.heads:Category")
class CategoryOptions(LossOptions):
    """Logits of classes that exclude each other, by one linear layer."""

    kind: Literal["category"] = "category"
    loss: Annotated[Options, OneOf("loss")] = Field(CrossEntropyOptions(), description="The loss of a row.")


@register("head", "reinforge.models.heads:Labels")
class LabelsOptions(LossOptions):
    """A logit for each label; any number of labels may hold at once, each learned against all the rest."""

    kind: Literal["labels"] = "labels"
    loss: Annotated[Options, OneOf("loss")] = Field(BinaryCrossEntropyOptions(), description="The loss of a row.")


@register("head", "reinforge.models.ordinal:Ordinal")
class OrdinalOptions(LossOptions):
    """Classes in order: one score against ordered thresholds (McCullagh, 1980)."""

    kind: Literal["ordinal"] = "ordinal"
    loss: Annotated[Options, OneOf("loss")] = Field(CrossEntropyOptions(), description="The loss of a row.")


@register("head", "reinforge.models.heads:Count")
class CountOptions(LossOptions):
    """How often: the logarithm of a Poisson rate."""

    kind: Literal["count"] = "count"
    loss: Annotated[Options, OneOf("loss")] = Field(PoissonOptions(), description="The loss of a row.")


@register("head", "reinforge.models.span:Span")
class SpanOptions(Options):
    """First and last token of a passage, over the tokens that an encoder read."""

    kind: Literal["span"] = "span"
    longest: PositiveInt | None = Field(None, description="The most tokens of a decoded span; any number where null.")
    smoothing: Rate = Field(0.0, description="Part of the probability that is spread over all tokens of the row.")


# Models.


@register("model", "reinforge.models.composed:Composed")
class ComposedOptions(Options):
    """An encoder for each input block; a fusion; a body; a head for each output."""

    kind: Literal["composed"] = "composed"
    encoders: dict[str, Annotated[Options, OneOf("encoder")]] = Field(
        {},
        description="Encoders by input block; by default `flatten` for numbers, `embedding` for categories, `cnn` for "
        "images, `bag` for tokens.",
    )
    fusion: Annotated[Options, OneOf("fusion")] = Field(ConcatOptions(), description="How several inputs become one.")
    body: Annotated[Options, OneOf("body")] = Field(MLPOptions(), description="What lies between encoders and heads.")
    heads: dict[str, Annotated[Options, OneOf("head")]] = Field(
        {}, description="Heads by output; by default the head named like the output's form."
    )


@register("model", "reinforge.models.composed:given_in_python")
class GivenOptions(Options):
    """A module that a Python caller passed to `train`; a recipe alone can't build it."""

    kind: Literal["given"] = "given"
    name: str = Field(description="What the module is called: `load(bundle, modules={name: ...})` asks for it.")
