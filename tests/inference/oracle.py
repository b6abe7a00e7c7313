"""Sampling, one row and one token at a time in plain Python: what the sampler must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reinforge.inference.sampling import Sampling


def distribution(
    logits: Sequence[float], sampling: Sampling, *, prompt: Sequence[int] = (), own: Sequence[int] = (),
    allowed: Sequence[bool] | None = None,
) -> list[float]:  # fmt: skip
    """The probability of each token."""
    values = list(logits)
    for token in {*prompt, *own}:
        penalty = sampling.repetition
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    for token in set(own):
        values[token] -= sampling.presence
    if allowed is not None:
        values = [value if fine else -math.inf for value, fine in zip(values, allowed)]
    if not sampling.temperature:
        best = max(range(len(values)), key=lambda token: values[token])
        return [float(token == best) for token in range(len(values))]
    values = [value / sampling.temperature for value in values]
    kept = sorted(range(len(values)), key=lambda token: -values[token])[: sampling.top_k or len(values)]
    probability = softmax({token: values[token] for token in kept})
    nucleus: dict[int, float] = {}
    for token in kept:
        if sum(nucleus.values()) >= (1.0 if sampling.top_p is None else sampling.top_p):
            break
        nucleus[token] = probability[token]
    most = max(nucleus.values())
    final = {token: values[token] for token, p in nucleus.items() if p >= sampling.min_p * most}
    probability = softmax(final)
    return [probability.get(token, 0.0) for token in range(len(values))]


def softmax(values: dict[int, float]) -> dict[int, float]:
    top = max(values.values())
    powers = {token: math.exp(value - top) for token, value in values.items()}
    return {token: power / sum(powers.values()) for token, power in powers.items()}
