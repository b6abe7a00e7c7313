"""Evaluation of language models on documents and chats, each read alone from its beginning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core.contracts import Clock
from reinforge.core.ragged import Ragged
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses

# Tokens that go through the model at once.
TOKENS = 4096


class DocumentEvaluator:
    """Cross-entropy of held-out documents: of the tokens in `learned` (bool, one for each value), or of all but each
    document's first.

    Documents longer than `context` are cut there. `evaluate` returns "loss" (nats per token), "perplexity", "accuracy"
    (how often the likeliest token is the right one) and, where `size` (bytes of the text that is measured) is given,
    "bits_per_byte".
    """

    def __init__(self, documents: Ragged, learned: Tensor | None, *, context: int, size: int | None = None) -> None:
        self.documents, self.learned, self.context, self.size = documents, learned, context, size

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
        total, right, count = 0.0, 0, 0
        for tokens_n, targets_n, valid_n, layout in self._parts(model.embedding.weight.device):
            hidden_nd = model.hidden_of(tokens_n, layout)[valid_n]
            wanted_n = targets_n[valid_n]
            total += float(token_losses(hidden_nd, model.head_weight, wanted_n).double().sum())
            for start in range(0, len(wanted_n), 512):
                best = model.logits(hidden_nd[start : start + 512]).argmax(-1)
                right += int((best == wanted_n[start : start + 512]).sum())
            count += len(wanted_n)
        loss = total / max(count, 1)
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": right / max(count, 1)}
        if self.size:
            found["bits_per_byte"] = total / math.log(2) / self.size
        return found

    def _parts(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor, Layout]]:
        """Tokens, what follows each, whether that counts, and where documents lie; about TOKENS at once."""
        offsets = self.documents.offsets.tolist()
        learned = self.learned if self.learned is not None else torch.ones(len(self.documents.values), dtype=torch.bool)
        rows: list[tuple[int, int]] = []
        for start, stop in pairwise(offsets):
            size = min(stop - start - 1, self.context)
            if size > 0 and bool(learned[start + 1 : start + 1 + size].any()):
                rows.append((start, size))
            if sum(length for _start, length in rows) >= TOKENS:
                yield self._part(rows, learned, device)
                rows = []
        if rows:
            yield self._part(rows, learned, device)

    def _part(
        self, rows: list[tuple[int, int]], learned: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Layout]:
        place = torch.cat([torch.arange(start, start + size) for start, size in rows])
        values = self.documents.values.long()
        layout = Layout(tuple(size for _start, size in rows), None, device)
        return values[place].to(device), values[place + 1].to(device), learned[place + 1].to(device), layout
