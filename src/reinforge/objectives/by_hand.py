"""Losses of policies and values and their slopes, in NumPy: on a few hundred rows, starting an operation of torch costs
several times its arithmetic.

n steps or rows end to end, k choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.contracts import Number, Numbers
from reinforge.models.distributions import Array, gaussian
from reinforge.objectives import errors

# From the slopes of log-probabilities and of entropies (None: nothing asks for it), (n,) each, to those of the outputs.
Slopes = Callable[[Array, Array | None], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rows:
    """What of a minibatch stays the same while it is learned: the steps' features (n, width) and actions, and arrays
    (n,): log-probabilities and values of the policy that acted, advantages as they count, and what values should be.

    `places`: of each action in scores (k, n), flattened; `chosen` (k, n): 1 there. Nothing for continuous actions.
    `explained`: the sum of what the batch says by step.
    """

    features: Tensor
    action: Tensor
    old_log_prob: Array
    old_value: Array
    advantage: Array
    goal: Array
    valid: Array
    weight: Array
    clip: float
    explained: float
    places: Array | None
    chosen: Array | None


class Found(NamedTuple):
    """Sums over valid steps of what `objectives.surrogate` defines, and the slopes (n,) of log-probabilities and values
    from those of the two losses (None: it has no weight)."""

    policy: float
    value: float
    kl: float
    clipped: float
    slopes: Callable[[float, float | None], tuple[Array, Array | None]]


def surrogate(log_prob: Array, value: Array, rows: Rows, value_clip: float | None) -> Found:
    """`objectives.surrogate.surrogate`, summed."""
    logarithm = log_prob - rows.old_log_prob
    ratio = np.exp(logarithm)
    inside = np.minimum(np.maximum(ratio, 1 - rows.clip), 1 + rows.clip)
    own, limited = ratio * rows.advantage, inside * rows.advantage
    error = value - rows.goal
    square, follows = error * error, rows.weight
    if value_clip is not None:
        away = value - rows.old_value
        held = np.square(rows.old_value + np.minimum(np.maximum(away, -value_clip), value_clip) - rows.goal)
        # Where the held value is the worse one, it stands still: it has no slope but inside the clip.
        follows = rows.weight * ((square >= held) | (np.abs(away) < value_clip))
        square = np.maximum(square, held)

    def slopes(of_policy: float, of_value: float | None) -> tuple[Array, Array | None]:
        # On the clipped side nothing is learned; elsewhere d(-r A) = -r A d log_prob.
        chosen = np.where((own <= limited) & rows.valid, own * -of_policy, 0.0)
        return chosen, None if of_value is None else error * (follows * of_value)

    return Found(
        policy=-float(np.minimum(own, limited) @ rows.weight),
        value=0.5 * float(square @ rows.weight),
        kl=float((ratio - 1 - logarithm) @ rows.weight),
        clipped=float(np.count_nonzero((ratio != inside) & rows.valid)),
        slopes=slopes,
    )


def categorical(scores: Tensor, rows: Rows) -> tuple[Array, Array, Slopes]:
    """log p(action) and entropy (n,) of scores (n, k), and slopes: d log p(a) = onehot(a) - p, dH = -p (log p + H)."""
    assert rows.places is not None
    # Choice by choice: sums over k lie far apart and run along n.
    columns = np.ascontiguousarray(scores.numpy().T)
    columns -= columns.max(0)
    probability = np.exp(columns)
    total = probability.sum(0)
    probability /= total
    columns -= np.log(total)
    entropy = -(probability * columns).sum(0)

    def slopes(chosen: Array, spread: Array | None) -> tuple[Tensor, ...]:
        found = (rows.chosen - probability) * chosen
        if spread is not None:
            found -= probability * (columns + entropy) * spread
        return (torch.from_numpy(found.T),)

    return columns.take(rows.places), entropy, slopes


def normal(mean: Tensor, log_std: Tensor, rows: Rows) -> tuple[Array, Array, Slopes]:
    """log density of the actions and entropy (n,) of independent normals (n, size), and their slopes."""
    log_prob, entropy, back = gaussian(mean, log_std, rows.action)

    def slopes(chosen: Array, spread: Array | None) -> tuple[Tensor, ...]:
        return back(torch.from_numpy(chosen), None if spread is None else torch.from_numpy(spread))

    return log_prob.numpy(), entropy.numpy(), slopes


def weights(batch: Batch) -> Array | None:
    """`objectives.errors.weights`."""
    found = errors.weights(batch)
    return None if found is None else found.numpy()


def weighted(each: Array, weight: Array | None) -> Array:
    """Numbers (..., n) by the weights of the rows (n,)."""
    return each if weight is None else each * weight


def squared(
    values: Array, goal: Array, weight: Array | None, factor: float = 1.0
) -> tuple[Numbers, Callable[[float], Tensor]]:
    """`objectives.errors.squared` of values (critics, n) and their goals (n,), and the values' slopes (critics, n) from
    what the term "td" is scaled by."""
    away = values - goal
    counting = weighted(away, weight)
    mean = np.add.reduce(np.abs(away), 0) * (1 / len(away))
    terms = {"td": Number(factor * float(np.vdot(away, counting))), "q": Number(float(np.add.reduce(goal)), 0.0)}

    def slopes(scale: float) -> Tensor:
        return torch.from_numpy(counting * (2 * factor * scale))

    return Numbers(terms, {"td": torch.from_numpy(mean)}), slopes


def least(values: Array, slope: Array) -> Tensor:
    """The slopes of values (critics, n) from that of the least of them (n,): equal ones share it."""
    is_least = (values == np.minimum.reduce(values, 0)).astype(values.dtype)
    return torch.from_numpy(is_least * (slope / np.add.reduce(is_least, 0)))
