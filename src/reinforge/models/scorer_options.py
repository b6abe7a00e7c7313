"""Options of decoders that judge text, free of torch."""

from __future__ import annotations

from typing import Literal

from reinforge.models.options import DecoderOptions
from reinforge.registry import register


@register("model", "reinforge.models.scorer:Scorer")
class ScorerOptions(DecoderOptions):
    """A decoder that gives a whole text numbers, read off its last token: a reward model."""

    kind: Literal["scorer"] = "scorer"  # type: ignore[assignment]
