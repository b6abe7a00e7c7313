"""A list of augmentations, applied to training batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.seeds import derive
from reinforge.data.augmentation.geometry import Geometric, moved
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature

# Elements of images that are changed at once: as floats they stay in a processor's cache.
_BLOCK = 1 << 18


class Augmentation(Protocol):
    """Changes a training batch, each row by numbers that are a function of (seed, epoch, row) alone.

    Images are uint8, before and after. `mixes`: a row's result depends on the rows beside it.
    """

    mixes: ClassVar[bool]

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The changed batch; nothing is written into the given one. `rows`: (n,) int64, what names each row."""
        ...


class Augment:
    """Augmentations one after the other; each place in the list has its own random numbers.

    Neighbours that only move pixels sample the picture once. Large images are changed a few rows at a time.
    """

    def __init__(self, options: Sequence[Options], signature: Signature) -> None:
        built: list[Augmentation] = [REGISTRY.build("augmentation", each, signature) for each in options]
        self.steps = list(enumerate(built))

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch, changed by all."""
        for mixes, steps in groupby(self.steps, lambda step: step[1].mixes):
            part = list(steps)
            size = batches.rows(batch) if mixes else _rows_at_once(batch)
            if size >= batches.rows(batch):
                batch = _through(part, batch, rows, seed, epoch)
                continue
            pieces = zip(batches.split(batch, size), torch.split(rows, size))
            batch = batches.concatenate([_through(part, piece, names, seed, epoch) for piece, names in pieces])
        return batch


def _through(steps: Iterable[tuple[int, Augmentation]], batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
    moving: list[tuple[Geometric, int]] = []
    for place, step in steps:
        own = derive(seed, "augment", place)
        if moving and not (isinstance(step, Geometric) and _together(moving, step)):
            batch, moving = moved(batch, moving, rows, epoch), []
        if isinstance(step, Geometric):
            moving.append((step, own))
        else:
            batch = step.apply(batch, rows, own, epoch)
    return moved(batch, moving, rows, epoch) if moving else batch


def _together(moving: list[tuple[Geometric, int]], step: Geometric) -> bool:
    """Whether the step may be sampled with those before it: the same images, and one filling."""
    fills = {each.fill for each, _ in moving} - {None}
    return moving[0][0].inputs == step.inputs and (step.fill is None or not fills or step.fill in fills)


def _rows_at_once(batch: Batch) -> int:
    sizes = [leaf[0].numel() for leaf in batches.section(batch, "inputs").values() if getattr(leaf, "ndim", 0) == 4]
    return max(1, _BLOCK // max(sizes, default=1))
