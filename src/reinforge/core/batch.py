"""Batches: nested dictionaries of tensors and ragged values that share their leading length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from reinforge.core.ragged import Ragged

# A nested dictionary: every leaf has the same number of rows.
Leaf = Tensor | Ragged
Batch = Mapping[str, "Leaf | Batch"]


def leaves(batch: Batch) -> Iterator[Leaf]:
    """Every leaf, in key order of each dictionary as it stands."""
    for value in batch.values():
        if isinstance(value, Mapping):
            yield from leaves(value)
        else:
            yield value


def rows(batch: Batch) -> int:
    """The leading length that all leaves share (the first leaf's; `check` compares them all)."""
    for leaf in leaves(batch):
        # Asking a tensor for its shape costs a tenth of asking for its length.
        return leaf.shape[0] if isinstance(leaf, Tensor) else len(leaf)
    return 0


def section(batch: Batch, name: str) -> Mapping[str, Tensor]:
    """The tensors under `name`, one level down; none where there is no such key."""
    return cast("Mapping[str, Tensor]", batch.get(name) or {})


def check(batch: Batch) -> None:
    """Raise ValueError where leaves differ in their number of rows."""
    lengths = {len(leaf) for leaf in leaves(batch)}
    if len(lengths) > 1:
        raise ValueError(f"the leaves of one batch have different numbers of rows: {sorted(lengths)}")


def apply(batch: Batch, function: Callable[[Leaf], Leaf]) -> dict[str, Leaf | Batch]:
    """The same structure with `function` applied to every leaf."""
    return {k: apply(v, function) if isinstance(v, Mapping) else function(v) for k, v in batch.items()}


def part(batch: Batch, start: int, stop: int) -> dict[str, Leaf | Batch]:
    """Rows start to stop (exclusive), as views."""
    return apply(batch, lambda leaf: leaf.slice(start, stop) if isinstance(leaf, Ragged) else leaf[start:stop])


def select(batch: Batch, index: Tensor) -> dict[str, Leaf | Batch]:
    """Rows by index (n,), copied."""
    return apply(
        batch,
        lambda leaf: leaf.select(index) if isinstance(leaf, Ragged) else leaf.index_select(0, index.to(leaf.device)),
    )


def split(batch: Batch, size: int | None) -> list[Batch]:
    """Consecutive parts of at most `size` rows; the batch itself where `size` is None or large enough."""
    if size is None or size >= (total := rows(batch)):
        return [batch]
    return [part(batch, start, min(start + size, total)) for start in range(0, total, size)]


def shard(batch: Batch, rank: int, world: int) -> Batch:
    """The consecutive part of the batch that belongs to `rank` of `world`; parts differ by one row at most."""
    total = rows(batch)
    return part(batch, total * rank // world, total * (rank + 1) // world)


def to(batch: Batch, device: torch.device | str) -> dict[str, Leaf | Batch]:
    """Move every leaf; does nothing to what is there already."""

    def move(leaf: Leaf) -> Leaf:
        return leaf.to(device) if isinstance(leaf, Ragged) else leaf.to(device, non_blocking=True)

    return apply(batch, move)


def concatenate(batches: Sequence[Batch]) -> dict[str, Leaf | Batch]:
    """Join batches of the same structure along their rows."""
    first = batches[0]
    out: dict[str, Leaf | Batch] = {}
    for key, value in first.items():
        parts = [batch[key] for batch in batches]
        if isinstance(value, Mapping):
            out[key] = concatenate([p for p in parts if isinstance(p, Mapping)])
        elif isinstance(value, Ragged):
            ragged = [p for p in parts if isinstance(p, Ragged)]
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), *(r.lengths for r in ragged)]).cumsum(0)
            values = [r.values[int(r.offsets[0]) : int(r.offsets[-1])] for r in ragged]
            out[key] = Ragged(torch.cat(values), offsets)
        else:
            out[key] = torch.cat([p for p in parts if isinstance(p, Tensor)])
    return out


def to_state(batch: Batch) -> dict[str, object]:
    """A batch as a state tree (see `core.contracts.State`)."""
    out: dict[str, object] = {}
    for key, value in batch.items():
        if isinstance(value, Ragged):
            out[key] = {"ragged": [value.values, value.offsets]}
        else:
            out[key] = {"batch": to_state(value)} if isinstance(value, Mapping) else value
    return out


def from_state(state: Mapping[str, object]) -> dict[str, Leaf | Batch]:
    """The batch that `to_state` described."""
    out: dict[str, Leaf | Batch] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            out[key] = value
        elif isinstance(value, Mapping) and isinstance(value.get("ragged"), list):
            out[key] = Ragged(*value["ragged"])
        elif isinstance(value, Mapping) and isinstance(value.get("batch"), Mapping):
            out[key] = from_state(value["batch"])
        else:
            raise ValueError(f"the stored batch has no readable value under {key!r}")
    return out
