"""A part of a state that never changes again, so that checkpoints link it instead of copying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sealed:
    """Tensors that will not change. `name` is unique within the run for this content (letters, digits, '-', '_')."""

    name: str
    tensors: Mapping[str, Tensor]
