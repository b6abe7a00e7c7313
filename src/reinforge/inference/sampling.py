"""How a token is drawn from logits: penalties, masks, temperature, truncation, and the draw itself, for many rows with
settings of their own at once.

Shape suffixes: b rows, v vocabulary, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reinforge.errors import RecipeError
from reinforge.inference.native import LANES, native
from reinforge.messages import _

# The widest first look for a nucleus; where it is wider, the look is widened.
CANDIDATES = 128
BLOCK = 128
# No vocabulary is larger, and numbers that are do not fit a tensor.
_LARGEST = 2**62


@dataclass(frozen=True)
class Sampling:
    """How one request's tokens are drawn. In this order: `repetition` divides positive logits of tokens that stand in
    prompt or completion, and multiplies negative ones (arXiv:1909.05858); `presence` is taken from logits of tokens in
    the completion; what a mask forbids goes; `temperature` divides, and 0 takes the likeliest; then stay the `top_k`
    likeliest, of these the fewest whose probabilities reach `top_p` (arXiv:1904.09751), and of these those at least
    `min_p` times as probable as the likeliest (arXiv:2407.01082).

    A completion ends after a `stop` token, at `max_tokens`, or where the context ends. Raises RecipeError for values
    that mean nothing.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[int, ...] = ()
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0

    def __post_init__(self) -> None:
        bounds = {
            "max_tokens": self.max_tokens >= 1,
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k is None or self.top_k >= 1,
            "top_p": self.top_p is None or 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition": self.repetition > 0,
        }
        for name, fine in bounds.items():
            if not fine:
                raise RecipeError(
                    _("{name} can't be {value}").format(name=name, value=getattr(self, name)),
                    remedy=_("max_tokens, top_k: 1 or more; temperature: 0 or more; top_p: above 0, to 1; min_p: 0 to "
                             "1; repetition: above 0."),
                )  # fmt: skip

    @property
    def truncates(self) -> bool:
        """Whether some tokens can never be drawn."""
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1) or self.min_p > 0

    @property
    def penalises(self) -> bool:
        """Whether what was written before counts."""
        return self.repetition != 1.0 or self.presence != 0.0


