"""The parts of learning from rewards for completions: advantages, probability ratios, and what sums are divided by.

Shape suffixes: g completions, n completion tokens of all of them, end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.objectives.reward_options import (
    BatchMeanOptions,
    ClippedOptions,
    GroupMeanOptions,
    GroupNormalisedOptions,
    LeaveOneOutOptions,
    NoRatioOptions,
    PerConstantOptions,
    PerSequenceOptions,
    PerTokenOptions,
    SequenceRatioOptions,
    TokenRatioOptions,
)

EPSILON = 1e-4

# Rewards (g,) float64 and the number of each one's group (g,) to advantages (g,) float64.
Advantage = Callable[[Tensor, Tensor], Tensor]
# Tokens of each completion (g,) to the weight of each one's tokens (g,), and whether completions are what is counted
# (True) or their tokens (False).
Aggregation = Callable[[Tensor], tuple[Tensor, bool]]


def group_normalised(options: GroupNormalisedOptions) -> Advantage:
    """(r - mean) / (deviation + 1e-4) within each group, ddof 1."""

    def advantage(reward_g: Tensor, group_g: Tensor) -> Tensor:
        away_g, size_g = _away(reward_g, group_g)
        square_g = _summed(away_g.square(), group_g)
        return away_g / ((square_g / (size_g - 1).clamp(min=1)).sqrt() + EPSILON)

    return advantage


def group_mean(options: GroupMeanOptions) -> Advantage:
    """r - mean within each group."""
    return lambda reward_g, group_g: _away(reward_g, group_g)[0]


def leave_one_out(options: LeaveOneOutOptions) -> Advantage:
    """r - mean of the others of its group."""

    def advantage(reward_g: Tensor, group_g: Tensor) -> Tensor:
        away_g, size_g = _away(reward_g, group_g)
        return away_g * size_g / (size_g - 1).clamp(min=1)

    return advantage


def batch_mean(options: BatchMeanOptions) -> Advantage:
    """r - mean over everything, divided by the deviation where asked for."""

    def advantage(reward_g: Tensor, group_g: Tensor) -> Tensor:
        away_g = reward_g - reward_g.mean()
        return away_g / (reward_g.std() + EPSILON) if options.normalise and len(reward_g) > 1 else away_g

    return advantage


def _summed(x_g: Tensor, group_g: Tensor) -> Tensor:
    """The sum over its group, for each (g,)."""
    sums = x_g.new_zeros(int(group_g.max()) + 1 if len(group_g) else 0)
    return sums.index_add_(0, group_g, x_g)[group_g]


def _away(reward_g: Tensor, group_g: Tensor) -> tuple[Tensor, Tensor]:
    """From the group's mean, and the group's size."""
    size_g = _summed(torch.ones_like(reward_g), group_g)
    return reward_g - _summed(reward_g, group_g) / size_g, size_g


def flat(reward_g: Tensor, group_g: Tensor) -> Tensor:
    """(g,) bool: completions of groups whose rewards are all the same."""
    groups = int(group_g.max()) + 1 if len(group_g) else 0
    most = reward_g.new_full((groups,), -torch.inf).scatter_reduce_(0, group_g, reward_g, "amax")
    least = reward_g.new_full((groups,), torch.inf).scatter_reduce_(0, group_g, reward_g, "amin")
    return (most == least)[group_g]


@dataclass(frozen=True)
class Clipped:
    """A gain to be made larger, by token (n,), and where clipping holds it back (n,) bool."""

    gain_n: Tensor
    held_n: Tensor


# Log-probabilities new and old (n,), advantages (n,), completions' lengths (g,).
Ratio = Callable[[Tensor, Tensor, Tensor, Tensor], Clipped]


def token_ratio(options: TokenRatioOptions) -> Ratio:
    """min(r A, clip(r) A) with r = p / p_old of each token."""
    return lambda new_n, old_n, advantage_n, length_g: _clipped((new_n - old_n).exp(), advantage_n, options)


def sequence_ratio(options: SequenceRatioOptions) -> Ratio:
    """The same with one r for all tokens of a completion: the geometric mean of theirs."""

    def ratio(new_n: Tensor, old_n: Tensor, advantage_n: Tensor, length_g: Tensor) -> Clipped:
        row_n = torch.repeat_interleave(torch.arange(len(length_g), device=new_n.device), length_g)
        sum_g = new_n.new_zeros(len(length_g)).index_add(0, row_n, new_n - old_n)
        return _clipped((sum_g / length_g.clamp(min=1)).exp()[row_n], advantage_n, options)

    return ratio


def no_ratio(options: NoRatioOptions) -> Ratio:
    """log p A, less what it was: 0, with the plain gradient."""
    return lambda new_n, old_n, advantage_n, length_g: Clipped(
        (new_n - new_n.detach()) * advantage_n + advantage_n, torch.zeros_like(new_n, dtype=torch.bool)
    )


def _clipped(ratio_n: Tensor, advantage_n: Tensor, options: ClippedOptions) -> Clipped:
    gain_n = ratio_n * advantage_n
    clipped_n = ratio_n.clamp(1 - options.low, 1 + options.high) * advantage_n
    return Clipped(torch.minimum(gain_n, clipped_n), clipped_n < gain_n)


def per_sequence(options: PerSequenceOptions) -> Aggregation:
    """1 / length for each token; completions are counted."""
    return lambda length_g: (1.0 / length_g.clamp(min=1), True)


def per_token(options: PerTokenOptions) -> Aggregation:
    """1 for each token; tokens are counted."""
    return lambda length_g: (torch.ones_like(length_g, dtype=torch.float32), False)


def per_constant(options: PerConstantOptions) -> Aggregation:
    """1 / divisor for each token; completions are counted."""
    return lambda length_g: (torch.full_like(length_g, 1.0 / options.divisor, dtype=torch.float32), True)


def predicting(batch: Batch) -> tuple[Ragged, Tensor, Tensor]:
    """What a model reads of "tokens", prompts and completions: each row without its last token, which predicts nothing
    and may stand behind the context's end. Then, within that, end to end, the places whose next token is a completion's
    (of several turns, the model's own), and those tokens: (n,) int64 both."""
    tokens = cast(Ragged, batch["tokens"])
    values_n = tokens.values[int(tokens.offsets[0]) : int(tokens.offsets[-1])].long()
    lengths_g, prompt_g = tokens.lengths, cast(Tensor, batch["prompt"]).cpu()
    within_n = torch.arange(len(values_n)) - torch.repeat_interleave(lengths_g.cumsum(0) - lengths_g, lengths_g)
    first_n, last_n = (torch.repeat_interleave(each, lengths_g) for each in (prompt_g - 1, lengths_g - 1))
    read_n = within_n < last_n
    predicts_n = read_n & (within_n >= first_n)
    if "own" in batch:
        own = cast(Ragged, batch["own"])
        predicts_n &= own.values[int(own.offsets[0]) : int(own.offsets[-1])].cpu().roll(-1)
    place_n, next_n, kept_n = (
        each.nonzero().squeeze(1).to(values_n.device) for each in (predicts_n[read_n], predicts_n, read_n)
    )
    offsets = torch.cat([lengths_g.new_zeros(1), (lengths_g - 1).cumsum(0)])
    return Ragged(values_n[kept_n], offsets), place_n, values_n[next_n + 1]
