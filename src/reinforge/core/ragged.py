"""The one variable-length container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths, stored end to end.

    `values`: (total, ...); `offsets`: (rows + 1,) int64 on the CPU, from 0 to total, never falling.
    Row i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or self.offsets.numel() == 0:
            raise ValueError("offsets must have one dimension and at least one element")

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor]) -> Ragged:
        """Join rows (each (length, ...)) end to end."""
        lengths = torch.tensor([0, *(row.shape[0] for row in rows)])
        return cls(torch.cat(list(rows)) if rows else torch.empty(0), lengths.cumsum(0))

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    @property
    def lengths(self) -> Tensor:
        """(rows,) int64, on the CPU."""
        return self.offsets.diff()

    def row(self, index: int) -> Tensor:
        """Row `index`, a view: (length, ...)."""
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows start to stop (exclusive), as far as there are any; values are a view."""
        start, stop = min(start, len(self)), min(stop, len(self))
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Ragged(self.values[first:last], self.offsets[start : stop + 1] - first)

    def select(self, index: Tensor) -> Ragged:
        """Rows by index (n,), copied in that order."""
        chosen = index.cpu()
        lengths = self.lengths[chosen]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        where = torch.arange(int(offsets[-1])) + shift
        return Ragged(self.values[where.to(self.values.device)], offsets)

    def pad(self, value: float = 0) -> Tensor:
        """(rows, longest, ...) filled up with `value` at the end of each row."""
        lengths = self.lengths
        longest = int(lengths.max()) if len(self) else 0
        out = self.values.new_full((len(self), longest, *self.values.shape[1:]), value)
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        out[mask.to(out.device)] = self.values[int(self.offsets[0]) : int(self.offsets[-1])]
        return out

    def to(self, device: torch.device | str) -> Ragged:
        """Move the values; the offsets stay on the CPU."""
        return Ragged(self.values.to(device, non_blocking=True), self.offsets)
