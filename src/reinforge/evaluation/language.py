"""Evaluation of language models on documents and chats, each read alone from its beginning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core.contracts import Clock
from reinforge.core.modes import evaluating
from reinforge.core.ragged import Ragged
from reinforge.evaluation.resampling import Bounds, ratio_interval
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses

# Tokens that go through the model at once.
TOKENS = 4096


@dataclass(frozen=True)
class Scored:
    """One document: its number, the tokens that count, their summed cross-entropy in nats, how many of them were the
    likeliest, and the bytes of the text that they stand for."""

    document: int
    tokens: int
    loss: float
    right: int
    bytes: int


class DocumentEvaluator:
    """Cross-entropy of held-out documents: of the tokens in `learned` (bool, one for each value), or of all but each
    document's first.

    Documents longer than `context` are cut there. `evaluate` returns "loss" (nats per token), "perplexity", "accuracy"
    (how often the likeliest token is the right one) and, where `sizes` (bytes of each document's text that is
    measured) are given, "bits_per_byte", over documents that weren't cut. `scored` then holds each document's part, and
    `intervals` gives those of the metrics, over documents.
    """

    # Tokens of a document's end that are told and never read: what is told is the next one.
    ahead = 1

    def __init__(
        self, documents: Ragged, learned: Tensor | None, *, context: int, sizes: Sequence[int] | None = None
    ) -> None:
        self.documents, self.learned, self.context, self.sizes = documents, learned, context, sizes
        self.scored: list[Scored] = []

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `learner.model`; draws nothing, changes nothing."""
        model = cast(Decoder, learner.model)
        with evaluating(model):
            self.scored = sorted(self._measure(model), key=lambda each: each.document)
        count = max(sum(each.tokens for each in self.scored), 1)
        loss = sum(each.loss for each in self.scored) / count
        found = {
            "loss": loss, "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": sum(each.right for each in self.scored) / count,
        }  # fmt: skip
        if whole := self._whole():
            size = sum(each.bytes for each in whole)
            found["bits_per_byte"] = sum(each.loss for each in whole) / math.log(2) / size
        return found

    def intervals(self, seed: int = 0) -> dict[str, Bounds]:
        """Of each metric of the last evaluation, by the bootstrap over documents."""
        tokens = [each.tokens for each in self.scored]
        found: dict[str, Bounds] = {}
        loss = ratio_interval([each.loss for each in self.scored], tokens, seed=seed)
        if loss is None:
            return found
        found["loss"] = loss
        found["perplexity"] = (math.exp(min(loss[0], 700.0)), math.exp(min(loss[1], 700.0)))
        right = ratio_interval([each.right for each in self.scored], tokens, seed=seed)
        bits = [each.loss / math.log(2) for each in self._whole()]
        per_byte = ratio_interval(bits, [each.bytes for each in self._whole()], seed=seed)
        return found | {
            name: bounds for name, bounds in (("accuracy", right), ("bits_per_byte", per_byte)) if bounds is not None
        }

    def _whole(self) -> list[Scored]:
        """Documents of which every token was measured, and whose text has a size."""
        lengths = self.documents.lengths.tolist()
        return [each for each in self.scored if each.bytes and lengths[each.document] - 1 <= self.context]

    def _measure(self, model: Decoder) -> Iterator[Scored]:
        for numbers, tokens_n, targets_n, valid_n, layout in self._parts(model.embedding.weight.device):
            hidden_nd, wanted_n = model.hidden_of(tokens_n, layout)[valid_n], targets_n[valid_n]
            row_n = torch.repeat_interleave(torch.arange(len(numbers)), torch.tensor(layout.lengths))[valid_n.cpu()]
            losses_n = token_losses(hidden_nd, model.head_weight, wanted_n).double().cpu()
            right_n = torch.cat([
                model.logits(hidden_nd[start : start + 512]).argmax(-1) == wanted_n[start : start + 512]
                for start in range(0, len(wanted_n), 512)
            ]).cpu()  # fmt: skip
            zeros = torch.zeros(len(numbers), dtype=torch.float64)
            losses = zeros.index_add(0, row_n, losses_n).tolist()
            right = zeros.index_add(0, row_n, right_n.double()).tolist()
            counts = torch.bincount(row_n, minlength=len(numbers)).tolist()
            for place, number in enumerate(numbers):
                size = self.sizes[number] if self.sizes is not None else 0
                yield Scored(number, counts[place], losses[place], int(right[place]), size)

    def _parts(self, device: torch.device) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor, Layout]]:
        """Numbers of documents, their tokens, what follows each, whether that counts, and where documents lie; about
        TOKENS at once."""
        learned = self.learned if self.learned is not None else torch.ones(len(self.documents.values), dtype=torch.bool)
        rows: list[tuple[int, int, int]] = []
        for number, (start, stop) in enumerate(pairwise(self.documents.offsets.tolist())):
            size = min(stop - start - self.ahead, self.context)
            if size > 0 and bool(learned[start + self.ahead : start + self.ahead + size].any()):
                rows.append((number, start, size))
            if sum(length for _number, _start, length in rows) >= TOKENS:
                yield self._part(rows, learned, device)
                rows = []
        if rows:
            yield self._part(rows, learned, device)

    def _part(
        self, rows: list[tuple[int, int, int]], learned: Tensor, device: torch.device
    ) -> tuple[list[int], Tensor, Tensor, Tensor, Layout]:
        place = torch.cat([torch.arange(start, start + size) for _number, start, size in rows])
        values = self.documents.values.long()
        layout = Layout(tuple(size for _number, _start, size in rows), None, device)
        numbers = [number for number, _start, _size in rows]
        return numbers, values[place].to(device), values[place + 1].to(device), learned[place + 1].to(device), layout
