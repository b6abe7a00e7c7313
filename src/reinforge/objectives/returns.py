"""Returns and advantages, as functions of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Experience
from reinforge.errors import ComponentError


def discounted(rewards: Tensor, length: Tensor, terminated: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Sums of n-step rewards, and by what the value after them counts.

    rewards (rows, n), 0 beyond `length` (rows,); terminated (rows,) of the last step. Gives float32 (rows,) each: the
    sum of gamma^i r_i, and gamma^length, or 0 where a terminal state leaves nothing to come. A truncated episode goes
    on in value, so it is not cut.
    """
    powers = gamma ** torch.arange(rewards.shape[1], dtype=rewards.dtype, device=rewards.device)
    return rewards @ powers, (gamma ** length.to(rewards.dtype)) * (~terminated)


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al., 2016): all (n, time), to (n, time).

    `next_value` is the value of the true next observation of each step. A terminal state cuts the bootstrap; the end of
    an episode, terminated or truncated, cuts the sum over lambda; steps that are not valid count nothing.
    """
    going = (~(terminated | truncated) & valid).to(reward.dtype)
    errors = (reward + gamma * next_value * (~terminated) - value) * valid
    running = torch.zeros_like(errors[:, 0])
    found = []
    # Views are taken once: a step of one column costs less than finding it.
    for error, weight in zip(reversed(errors.unbind(1)), reversed((gamma * lam * going).unbind(1))):
        running = torch.addcmul(error, weight, running)
        found.append(running)
    return torch.stack(found[::-1], 1)


def summed(rows: MutableMapping[str, Leaf | Batch], gamma: float) -> tuple[Tensor, Tensor]:
    """Take "rewards", "length" and "terminated" out of sampled rows, as `discounted` gives them."""
    rewards, length, terminated = (tensor(rows, name) for name in ("rewards", "length", "terminated"))
    for name in ("rewards", "length", "terminated"):
        del rows[name]
    return discounted(rewards, length, terminated, gamma)


def settled(experience: Experience, gamma: float) -> Experience:
    """Sampled rows with "reward", their n-step rewards summed, and "discount", by what the value after them counts."""
    rows = dict(experience.batch)
    rows["reward"], rows["discount"] = summed(rows, gamma)
    return dataclasses.replace(experience, batch=rows)


def in_turn(experience: Experience, drawn: Batch = MappingProxyType({})) -> Iterator[dict[str, Leaf | Batch]]:
    """The rows of each of an experience's `updates`, in order, with those of what was drawn for them all."""
    batch = {**experience.batch, **drawn}
    rows = batches.rows(batch)
    size = rows // int(experience.extra["updates"])
    for start in range(0, rows, size):
        yield batches.part(batch, start, start + size)


def parts(batch: Batch, name: str) -> Batch:
    """The columns under that name, as a model takes observations. Raises ComponentError where there are none."""
    value = batch.get(name)
    if not isinstance(value, Mapping):
        raise ComponentError(f"a batch has no {name!r}", remedy="Use a source that fits the objective.")
    return value


def at(columns: Batch, time: int | slice) -> dict[str, Leaf | Batch]:
    """One step of columns (rows, time, ...), or a stretch of them."""
    return picked(columns, (slice(None), time))


def picked(columns: Batch, index: Any) -> dict[str, Leaf | Batch]:
    """Columns at an index of tensors."""

    def pick(column: Leaf) -> Leaf:
        assert isinstance(column, Tensor)
        return column[index]

    return batches.apply(columns, pick)


def tensor(batch: Batch, name: str) -> Tensor:
    """The column of that name. Raises ComponentError where it is no tensor."""
    value = batch.get(name)
    if not isinstance(value, Tensor):
        raise ComponentError(f"a batch has no tensor {name!r}", remedy="Use a source that fits the objective.")
    return value
