"""Evaluation of language models: cross-entropy and bits per character on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core.contracts import Clock
from reinforge.core.modes import evaluating
from reinforge.evaluation.resampling import Bounds, ratio_interval
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses


class TextEvaluator:
    """Cuts a held-out text into blocks and predicts every token but the first from its own block alone.

    `tokens` (n,) integers stand for `characters` and, in UTF-8, `size` bytes. `evaluate` returns "loss" (nats per
    token), "perplexity", "bits_per_character" and, where the size is given, "bits_per_byte". `blocks` then holds the
    summed loss and the tokens of each block, and `intervals` gives those of the metrics, over blocks.
    """

    def __init__(
        self, tokens: Tensor, *, characters: int | None = None, size: int | None = None, block: int = 64,
        batch: int = 64,
    ) -> None:  # fmt: skip
        self.tokens, self.characters, self.size = tokens, characters or len(tokens), size
        self.block, self.batch = block, batch
        self.blocks: list[tuple[float, int]] = []

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `learner.model`; draws nothing, changes nothing."""
        model = cast(Decoder, learner.model)
        with evaluating(model):
            self.blocks = list(self._measure(model))
        return self._metrics(sum(loss for loss, _count in self.blocks) / sum(count for _loss, count in self.blocks))

    def intervals(self, seed: int = 0) -> dict[str, Bounds]:
        """Of each metric of the last evaluation, by the bootstrap over blocks."""
        losses, counts = zip(*self.blocks)
        if (bounds := ratio_interval(losses, counts, seed=seed)) is None:
            return {}
        low, high = self._metrics(bounds[0]), self._metrics(bounds[1])
        return {name: (low[name], high[name]) for name in low}

    def _metrics(self, loss: float) -> dict[str, float]:
        """All of them follow from nats per token."""
        bits = loss * len(self.tokens) / math.log(2)
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_character": bits / self.characters}
        return found | ({"bits_per_byte": bits / self.size} if self.size else {})

    def _measure(self, model: Decoder) -> Iterator[tuple[float, int]]:
        device = model.embedding.weight.device
        for window in self.windows():
            window = window.to(device).long()
            hidden_btd, _ = model.hidden({model.input: window[:, :-1]})
            losses = token_losses(hidden_btd.flatten(0, 1), model.head_weight, window[:, 1:].flatten())
            size = window.shape[1] - 1
            yield from ((total, size) for total in losses.double().view(-1, size).sum(1).tolist())

    def windows(self) -> Iterator[Tensor]:
        """Batches (rows, block + 1) of neighbouring blocks, which share one token; the rest comes last, shorter."""
        whole = (len(self.tokens) - 1) // self.block
        if whole:
            windows = self.tokens.unfold(0, self.block + 1, self.block)[:whole]
            yield from (windows[start : start + self.batch] for start in range(0, whole, self.batch))
        if len(self.tokens) - 1 > whole * self.block:
            yield self.tokens[None, whole * self.block :]