class Sampler:
    """Draws for rows whose settings stay the same from step to step: tensors of them are made once.

    `samplings`: one per row.
    """

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self.samplings, self.device = tuple(samplings), device

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        def rows(chosen: Sequence[bool]) -> Tensor | None:
            """Which; None stands for all."""
            if all(chosen):
                return None
            return torch.tensor([index for index, each in enumerate(chosen) if each], device=device)

        kinds = [0 if not s.temperature else 2 if s.truncates else 1 for s in self.samplings]
        self.groups = [(kind, rows([k == kind for k in kinds])) for kind in (0, 1, 2) if kind in kinds]
        self.temperature_b1 = column([s.temperature or 1.0 for s in self.samplings])
        self.cold = all((s.temperature or 1.0) == 1.0 for s in self.samplings)
        self.penalises = any(s.penalises for s in self.samplings)
        if self.penalises:
            self.repetition_b1 = column([s.repetition for s in self.samplings])
            self.presence_b1 = column([s.presence for s in self.samplings])
        if 2 in kinds:
            cut = [s for s in self.samplings if s.temperature and s.truncates]
            self.top_k_b1 = torch.tensor([min(s.top_k or 0, _LARGEST) for s in cut], device=device)[:, None]
            self.top_p_b1 = column([1.0 if s.top_p is None else s.top_p for s in cut]).double()
            self.min_p_b1 = column([s.min_p for s in cut])
            # Without a top_k, the nucleus may be as wide as the vocabulary.
            self.at_least = max(min(s.top_k or CANDIDATES, _LARGEST) for s in cut)
            self.open = not all(s.top_k for s in cut)

    def __call__(
        self, logits_bv: Tensor, uniform_b: Tensor, allowed_bv: Tensor | None = None,
        written_bv: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """A token of each row (b,) int64, and its log-probability (b,) float32 in the distribution it was drawn from
        (at temperature 0, in the whole one, not divided).

        `logits_bv`: float32. `uniform_b`: float64 in [0, 1), which the draw inverts. `allowed_bv`: bool. `written_bv`:
        how often each token stands in prompt and completion, and in the completion alone; needed for penalties.
        """
        logits_bv = self._scaled(logits_bv, allowed_bv, written_bv)
        draws = (_likeliest, _drawn, self._truncated)
        if len(self.groups) == 1:
            return draws[self.groups[0][0]](logits_bv, uniform_b)
        token_b = torch.empty(len(logits_bv), dtype=torch.int64, device=self.device)
        log_prob_b = torch.empty(len(logits_bv), device=self.device)
        for kind, rows in self.groups:
            token_b[rows], log_prob_b[rows] = draws[kind](logits_bv[rows], uniform_b[rows])
        return token_b, log_prob_b

    def distribution(
        self, logits_bv: Tensor, allowed_bv: Tensor | None = None, written_bv: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `__call__` draws from with the same arguments: the probability of each token (b, v) float64, and the
        log-probability that would be told of it (b, v) float32."""
        logits_bv = self._scaled(logits_bv, allowed_bv, written_bv)
        prob_bv = torch.zeros(logits_bv.shape, dtype=torch.float64, device=self.device)
        told_bv = torch.empty_like(logits_bv)
        for kind, rows in self.groups:
            part_bv = logits_bv if rows is None else logits_bv[rows]
            if kind == 2:
                index_bk, log_prob_bk = self._kept(part_bv)
                log_prob_bv = torch.full_like(part_bv, -torch.inf).scatter_(1, index_bk, log_prob_bk)
            else:
                log_prob_bv = part_bv.log_softmax(-1)
            drawn_bv = log_prob_bv.double().exp()
            if kind == 0:
                best_b1 = part_bv.argmax(-1, keepdim=True)
                drawn_bv = torch.zeros_like(drawn_bv).scatter_(1, best_b1, 1.0)
            place = slice(None) if rows is None else rows
            prob_bv[place], told_bv[place] = drawn_bv, log_prob_bv
        return prob_bv, told_bv

    def _scaled(self, logits_bv: Tensor, allowed_bv: Tensor | None, written_bv: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.penalises and written_bv is not None:
            logits_bv = self.penalised(logits_bv, *written_bv)
        if allowed_bv is not None:
            logits_bv = logits_bv.masked_fill(~allowed_bv, -torch.inf)
        return logits_bv if self.cold else logits_bv / self.temperature_b1

    def penalised(self, logits_bv: Tensor, seen_bv: Tensor, own_bv: Tensor) -> Tensor:
        """Less likely where a token was seen."""
        repeated_bv = torch.where(logits_bv > 0, logits_bv / self.repetition_b1, logits_bv * self.repetition_b1)
        logits_bv = torch.where(seen_bv > 0, repeated_bv, logits_bv)
        return torch.where(own_bv > 0, logits_bv - self.presence_b1, logits_bv)

    def _truncated(self, logits_bv: Tensor, uniform_b: Tensor) -> tuple[Tensor, Tensor]:
        index_bk, log_prob_bk = self._kept(logits_bv)
        place_b1 = inverted(log_prob_bk.double().exp(), uniform_b)
        return index_bk.gather(-1, place_b1).squeeze(-1), log_prob_bk.gather(-1, place_b1).squeeze(-1)

    def _kept(self, logits_bv: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates (b, k), and their log-probabilities: -inf where one does not stay."""
        vocabulary = logits_bv.shape[-1]
        width = min(self.at_least, vocabulary)
        while True:
            value_bk, index_bk = logits_bv.topk(width, -1)
            place_k = torch.arange(width, device=self.device)
            # 0 stands for no top_k.
            within_bk = (place_k < self.top_k_b1) | (self.top_k_b1 == 0)
            kept_bk = torch.where(within_bk, value_bk, -torch.inf)
            if self.open:
                total_b1 = torch.where(
                    self.top_k_b1 == 0, logits_bv.logsumexp(-1, keepdim=True), kept_bk.logsumexp(-1, keepdim=True)
                )
            else:
                total_b1 = kept_bk.logsumexp(-1, keepdim=True)
            prob_bk = (kept_bk - total_b1).double().exp()
            reached_bk = prob_bk.cumsum(-1)
            # A token stays if those before it don't reach top_p yet: the likeliest always stays.
            stays_bk = (reached_bk - prob_bk < self.top_p_b1) & (prob_bk >= self.min_p_b1 * prob_bk[:, :1]) & within_bk
            if width == vocabulary or not self.open:
                break
            # The last candidate of an open row is out: so would be all beyond it.
            if not bool((stays_bk[:, -1:] & (self.top_k_b1 == 0)).any()):
                break
            width = min(4 * width, vocabulary)
        return index_bk, kept_bk.masked_fill(~stays_bk, -torch.inf).log_softmax(-1)


def _likeliest(logits_bv: Tensor, uniform_b: Tensor) -> tuple[Tensor, Tensor]:
    top_bn, prob_bv = _blocks(logits_bv, -torch.inf).amax(-1), logits_bv.softmax(-1)
    block_b = top_bn.argmax(-1)
    rows_b = torch.arange(len(block_b), device=block_b.device)
    token_b = block_b * BLOCK + _blocks(logits_bv, -torch.inf)[rows_b, block_b].argmax(-1)
    token_b.clamp_(max=logits_bv.shape[-1] - 1)
    return token_b, prob_bv.gather(-1, token_b[:, None]).squeeze(-1).log()


def _drawn(logits_bv: Tensor, uniform_b: Tensor) -> tuple[Tensor, Tensor]:
    """From the whole distribution. First a block of the vocabulary, then a token in it: a running sum over all tokens
    takes five times as long."""
    functions = native(logits_bv)
    if functions is not None and logits_bv.shape[-1] % LANES == 0:
        return functions.draw(logits_bv, uniform_b)
    prob_bv = logits_bv.softmax(-1)
    prob_bnk = _blocks(prob_bv, 0.0)
    reached_bn = prob_bnk.sum(-1).double().cumsum(-1)
    target_b1 = uniform_b[:, None] * reached_bn[:, -1:]
    block_b1 = torch.searchsorted(reached_bn, target_b1, right=True).clamp_(max=reached_bn.shape[1] - 1)
    inside_bk = prob_bnk.gather(1, block_b1[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).double()
    before_b1 = reached_bn.gather(-1, block_b1) - inside_bk.sum(-1, keepdim=True)
    token_b1 = block_b1 * BLOCK + _located(inside_bk, (target_b1 - before_b1).clamp_(min=0))
    # A row that is no number gives anything, and leaves its neighbours theirs.
    token_b1 = token_b1.clamp_(max=prob_bv.shape[-1] - 1)
    return token_b1.squeeze(-1), prob_bv.gather(-1, token_b1).squeeze(-1).log()


def _blocks(x_bv: Tensor, fill: float) -> Tensor:
    """(b, blocks, BLOCK), filled up."""
    spare = -x_bv.shape[-1] % BLOCK
    padded_bv = torch.nn.functional.pad(x_bv, (0, spare), value=fill) if spare else x_bv
    return padded_bv.view(len(x_bv), -1, BLOCK)


def inverted(prob_bk: Tensor, uniform_b: Tensor) -> Tensor:
    """(b, 1): the place that a number in [0, 1) draws from float64 probabilities, which need not sum to 1."""
    return _located(prob_bk, uniform_b[:, None] * prob_bk.sum(-1, keepdim=True))


def _located(prob_bk: Tensor, target_b1: Tensor) -> Tensor:
    """The first place whose running sum exceeds the target, (b, 1); in double precision, where no rounding ever picks
    a place of probability zero."""
    reached_bk = prob_bk.cumsum(-1)
    below_b1 = torch.minimum(target_b1, reached_bk[:, -1:] * (1 - 2.0**-52))
    return torch.searchsorted(reached_bk, below_b1, right=True).clamp_(max=prob_bk.shape[1] - 1)
