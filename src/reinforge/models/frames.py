"""The last observations of an episode, stacked: part of a policy's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.schema.signature import Input

# Before a part's name: what came before it, (rows, count - 1, ...), in a policy's state and in replayed observations.
PAST = "past/"


class Frames:
    """The last `count` values of each part, oldest first; the first of an episode stands for those before it.

    What came before is in the state {"past/NAME": (n, count - 1, *shape)}, which "start" empties; or, for rows that
    were replayed, among the inputs under that name, as it was then. Without either, a row begins an episode.
    """

    def __init__(self, blocks: Mapping[str, Input], count: int) -> None:
        self.blocks, self.count = dict(blocks), count

    def initial_state(self, n: int, device: torch.device) -> dict[str, Tensor]:
        """Nothing was seen yet: n rows of zeros, which the first "start" replaces."""
        return {
            f"{PAST}{name}": torch.zeros((n, self.count - 1, *_shape(block)), dtype=_dtype(block), device=device)
            for name, block in self.blocks.items()
        }

    def __call__(self, inputs: Batch, state: Batch | None) -> tuple[dict[str, Tensor], Batch | None]:
        """Parts (..., *shape) as (..., count, *shape), for one step (rows, ...) or a stretch (rows, time, ...); and the
        state after the last of them."""
        start = inputs.get("start")
        begins = start if isinstance(start, Tensor) else None
        stacked: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            value, past = cast(Tensor, inputs[name]), inputs.get(f"{PAST}{name}")
            if isinstance(past, Tensor):
                stacked[name] = torch.cat([past.to(value.dtype), value.unsqueeze(1)], 1)
                continue
            held = None if state is None else cast(Tensor, state[f"{PAST}{name}"]).to(value)
            sequence = value.ndim - len(_shape(block)) == 2
            stacked[name] = self._stretch(value, held, begins) if sequence else self._step(value, held, begins)
            newest = stacked[name][:, -1] if sequence else stacked[name]
            after[f"{PAST}{name}"] = newest[:, 1:].to(_dtype(block))
        return stacked, {**(state or {}), **after} if after else state

    def _step(self, value: Tensor, held: Tensor | None, start: Tensor | None) -> Tensor:
        first = value.unsqueeze(1).expand(-1, self.count - 1, *value.shape[1:])
        if held is None:
            held = first
        elif start is not None:
            held = torch.where(start.view(-1, *(1,) * value.ndim), first, held)
        return torch.cat([held, value.unsqueeze(1)], 1)

    def _stretch(self, value: Tensor, held: Tensor | None, start: Tensor | None) -> Tensor:
        rows, time, before = value.shape[0], value.shape[1], self.count - 1
        begins = torch.zeros((rows, time), dtype=torch.bool, device=value.device) if start is None else start
        if held is None:
            held, begins = value[:, :1].expand(-1, before, *value.shape[2:]), begins.clone()
            begins[:, 0] = True
        line = torch.cat([held, value], 1)
        places = before + torch.arange(time, device=value.device)
        # No further back than the latest beginning of an episode, nor than what is held.
        floor = torch.where(begins, places, 0).cummax(1).values
        back = torch.arange(-before, 1, device=value.device)
        chosen = torch.maximum(places.view(1, -1, 1) + back, floor.unsqueeze(-1))
        return line[torch.arange(rows, device=value.device).view(-1, 1, 1), chosen]


def stacked(block: Input, count: int) -> Input:
    """The block that an encoder takes for `count` frames of one: their channels and choices end to end; other boxes get
    a first dimension."""
    if count == 1:
        return block
    if block.form == "categories":
        return block.model_copy(update={"sizes": block.sizes * count})
    merged = (count * block.shape[0], *block.shape[1:]) if len(block.shape) == 3 else (count, *block.shape)
    return block.model_copy(update={"shape": merged})


def merged(block: Input, value: Tensor) -> Tensor:
    """Frames (..., count, *shape) of a block as what `stacked` says."""
    if block.form == "categories":
        return value.flatten(-2)
    return value.flatten(-4, -3) if len(block.shape) == 3 else value


def _shape(block: Input) -> tuple[int, ...]:
    return (len(block.sizes),) if block.form == "categories" else block.shape


def _dtype(block: Input) -> torch.dtype:
    return {"categories": torch.int64, "image": torch.uint8}.get(block.form, torch.float32)
