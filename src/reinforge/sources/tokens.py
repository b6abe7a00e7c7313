"""Blocks of tokens, of one stream or of packed documents, in an order that is a function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Outcome, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import generator
from reinforge.errors import CheckpointError, DataError
from reinforge.sources.options import TokenOptions


class TokenSource:
    """Batches of `batch` rows of `options.block` next-token predictions each.

    `tokens`: one stream (n,) of integers, or documents as Ragged, which are packed whole: rows carry "documents" (the
    number of each position's document in its row, 0 where the row is filled up) and "valid". A document that is longer
    than a block is cut. An epoch gives whole batches alone. Raises DataError where there is too little text.
    """

    sharded = False
    exact = True

    def __init__(
        self, options: TokenOptions, tokens: Tensor | Ragged, *, batch: int, seed: int = 0, name: str = "tokens"
    ) -> None:
        self.options, self.seed, self.name = options, seed, name
        self.tokens = tokens
        self.size = len(tokens.values if isinstance(tokens, Ragged) else tokens)
        self.batch = batch
        self.epoch, self.cursor = 0, 0
        self._order = self._plan()

    def next(self, clock: Clock) -> Experience:
        """The next batch; `epochs` is the position after it, whole at an epoch's end."""
        order = self._order
        rows = slice(self.cursor, self.cursor + self.batch)
        batch, count = order.packed(rows) if isinstance(order, _Packing) else self._blocks(order[rows])
        self.cursor += self.batch
        total = len(order)
        epochs = self.epoch + min(self.cursor / total, 1.0)
        if self.cursor >= total:
            self.epoch, self.cursor = self.epoch + 1, 0
            self._order = self._plan()
        return Experience(batch, samples=self.batch, tokens=count, epochs=epochs)

    def _blocks(self, starts: Tensor) -> tuple[Batch, int]:
        assert isinstance(self.tokens, Tensor)
        block = self.options.block
        window = self.tokens[starts[:, None] + torch.arange(block + 1)].long()
        batch = {"inputs": {self.name: window[:, :-1]}, "targets": {self.name: window[:, 1:]}}
        return batch, len(starts) * block

    def _plan(self) -> Tensor | _Packing:
        """The epoch's rows, a whole number of batches."""
        plan = self._packing(self.tokens) if isinstance(self.tokens, Ragged) else self._starts()
        rows = len(plan)
        whole = rows - rows % self.batch
        if whole == 0:
            raise DataError(
                f"{self.size} tokens make {rows} rows of {self.options.block}, less than a batch of {self.batch}",
                where="source tokens",
                remedy="Give more text, or lower source.block or learn.batch.",
            )
        return plan[:whole]

    def _packing(self, documents: Ragged) -> _Packing:
        return _Packing.plan(documents, self.options, generator(self.seed, "tokens", self.epoch), self.name)

    def _starts(self) -> Tensor:
        """Where the epoch's blocks start: (rows,) int64; each block takes one token more than it predicts from."""
        draw = generator(self.seed, "tokens", self.epoch)
        block, order = self.options.block, self.options.order
        room = self.size - block
        if room <= 0:
            return torch.empty(0, dtype=torch.int64)
        if order == "sampled":
            return torch.randint(room, (max(1, room // block),), generator=draw)
        shift = 0 if order == "consecutive" else int(torch.randint(min(block, room), (), generator=draw))
        starts = torch.arange(shift, room, block)
        return starts if order == "consecutive" else starts[torch.randperm(len(starts), generator=draw)]

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing: it doesn't act."""

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Nothing: the order is fixed."""

    def state_dict(self) -> State:
        """Epoch and row, and the size of the text."""
        return {"epoch": self.epoch, "cursor": self.cursor, "size": self.size, "batch": self.batch}

    def load_state_dict(self, state: State) -> None:
        """Go on there. Raises CheckpointError where the text or the batch have another size."""
        for name, own in (("size", self.size), ("batch", self.batch)):
            if state[name] != own:
                raise CheckpointError(
                    f"the checkpoint's source has {name} {state[name]}, this one {own}",
                    where="source",
                    remedy="Resume with the data and the learn.batch that the run began with.",
                )
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        self._order = self._plan()


@dataclass(frozen=True)
class _Packing:
    """Rows of whole documents. Piece i lies in row `row[i]` from column `column[i]`, with `length[i]` predictions from
    `start[i]` of the tokens on; pieces stand in the order of their rows, and `first` has each row's first."""

    tokens: Tensor
    block: int
    name: str
    start: Tensor
    length: Tensor
    row: Tensor
    column: Tensor
    first: Tensor

    @classmethod
    def plan(cls, documents: Ragged, options: TokenOptions, draw: torch.Generator, name: str) -> _Packing:
        """Next fit, in the epoch's order: a row is closed when the next document does not fit."""
        block = options.block
        order = torch.arange(len(documents))
        if options.order != "consecutive":
            order = order[torch.randperm(len(documents), generator=draw)]
        # The last token of a document is only predicted.
        predictions = (documents.lengths[order] - 1).clamp(min=0)
        pieces = -(-predictions // block)
        nth = torch.arange(int(pieces.sum())) - torch.repeat_interleave(pieces.cumsum(0) - pieces, pieces)
        start = torch.repeat_interleave(documents.offsets[:-1][order], pieces) + nth * block
        length = (torch.repeat_interleave(predictions, pieces) - nth * block).clamp(max=block)
        row, column, firsts, filled = [], [], [0], 0
        for index, size in enumerate(length.tolist()):
            if filled + size > block:
                firsts.append(index)
                filled = 0
            row.append(len(firsts) - 1)
            column.append(filled)
            filled += size
        firsts.append(len(row))
        first = torch.tensor(firsts if row else [0])
        return cls(documents.values, block, name, start, length, torch.tensor(row), torch.tensor(column), first)

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, rows: slice) -> _Packing:
        """The first rows."""
        return _Packing(
            self.tokens, self.block, self.name, self.start, self.length, self.row, self.column,
            self.first[: rows.stop + 1],
        )  # fmt: skip

    def packed(self, rows: slice) -> tuple[Batch, int]:
        """The batch of these rows, and how many predictions it holds."""
        stop = min(rows.stop, len(self))
        pieces = slice(int(self.first[rows.start]), int(self.first[stop]))
        start, length, row, column = (x[pieces] for x in (self.start, self.length, self.row, self.column))
        total = int(length.sum())
        within = torch.arange(total) - torch.repeat_interleave(length.cumsum(0) - length, length)
        here = torch.repeat_interleave((row - rows.start) * self.block + column, length) + within
        source = torch.repeat_interleave(start, length) + within
        number = torch.arange(pieces.start, pieces.stop) - self.first[row] + 1
        shape = (stop - rows.start) * self.block
        flat = {key: torch.zeros(shape, dtype=torch.int64) for key in ("inputs", "targets", "documents")}
        flat["inputs"][here] = self.tokens[source].long()
        flat["targets"][here] = self.tokens[source + 1].long()
        flat["documents"][here] = torch.repeat_interleave(number, length)
        inputs, targets, documents = (flat[key].view(-1, self.block) for key in ("inputs", "targets", "documents"))
        batch = {
            "inputs": {self.name: inputs, "documents": documents},
            "targets": {self.name: targets},
            "valid": {self.name: documents > 0},
        }
        return batch, total
