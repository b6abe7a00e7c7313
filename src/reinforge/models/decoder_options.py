"""Options of the decoder, and of adapters on it. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from reinforge.models.options import Rate
from reinforge.registry import Options, register


class RotaryOptions(Options):
    """Rotary positions, and how they are stretched beyond the context of the pre-training."""

    base: PositiveFloat = Field(10_000.0, description="Base of the wavelengths.")
    scaling: Literal["none", "linear", "llama3", "yarn"] = Field(
        "none",
        description="linear: every wavelength times the factor. llama3: the long ones alone, those between by degrees "
        "(arXiv:2407.21783). yarn: by turns within the original context, with warmer attention (arXiv:2309.00071).",
    )
    factor: PositiveFloat = Field(1.0, description="By how much wavelengths are stretched.")
    original_context: PositiveInt | None = Field(None, description="llama3, yarn: context of the pre-training.")
    low: PositiveFloat = Field(1.0, description="llama3, yarn: what turns less often within it is stretched in full.")
    high: PositiveFloat | None = Field(
        None, description="What turns more often is left alone; 4 (llama3) or 32 (yarn) where null."
    )
    attention: PositiveFloat | None = Field(
        None, description="yarn: factor of the turned vectors; 0.1 ln(factor) + 1 where null."
    )
    whole: bool = Field(True, description="yarn: whether the ramp begins and ends at whole pairs.")

    @model_validator(mode="after")
    def complete(self) -> Self:
        if self.scaling in ("llama3", "yarn") and self.original_context is None:
            raise ValueError(f"scaling {self.scaling} needs original_context")
        if self.scaling == "llama3" and self.low >= (self.high or 4.0):
            raise ValueError("low must be less than high")
        return self


@register("model", "reinforge.models.decoder:Decoder")
class DecoderOptions(Options):
    """A decoder language model over tokens, or an encoder of its parts. Sizes from `depth` alone, or one by one."""

    kind: Literal["decoder"] = "decoder"
    depth: PositiveInt | None = Field(
        None, description="So many layers, heads of 64, and the width of these; what is given beside it stands."
    )
    layers: PositiveInt = Field(4, description="Number of layers.")
    width: PositiveInt = Field(128, description="Width of the stream between layers.")
    heads: PositiveInt = Field(4, description="Query heads.")
    kv_heads: PositiveInt | None = Field(None, description="Key-value heads, a divisor of heads; all heads where null.")
    head_width: PositiveInt | None = Field(None, description="Width of a head, even; width / heads where null.")
    hidden: PositiveInt | None = Field(None, description="Width inside the feed-forward; 8/3 of the width where null.")
    context: PositiveInt = Field(64, description="The most positions the model sees at once.")
    causal: bool = Field(
        True, description="Whether a position sees only what stands before it; false, all of its document: an encoder, "
        "which learns by the objective masked and writes nothing.",
    )  # fmt: skip
    dropout: Rate = Field(0.0, description="Share of attention weights and layer outputs dropped.")
    tied: bool = Field(True, description="Whether the output layer is the embedding itself.")
    rotary: RotaryOptions = Field(RotaryOptions(), description="Rotary positions.")
    local_rotary: RotaryOptions | None = Field(
        None, description="Those of layers with a window, where they differ (Gemma 3)."
    )
    window: PositiveInt | None = Field(None, description="How many positions local layers see, their own included.")
    pattern: Annotated[tuple[Literal["global", "local", "unrotated"], ...], Field(min_length=1)] = Field(
        ("global",),
        description="Kinds of layers, over and over: global ones see everything, local ones the window, unrotated ones "
        "everything without positions (arXiv:2501.18795).",
    )
    activation: Literal["silu", "gelu"] = Field(
        "silu", description="Gate of the feed-forward: SwiGLU, or GeGLU (by its tanh form)."
    )
    bias: Literal["none", "qkv", "attention", "all"] = Field("none", description="Which linear layers have a bias.")
    qk_norm: bool = Field(False, description="Normalise queries and keys of each head (arXiv:2302.05442).")
    post_norm: bool = Field(False, description="Normalise what attention and feed-forward give, too (Gemma).")
    norm_epsilon: PositiveFloat = Field(1e-6, description="Added to the mean square in norms.")
    norm_offset: bool = Field(False, description="Gains are learned as what is added to 1 (Gemma).")
    embedding_scale: PositiveFloat | None = Field(None, description="Factor of the embeddings (Gemma).")
    attention_scale: PositiveFloat | None = Field(
        None, description="Factor of the products of queries and keys; 1 / sqrt(head width) where null."
    )

    @model_validator(mode="before")
    @classmethod
    def from_depth(cls, value: object) -> object:
        depth = value.get("depth") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            return value
        heads = value.get("heads", depth)
        width = 64 * heads if isinstance(heads, int) else None
        return {"layers": depth, "heads": heads, **({"width": width} if width else {}), **value}

    @property
    def hidden_width(self) -> int:
        """`hidden`, or 8/3 of the width rounded up to a multiple of 32 (as many weights as a plain one of 4 widths)."""
        return self.hidden or -(-8 * self.width // 96) * 32

    @property
    def each_head(self) -> int:
        """`head_width`, or the width over the heads."""
        return self.head_width or self.width // self.heads

    def layer_kind(self, layer: int) -> str:
        """Of the pattern: "global", "local" or "unrotated"."""
        return self.pattern[layer % len(self.pattern)]

    @model_validator(mode="after")
    def divisible(self) -> Self:
        if (self.head_width is None and self.width % self.heads) or self.each_head % 2:
            raise ValueError(f"width {self.width} does not give {self.heads} heads of an even width")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"{self.kv_heads} key-value heads do not divide {self.heads} heads")
        if "local" in self.pattern and self.window is None:
            raise ValueError("a pattern with local layers needs a window")
        if self.window is not None and not self.causal:
            raise ValueError("a window looks back: it goes with causal: true alone")
        return self


@register("adapter", "reinforge.models.adapters:adapt")
class LoRAOptions(Options):
    """Low-rank adapters of linear layers (arXiv:2106.09685): they alone learn, and are added to the weights in
    the end."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = Field(8, description="Rank of each adapter.")
    alpha: PositiveFloat = Field(16.0, description="The adapter counts alpha / rank times.")
    stabilised: bool = Field(
        False, description="alpha / sqrt(rank) instead, so that high ranks learn as fast (rsLoRA, arXiv:2312.03732)."
    )
    magnitude: bool = Field(
        False, description="Learn each output's magnitude apart from its direction (DoRA, arXiv:2402.09353)."
    )
    bits: Literal[4] | None = Field(
        None, description="4: the frozen weights of adapted layers are kept in 4 bits (QLoRA, NF4, arXiv:2305.14314), "
        "and become whole again when adapters are merged; null: as they are.",
    )  # fmt: skip
    dropout: Rate = Field(0.0, description="Share of an adapter's inputs dropped while learning.")
    path: str | None = Field(
        None, description="Folder of PEFT with an adapter to go on from: its rank, layers and weights are taken."
    )
    patterns: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("*attention*", "*feed_forward*"),
        description="Patterns of linear layers; joined ones by part, as blocks.0.attention.qkv.q.",
    )

    @property
    def scale(self) -> float:
        """What the adapter's product is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.stabilised else self.rank)
