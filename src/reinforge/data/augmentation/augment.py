"""A list of augmentations, applied to training batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.seeds import derive
from reinforge.data.augmentation.geometry import Geometric, moved
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature


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

    Neighbours that only move pixels sample the picture once.
    """

    def __init__(self, options: Sequence[Options], signature: Signature) -> None:
        self.steps: list[Augmentation] = [REGISTRY.build("augmentation", each, signature) for each in options]

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch, changed by all."""
        moving: list[tuple[Geometric, int]] = []
        for place, step in enumerate(self.steps):
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
