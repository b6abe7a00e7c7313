"""What a language model writes after beginnings that it has not seen: a sample to read, not a measure."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reinforge.core import seeds
from reinforge.data.text import TextPipeline
from reinforge.evaluation.answers import Continued
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder

# Tokens of each, and how boldly they are drawn.
TOKENS, TEMPERATURE, TOP_P = 96, 0.8, 0.95


def continuations(
    model: Decoder, pipeline: TextPipeline, beginnings: Sequence[tuple[str, Tensor]], seed: int
) -> tuple[Continued, ...]:
    """One for each beginning, given as it is shown and as tokens (n,); those that leave no room are passed over."""
    kept = [(text, ids) for text, ids in beginnings if 0 < len(ids) < model.options.context]
    if not kept:
        return ()
    sampling = Sampling(TOKENS, TEMPERATURE, top_p=TOP_P, stop=pipeline.stops)
    requests = [
        Request(tuple(ids.tolist()), sampling, seeds.derive(seed, "continuation", number))
        for number, (_text, ids) in enumerate(kept)
    ]
    found = GenerationEngine(model, slots=len(requests)).run(requests)
    decode = pipeline.tokenizer.decode
    return tuple(Continued(text, decode(each.tokens)) for (text, _ids), each in zip(kept, found))
