"""Generation: tokens drawn one after another for a batch of prompts, with a key-value cache.

Shape suffixes: b rows still running, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.models.decoder import Decoder


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 takes the likeliest. `top_k` keeps that many of the likeliest, `top_p` the
    fewest whose probabilities reach it. A row ends after a `stop` token, at `max_tokens`, or where the context ends."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generated:
    """`tokens`: completions without their prompts, stop token included. `log_probs`: of each, float32, under the
    distribution that it was drawn from (at temperature 0, under the model's own). `stopped`: (rows,) bool, False where
    a limit cut the completion."""

    tokens: Ragged
    log_probs: Ragged
    stopped: Tensor


PROMPTS = Origin(unit="prompt")
Generators = torch.Generator | Sequence[torch.Generator] | None


@torch.no_grad()
def generate(
    model: Decoder, prompts: Ragged, sampling: Sampling, generator: Generators = None, origin: Origin = PROMPTS
) -> Generated:
    """Complete every prompt. The cache is made here and dropped at the end, so it is never older than the weights.

    `generator`: one for all rows, or one per row, which makes a row's draws independent of its neighbours. `origin`:
    where the prompts come from, for errors.
    Raises DataError for an empty prompt, or one that leaves no room in the context.
    """
    context, lengths = model.options.context, prompts.lengths
    bad = (lengths == 0) | (lengths > context)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError(
            f"a prompt of {int(lengths[row])} tokens does not fit a context of {context}",
            where=origin.at(row),
            remedy="A prompt needs a token at least; shorten it, or train with a longer context.",
        )
    training = model.training
    model.eval()
    try:
        return _generate(model, prompts, sampling, generator)
    finally:
        model.train(training)


def _generate(model: Decoder, prompts: Ragged, sampling: Sampling, generator: Generators) -> Generated:
    rows, device = len(prompts), model.embedding.weight.device
    context, lengths = model.options.context, prompts.lengths
    # The last token that fits is drawn, and never fed back.
    limit = (context - lengths + 1).clamp(max=sampling.max_tokens)
    steps = int(limit.max()) if rows else 0
    tokens = torch.zeros(rows, max(steps, 0), dtype=torch.int64)
    log_probs = torch.zeros(rows, max(steps, 0))
    done_at = limit.clone()
    stopped = torch.zeros(rows, dtype=torch.bool)
    stop = torch.tensor(sampling.stop, dtype=torch.int64)
    running = torch.arange(rows)
    capacity = min(context, int(lengths.max()) + steps) if rows else 0
    state = model.initial_state(rows, capacity)
    hidden, carried = model.hidden({model.input: prompts.to(device)}, state) if rows else (torch.empty(0), None)
    hidden = hidden[running.to(device), (lengths - 1).to(device)] if rows else hidden
    for step in range(steps):
        logits_bv = model.logits(hidden)
        uniform = _uniform(rows, generator) if sampling.temperature else None
        token, log_prob = draw(logits_bv, sampling, None if uniform is None else uniform[running].to(device))
        token, log_prob = token.cpu(), log_prob.cpu()
        tokens[running, step], log_probs[running, step] = token, log_prob
        ends = torch.isin(token, stop)
        stopped[running[ends]] = True
        done_at[running[ends]] = step + 1
        going = ~ends & (limit[running] > step + 1)
        if not going.any():
            break
        if not going.all():
            running, token = running[going], token[going]
            index = going.nonzero().squeeze(1).to(device)
            carried = {name: leaf[index] for name, leaf in cast(dict[str, Tensor], carried).items()}
        hidden, carried = model.hidden({model.input: token[:, None].to(device)}, carried)
        hidden = hidden[:, 0]
    kept = torch.arange(tokens.shape[1]) < done_at[:, None]
    offsets = torch.cat([done_at.new_zeros(1), done_at.cumsum(0)])
    return Generated(Ragged(tokens[kept], offsets), Ragged(log_probs[kept], offsets), stopped)


def draw(logits_bv: Tensor, sampling: Sampling, uniform_b: Tensor | None) -> tuple[Tensor, Tensor]:
    """A token of each row and its log-probability, both (b,): the likeliest, or by inverting the distribution function
    at `uniform_b` in [0, 1)."""
    if not sampling.temperature or uniform_b is None:
        token_b = logits_bv.argmax(-1)
        return token_b, logits_bv.log_softmax(-1).gather(-1, token_b[:, None]).squeeze(-1)
    log_prob_bv = truncate(logits_bv / sampling.temperature, sampling).log_softmax(-1)
    # In double precision: in single, rounding could pick a token of probability zero.
    reached_bv = log_prob_bv.double().exp().cumsum(-1)
    token_b = torch.searchsorted(reached_bv, uniform_b[:, None].double() * reached_bv[:, -1:], right=True).squeeze(-1)
    return token_b, log_prob_bv.gather(-1, token_b[:, None]).squeeze(-1)


def truncate(logits_bv: Tensor, sampling: Sampling) -> Tensor:
    """Logits with -inf outside the `top_k` likeliest, then outside the nucleus of `top_p` (arXiv:1904.09751)."""
    if sampling.top_k is not None and sampling.top_k < logits_bv.shape[-1]:
        index_bk = logits_bv.topk(sampling.top_k, -1).indices
        kept_bv = torch.zeros_like(logits_bv, dtype=torch.bool).scatter_(-1, index_bk, True)
        logits_bv = logits_bv.masked_fill(~kept_bv, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        prob_bv, index_bv = logits_bv.softmax(-1).sort(dim=-1, descending=True, stable=True)
        # A token stays if those before it don't reach top_p yet: the likeliest always stays.
        beyond_bv = prob_bv.cumsum(-1) - prob_bv >= sampling.top_p
        dropped_bv = torch.zeros_like(beyond_bv).scatter_(-1, index_bv, beyond_bv)
        logits_bv = logits_bv.masked_fill(dropped_bv, -torch.inf)
    return logits_bv


def _uniform(rows: int, generator: Generators) -> Tensor:
    """(rows,) in [0, 1): drawn for finished rows too, so that what a row draws never depends on when others end."""
    if isinstance(generator, Sequence):
        return torch.cat([torch.rand(1, generator=own, dtype=torch.float64) for own in generator])
    return torch.rand(rows, generator=generator, dtype=torch.float64)
