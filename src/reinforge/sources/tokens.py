"""Blocks of tokens, of one stream or of packed documents, in an order that is a function of (seed, epoch, index)."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import generator
from reinforge.errors import DataError
from reinforge.sources.options import TokenOptions
from reinforge.sources.ordered import Ordered, check_same
from reinforge.sources.packing import Packing


class TokenSource(Ordered):
    """Batches of `batch` rows of `options.block` next-token predictions each.

    `tokens`: one stream (n,) of integers, or documents as Ragged, which are packed whole: rows carry "documents" (the
    number of each position's document in its row, 0 where the row is filled up) and "valid". `learned`, a bool for each
    of their values: which count as targets. An epoch gives whole batches alone. Raises DataError where there is too
    little text.
    """

    sharded = False
    exact = True

    def __init__(
        self,
        options: TokenOptions,
        tokens: Tensor | Ragged,
        *,
        batch: int,
        seed: int = 0,
        name: str = "tokens",
        learned: Tensor | None = None,
    ) -> None:
        self.options, self.seed, self.name = options, seed, name
        self.tokens, self.learned = tokens, learned
        self.size = len(tokens.values if isinstance(tokens, Ragged) else tokens)
        self.batch = batch
        self.epoch, self.cursor = 0, 0
        self._order = self._plan()

    def next(self, clock: Clock) -> Experience:
        """The next batch; `epochs` is the position after it, whole at an epoch's end."""
        order = self._order
        rows = slice(self.cursor, self.cursor + self.batch)
        batch, count = order.packed(rows) if isinstance(order, Packing) else self._blocks(order[rows])
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

    def _plan(self) -> Tensor | Packing:
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

    def _packing(self, documents: Ragged) -> Packing:
        options = self.options
        draw = generator(self.seed, "tokens", self.epoch) if options.order != "consecutive" else None
        return Packing.plan(
            documents, self.learned, block=options.block, draw=draw, name=self.name,
            long=options.long or ("split" if self.learned is None else "cut"),
        )  # fmt: skip

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

    @property
    def packing(self) -> Packing | None:
        """How this epoch's documents lie in rows; None for a stream."""
        return self._order if isinstance(self._order, Packing) else None

    def state_dict(self) -> State:
        """Epoch and row, and the size of the text."""
        return {"epoch": self.epoch, "cursor": self.cursor, "size": self.size, "batch": self.batch}

    def load_state_dict(self, state: State) -> None:
        """Go on there. Raises CheckpointError where the text or the batch have another size."""
        check_same(state, size=self.size, batch=self.batch)
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        self._order = self._plan()
