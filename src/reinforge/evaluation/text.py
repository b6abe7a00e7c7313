"""Evaluation of language models: cross-entropy and bits per character on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core.contracts import Clock
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses


class TextEvaluator:
    """Cuts a held-out text into blocks and predicts every token but the first from its own block alone.

    `tokens` (n,) integers stand for `characters`. `evaluate` returns "loss" (nats per token), "perplexity" and
    "bits_per_character".
    """

    def __init__(self, tokens: Tensor, *, characters: int | None = None, block: int = 64, batch: int = 64) -> None:
        self.tokens, self.characters = tokens, characters or len(tokens)
        self.block, self.batch = block, batch

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `learner.model`; draws nothing, changes nothing."""
        model = cast(Decoder, learner.model)
        training = model.training
        model.eval()
        try:
            return self._measure(model)
        finally:
            model.train(training)

    def _measure(self, model: Decoder) -> dict[str, float]:
        device = model.embedding.weight.device
        total, count = 0.0, 0
        for window in self.windows():
            window = window.to(device).long()
            hidden_btd, _ = model.hidden({model.input: window[:, :-1]})
            losses = token_losses(hidden_btd.flatten(0, 1), model.head_weight, window[:, 1:].flatten())
            total += float(losses.double().sum())
            count += len(losses)
        loss = total / count
        per_character = len(self.tokens) / self.characters
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_character": loss * per_character / math.log(2),
        }

    def windows(self) -> Iterator[Tensor]:
        """Batches (rows, block + 1) of neighbouring blocks, which share one token; the rest comes last, shorter."""
        whole = (len(self.tokens) - 1) // self.block
        if whole:
            windows = self.tokens.unfold(0, self.block + 1, self.block)[:whole]
            yield from (windows[start : start + self.batch] for start in range(0, whole, self.batch))
        if len(self.tokens) - 1 > whole * self.block:
            yield self.tokens[None, whole * self.block :]
