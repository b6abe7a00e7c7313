"""Packing: documents of different lengths side by side in rows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged


def best_fit(lengths: Sequence[int], block: int) -> list[list[int]]:
    """Which pieces share a row of `block` places: the longest first, each into the row where it leaves the least room
    (best-fit decreasing; Johnson, 1973: at most 11/9 of the fewest rows possible, and 6/9 of one more).

    Pieces are at most `block` long; those of one length keep their order, in rows of the order they were begun in.
    """
    rows: list[list[int]] = []
    # Rows by the room they have left, and which rooms there are, one bit each: the least that is enough is the lowest
    # bit from a length on.
    by_room: list[list[int]] = [[] for _room in range(block + 1)]
    rooms = 0
    for piece in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        size = lengths[piece]
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = block, len(rows)
            rows.append([])
        rows[row].append(piece)
        by_room[room - size].append(row)
        rooms |= 1 << (room - size)
    return rows


def next_fit(lengths: Sequence[int], block: int) -> list[list[int]]:
    """The same in the pieces' own order: a row is closed when the next piece does not fit."""
    rows: list[list[int]] = []
    filled = block + 1
    for piece, size in enumerate(lengths):
        if filled + size > block:
            rows.append([])
            filled = 0
        rows[-1].append(piece)
        filled += size
    return rows


@dataclass(frozen=True)
class Lost:
    """What packing left out: documents longer than a row (cut, split or dropped), the predictions that went with them,
    and documents without anything to learn."""

    long: int = 0
    tokens: int = 0
    empty: int = 0


@dataclass(frozen=True)
class Packing:
    """Rows of whole documents. Piece i lies in row `row[i]` from column `column[i]`, with `length[i]` predictions from
    `start[i]` of the tokens on; pieces stand in the order of their rows, and `first` has each row's first."""

    tokens: Tensor
    learned: Tensor | None
    block: int
    name: str
    start: Tensor
    length: Tensor
    row: Tensor
    column: Tensor
    first: Tensor
    lost: Lost

    @classmethod
    def plan(
        cls,
        documents: Ragged,
        learned: Tensor | None,
        *,
        block: int,
        long: Literal["split", "cut", "drop"],
        draw: torch.Generator | None,
        name: str,
    ) -> Packing:
        """Best fit, rows in an order drawn from `draw`; without one, the documents' own order and next fit.

        `learned` (as long as the values): which tokens count as targets; pieces without any are left out. `long`: what
        becomes of a document with more than `block` predictions.
        """
        order = torch.arange(len(documents))
        if draw is not None:
            order = order[torch.randperm(len(documents), generator=draw)]
        start, length, lost = pieces(documents, order, block, long)
        if learned is not None:
            # The last token of a document is only predicted, and its first never is.
            before = torch.cat([torch.zeros(1, dtype=torch.int64), learned.long().cumsum(0)])
            taught = before[start + length + 1] > before[start + 1]
            lost = Lost(lost.long, lost.tokens, lost.empty + int((~taught).sum()))
            start, length = start[taught], length[taught]
        rows = (next_fit if draw is None else best_fit)(length.tolist(), block)
        if draw is not None:
            rows = [rows[index] for index in torch.randperm(len(rows), generator=draw).tolist()]
        placed = torch.tensor([piece for row in rows for piece in row], dtype=torch.int64)
        counts = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        start, length = start[placed], length[placed]
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        row = torch.repeat_interleave(torch.arange(len(rows)), counts)
        ends = length.cumsum(0)
        begins = (ends - length)[first[:-1]] if len(rows) else ends
        column = ends - length - torch.repeat_interleave(begins, counts)
        return cls(documents.values, learned, block, name, start, length, row, column, first, lost)

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, rows: slice) -> Packing:
        """The first rows."""
        return Packing(
            self.tokens, self.learned, self.block, self.name, self.start, self.length, self.row, self.column,
            self.first[: rows.stop + 1], self.lost,
        )  # fmt: skip

    @property
    def filled(self) -> float:
        """Which part of the rows holds tokens."""
        pieces = int(self.first[-1])
        return float(self.length[:pieces].sum()) / max(1, len(self) * self.block)

    def packed(self, rows: slice) -> tuple[Batch, int]:
        """The batch of these rows, and how many predictions it holds, learned or not."""
        stop = min(rows.stop, len(self))
        chosen = slice(int(self.first[rows.start]), int(self.first[stop]))
        start, length, row, column = (x[chosen] for x in (self.start, self.length, self.row, self.column))
        total = int(length.sum())
        within = torch.arange(total) - torch.repeat_interleave(length.cumsum(0) - length, length)
        here = torch.repeat_interleave((row - rows.start) * self.block + column, length) + within
        source = torch.repeat_interleave(start, length) + within
        number = torch.arange(chosen.start, chosen.stop) - self.first[row] + 1
        shape = (stop - rows.start) * self.block
        flat = {key: torch.zeros(shape, dtype=torch.int64) for key in ("inputs", "targets", "documents")}
        flat["inputs"][here] = self.tokens[source].long()
        flat["targets"][here] = self.tokens[source + 1].long()
        flat["documents"][here] = torch.repeat_interleave(number, length)
        inputs, targets, documents = (flat[key].view(-1, self.block) for key in ("inputs", "targets", "documents"))
        valid = documents > 0
        if self.learned is not None:
            valid = torch.zeros(shape, dtype=torch.bool)
            valid[here] = self.learned[source + 1]
            valid = valid.view(-1, self.block)
        batch = {
            "inputs": {self.name: inputs, "documents": documents},
            "targets": {self.name: targets},
            "valid": {self.name: valid},
        }
        return batch, total


def pieces(
    documents: Ragged, order: Tensor, block: int, long: Literal["split", "cut", "drop"]
) -> tuple[Tensor, Tensor, Lost]:
    """Where each piece of the documents starts, how many predictions it holds, and what was lost. A split document
    goes on in the next piece without what stood before it."""
    # The last token of a document is only predicted.
    predictions = (documents.lengths[order] - 1).clamp(min=0)
    too_long = predictions > block
    count = -(-predictions // block)
    if long == "drop":
        count = count.masked_fill(too_long, 0)
    elif long == "cut":
        count = count.clamp(max=1)
    nth = torch.arange(int(count.sum())) - torch.repeat_interleave(count.cumsum(0) - count, count)
    start = torch.repeat_interleave(documents.offsets[:-1][order], count) + nth * block
    length = (torch.repeat_interleave(predictions, count) - nth * block).clamp(max=block)
    lost = int(predictions.sum()) - int(length.sum())
    return start, length, Lost(int(too_long.sum()), lost, int((predictions == 0).sum()))
