"""Observations of n environments: arrays (n, ...) by the name of the input they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
Observation = dict[str, Array]


def rows(observation: Observation, index: Any) -> Observation:
    """The chosen rows of every array."""
    return {name: array[index] for name, array in observation.items()}


def copied(observation: Observation) -> Observation:
    """Arrays of their own."""
    return {name: array.copy() for name, array in observation.items()}


def put(into: Observation, index: Any, observation: Observation) -> None:
    """Write rows into every array."""
    for name, array in into.items():
        array[index] = observation[name]


def joined(observations: list[Observation]) -> Observation:
    """Rows end to end."""
    return {name: np.concatenate([one[name] for one in observations]) for name in observations[0]}


def content(observation: Observation, index: int) -> bytes:
    """The bytes of one row, name after name, to compare by."""
    return b"".join(array[index].tobytes() for array in observation.values())


def tensors(observation: Observation, device: torch.device | None = None) -> dict[str, Tensor]:
    """The same as tensors, which share memory with the arrays where they stay on the CPU."""
    return {name: torch.from_numpy(array).to(device) for name, array in observation.items()}
