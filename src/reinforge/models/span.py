"""The head of passages: where in a row of tokens something begins and ends."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, distributions, nn
from torch.distributions import constraints
from torch.nn import functional

from reinforge.models.heads import Head
from reinforge.models.options import SpanOptions
from reinforge.schema.signature import Output

# Finite, so that rows without a token keep finite losses; far below what a network says.
_NEVER = -1e9


class Span(Head):
    """Logits of first and last token: (rows, 2, size) float32, with -1e9 where a row has no token.

    Called with an encoder's sequence (rows, time, token features) and its mask (rows, time). `decode` gives "span"
    (rows, 2) int64, the likeliest pair with first <= last (and at most `longest` tokens), and "score" (rows,), the sum
    of its two log-probabilities. As in Devlin et al., "BERT" (arXiv:1810.04805), section 4.2.
    """

    forms = ("span",)
    reads: ClassVar[Literal["features", "sequence"]] = "sequence"

    def __init__(self, options: SpanOptions, output: Output, features: int | None = None) -> None:
        super().__init__(output, None)
        if features is not None:
            self.projection = nn.Linear(features, 2)
        self.longest, self.smoothing = options.longest, options.smoothing

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(rows, time, token features) and (rows, time) bool to (rows, 2, size); without a mask all are tokens."""
        if not isinstance(self.projection, nn.Linear):
            return features.float()
        logits = self.projection(features.to(self.projection.weight.dtype)).float()
        if mask is not None:
            logits = logits.masked_fill(~mask.unsqueeze(-1), _NEVER)
        return functional.pad(logits.transpose(1, 2), (0, self.output.size - logits.shape[1]), value=_NEVER)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,): -log p(first) - log p(last), for target (rows, 2) int64."""
        log_p = output.log_softmax(-1)
        right = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        if self.smoothing:
            there = output > _NEVER / 2
            mean = log_p.masked_fill(~there, 0).sum(-1) / there.sum(-1).clamp(min=1)
            right = torch.lerp(right, mean, self.smoothing)
        return -right.sum(-1)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"span", "score"}."""
        span, score = best_span(output.log_softmax(-1), self.longest)
        return {"span": span, "score": score}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """First and last token, independently; the mode is the likeliest valid pair."""
        return SpanDistribution(output, self.longest)


class SpanDistribution(distributions.Distribution):
    """Two independent categorical distributions over tokens: (rows, 2, time) logits; values (rows, 2) int64."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, longest: int | None = None) -> None:
        self.ends, self.longest = distributions.Categorical(logits=logits), longest
        super().__init__(logits.shape[:-2], torch.Size([2]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """(rows,): the sum of both."""
        log_prob: Tensor = self.ends.log_prob(value).sum(-1)  # type: ignore[no-untyped-call]
        return log_prob

    @property
    def mode(self) -> Tensor:
        """The likeliest pair with first <= last: (rows, 2)."""
        return best_span(self.ends.logits, self.longest)[0]

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()) -> Tensor:  # noqa: B008
        """Pairs, each end for itself."""
        pairs: Tensor = self.ends.sample(sample_shape)  # type: ignore[no-untyped-call]
        return pairs

    def entropy(self) -> Tensor:
        """In nats: (rows,)."""
        entropy: Tensor = self.ends.entropy().sum(-1)  # type: ignore[no-untyped-call]
        return entropy


def best_span(scores: Tensor, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """The i <= j < i + longest of greatest first[i] + last[j]: (..., 2, time) to pairs (..., 2) and sums (...)."""
    first, last = scores.unbind(-2)
    if longest is None or longest >= first.shape[-1]:
        best, where = first.cummax(-1)
    else:
        padded = functional.pad(first, (longest - 1, 0), value=-torch.inf)
        best, where = padded.unfold(-1, longest, 1).max(-1)
        where = where + torch.arange(first.shape[-1], device=first.device) - (longest - 1)
    score, end = (best + last).max(-1)
    return torch.stack([where.gather(-1, end.unsqueeze(-1)).squeeze(-1), end], -1), score
