"""Distributions of actions, as functions of a policy's outputs. Sums over the last dimension: one number per action."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# From the gradients of log-probabilities and of entropies (None: nothing asks for it) (...) to those of the outputs.
Slopes = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]
Array = np.ndarray[Any, np.dtype[Any]]
# Actions, their log density, and from the gradients of both that of the outputs.
Squashed = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]

_LOG_2_PI = math.log(2 * math.pi)
_LOG_2 = math.log(2)


def categorical_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """log p(action): logits (..., actions), action int64 (...) to (...)."""
    return logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def gaussian(mean: Tensor, log_std: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Slopes]:
    """log density and entropy of independent normals, (..., size) each to (...); and their slopes by hand: for the mean
    (..., size), and for log_std, where log density has z^2 - 1 with z = (value - mean) / std, and entropy 1."""
    inverse = (-log_std).exp()
    z = (value - mean) * inverse
    log_prob = (-0.5 * z.square() - log_std - 0.5 * _LOG_2_PI).sum(-1)

    def slopes(chosen: Tensor, spread: Tensor | None) -> tuple[Tensor, ...]:
        outer = chosen.unsqueeze(-1)
        widths = (z.square() - 1) * outer
        return z * inverse * outer, widths if spread is None else widths + spread.unsqueeze(-1)

    return log_prob, gaussian_entropy(log_std), slopes


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats: (..., actions) to (...)."""
    log_prob = logits.log_softmax(-1)
    return -(log_prob.exp() * log_prob).sum(-1)


def categorical_sample(logits: Tensor, gumbel: Tensor) -> Tensor:
    """An action by the Gumbel-max trick, from standard Gumbel noise of the logits' shape: int64 (...)."""
    return (logits + gumbel).argmax(-1)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, value: Tensor) -> Tensor:
    """log density of independent normals: (..., size) each to (...)."""
    return (-0.5 * ((value - mean) * (-log_std).exp()).square() - log_std - 0.5 * _LOG_2_PI).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy in nats: (..., size) to (...)."""
    return (log_std + 0.5 + 0.5 * _LOG_2_PI).sum(-1)


def tanh_gaussian_log_prob(mean: Tensor, log_std: Tensor, latent: Tensor) -> Tensor:
    """log density of a = tanh(latent) in (-1, 1): (..., size) each to (...).

    The scaling to an environment's bounds is not in it. log(1 - tanh(x)^2) is written as 2 (log 2 - x - softplus(-2x)),
    which stays exact where tanh saturates (Haarnoja et al., 2018, appendix C, in stable form).
    """
    correction = 2 * (_LOG_2 - latent - functional.softplus(-2 * latent))
    return gaussian_log_prob(mean, log_std, latent) - correction.sum(-1)


def squashed_by_numpy(outputs: Tensor, noise: Tensor, bounds: tuple[float, float]) -> Squashed:
    """Actions a = tanh(x), x = mean + std noise, (n, size); `tanh_gaussian_log_prob` of them (n,); and what gives the
    gradient of the outputs from those of both. Outputs (n, 2 size): the means, and what tanh brings into the `bounds`
    of log_std. In NumPy, which takes a fraction of torch's time for starting an operation.

    x moves the action by 1 - a^2 and the log density by 2 a. The normal part of it depends on log_std alone: what x is
    away from its mean, in deviations, is the noise.
    """
    (low, high), size = bounds, noise.shape[1]
    # Dimension by dimension: those of an action lie far apart, and sums over them run along the rows.
    (mean, raw), drawn = np.split(_turned(outputs), 2), _turned(noise)
    bent = np.tanh(raw)
    log_std = low + 0.5 * (high - low) * (bent + 1)
    step = np.exp(log_std) * drawn
    latent = mean + step
    action, away = np.tanh(latent), np.abs(latent)
    # x + softplus(-2x) is the same on both sides of 0.
    each = 2 * (away + np.log(1 + np.exp(-2 * away))) - log_std - 0.5 * drawn * drawn
    log_prob = each.sum(0) - size * (0.5 * _LOG_2_PI + 2 * _LOG_2)

    def slopes(moved: Tensor, chosen: Tensor) -> Tensor:
        of_action, of_log_prob = _turned(moved), chosen.numpy()
        means = of_action + action * (2 * of_log_prob - action * of_action)
        widths = (means * step - of_log_prob) * (0.5 * (high - low)) * (1 - bent * bent)
        return torch.from_numpy(np.ascontiguousarray(np.concatenate([means, widths]).T))

    return torch.from_numpy(np.ascontiguousarray(action.T)), torch.from_numpy(log_prob), slopes


def _turned(x: Tensor) -> Array:
    """(n, k) as (k, n)."""
    return np.ascontiguousarray(x.numpy().T)
