"""Generation for a batch of prompts at once: the engine's completions as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.data.values import Origin
from reinforge.inference.engine import PROMPTS, GenerationEngine
from reinforge.inference.requests import Completion, Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder

# Completions that are written at once, at most, unless said otherwise: each holds a row of the key-value cache.
SLOTS = 64


@dataclass(frozen=True)
class Generated:
    """`tokens`: completions without their prompts, stop token included (int64). `log_probs`: of each, float32, under
    the distribution that it was drawn from (at temperature 0, under the model's own). `stopped`: (rows,) bool, False
    where a limit cut the completion."""

    tokens: Ragged
    log_probs: Ragged
    stopped: Tensor


def generate(
    model: Decoder, prompts: Ragged, sampling: Sampling, seeds: Sequence[int] = (), origin: Origin = PROMPTS,
    *, slots: int = SLOTS,
) -> Generated:  # fmt: skip
    """Complete every prompt. The cache is made here and dropped at the end, so it is never older than the weights.

    `seeds`: one per row, from which it draws whatever its neighbours do; its number where there are none. `origin`:
    where the prompts come from, for errors.
    Raises DataError for an empty prompt, or one that leaves no room in the context.
    """
    rows = [tuple(prompts.row(index).tolist()) for index in range(len(prompts))]
    chosen = seeds or range(len(rows))
    engine = GenerationEngine(model, slots=min(slots, max(len(rows), 1)), origin=origin)
    return gathered(engine.run(Request(row, sampling, seed) for row, seed in zip(rows, chosen, strict=True)))


def gathered(completions: Sequence[Completion]) -> Generated:
    """Completions as tensors."""
    offsets = torch.tensor([0, *(len(each.tokens) for each in completions)]).cumsum(0)
    tokens = torch.tensor([token for each in completions for token in each.tokens], dtype=torch.int64)
    log_probs = torch.tensor([value for each in completions for value in each.log_probs], dtype=torch.float32)
    stopped = torch.tensor([each.reason == "stop" for each in completions], dtype=torch.bool)
    return Generated(Ragged(tokens, offsets), Ragged(log_probs, offsets), stopped)
