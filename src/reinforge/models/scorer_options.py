"""Options of decoders that judge and encode text, free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.options import Rate
from reinforge.registry import Options, register


@register("model", "reinforge.models.scorer:Scorer")
class ScorerOptions(DecoderOptions):
    """A decoder that gives a whole text numbers, read off its last token: a reward model."""

    kind: Literal["scorer"] = "scorer"  # type: ignore[assignment]


@register("encoder", "reinforge.bundle.language_encoder:decoder_encoder")
class DecoderEncoderOptions(Options):
    """The decoder of a language model's bundle, for texts: to classify with what it knows of language."""

    kind: Literal["decoder"] = "decoder"
    source: str = Field("", description="The language model: a bundle, or a run.")
    pool: Literal["last", "mean"] = Field(
        "last", description="How tokens become one row: the last, which has seen all of them, or their mean."
    )
    dropout: Rate = Field(0.0, description="Part of the features that is dropped in training.")
    config: DecoderOptions | None = Field(
        None, description="What builds the decoder without the bundle, as another bundle keeps it."
    )
