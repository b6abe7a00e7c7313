"""Speculative decoding: a small model proposes several tokens, the large one judges them all in one pass, and what is
written is distributed as if the large one had written alone (arXiv:2211.17192, arXiv:2302.01318).

Shape suffixes: n rows, t places (proposals, and one more for the target), v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reinforge.data.values import Origin
from reinforge.errors import ReinforgeError
from reinforge.inference.cache import KeyValueCache
from reinforge.inference.engine import PROMPTS, GenerationEngine
from reinforge.inference.packed import PackedDecoder, packable
from reinforge.inference.requests import Likeliest, Reason, Request, Running, Token
from reinforge.inference.sampling import Sampler, inverted
from reinforge.messages import _
from reinforge.models.decoder import Decoder

# Tokens that the draft proposes at a time.
PROPOSALS = 4


class SpeculativeEngine(GenerationEngine):
    """A generation engine with a `draft` of the same vocabulary.

    In each step the draft draws `proposals` tokens of each row by q, its own distribution under the request's settings,
    and one pass of the model gives p, the model's, at all of them. A proposal x stays with probability min(1, p(x) /
    q(x)); the first that does not is replaced by a draw from max(p - q, 0), normalised; where all stay, one more is
    drawn from p. A request draws from its own seed still, but not the same numbers as without a draft: the distribution
    is the same, and at temperature 0 the text. A request with a constraint takes no proposals.

    `proposed` and `accepted` count tokens, by the number of the request. Raises ReinforgeError where the draft's
    vocabulary or context does not fit.
    """

    def __init__(
        self, model: Decoder, draft: Decoder, *, proposals: int = PROPOSALS, slots: int = 32, origin: Origin = PROMPTS
    ) -> None:
        if proposals < 1:
            raise ReinforgeError(_("proposals must be at least 1, not {n}").format(n=proposals))
        sizes = len(model.head_weight), len(draft.head_weight)
        if sizes[0] != sizes[1]:
            raise ReinforgeError(
                _("the draft's vocabulary has {draft} tokens, and the model's {model}").format(
                    draft=sizes[1], model=sizes[0]
                ),
                remedy=_("Take a draft with the model's own tokenizer."),
            )
        if draft.options.context < model.options.context:
            raise ReinforgeError(
                _("the draft's context of {draft} is shorter than the model's of {model}").format(
                    draft=draft.options.context, model=model.options.context
                ),
                remedy=_("Train the draft with the model's context."),
            )
        super().__init__(model, slots=slots, origin=origin)
        self.draft, self.proposals = draft, proposals
        self.draft_network = PackedDecoder.of(draft) if packable(draft) else draft.eval()
        self.cache: BothCaches = BothCaches(self.network, self.draft_network, slots)
        self.proposed: dict[int, int] = {}
        self.accepted: dict[int, int] = {}
        self._wide: dict[int, Sampler] = {}
        self._fresh: list[Token] = []

    def flush(self) -> None:
        """The draft's weights are taken anew too."""
        super().flush()
        if isinstance(self.draft_network, PackedDecoder):
            self.draft_network.refresh()
        if type(self.cache) is not BothCaches:
            self.cache = BothCaches(self.network, self.draft_network, self.slots)
        self.proposed, self.accepted = {}, {}

    def step(self) -> list[Token]:
        """One token or more of each that is at work."""
        if self.idle:
            return []
        with self._evaluating():
            self._step()
        return self._fresh

    def _step(self) -> list[tuple[Running, Reason | None]]:
        self._admit()
        device = self.model.embedding.weight.device
        if self._sampler is None:
            self._sampler = Sampler([each.request.sampling for each in self.running], device)
            self._wide = {}
            self._written = self._counted() if self._sampler.penalises else None
        ahead = [self._ahead(each) for each in self.running]
        most = max(ahead)
        ahead_n = torch.tensor(ahead, device=device)
        drafted_nt, judged_nt, last_n = (each.to(device) for each in self._uniforms(ahead, most))
        start_n, place_t = torch.tensor(self._positions, device=device), torch.arange(most + 1, device=device)
        # Beyond a row's own proposals its last token is repeated, where it stands.
        position_nt = start_n[:, None] + torch.minimum(place_t, ahead_n[:, None])
        longest = max(position + count for position, count in zip(self._positions, ahead))
        self.cache.reserve(longest + 1)
        allowed_nv = self._allowed(self.model.head_weight.new_empty(len(ahead), len(self.model.head_weight)))
        token_nt, draft_ntv, written = self._propose(self._sampler, position_nt, ahead_n, drafted_nt, allowed_nv)
        logits_ntv = self.network.logits(self.cache.steps(token_nt, position_nt, longest))
        prob_ntv, told_ntv = self._distribution(logits_ntv, allowed_nv, written)
        kept_n, drawn_n = judge(prob_ntv, draft_ntv, token_nt[:, 1:], ahead_n, judged_nt, last_n)
        # What is written: the proposals that stay, and the one that was drawn behind them.
        new_nt = torch.where(place_t < kept_n[:, None], token_nt.roll(-1, 1), drawn_n[:, None])
        if self._written is not None:
            stands_nt = (place_t <= kept_n[:, None]).int()
            for counts_nv in self._written:
                counts_nv.scatter_add_(1, new_nt, stands_nt)
        told_nt = told_ntv.gather(2, new_nt[:, :, None]).squeeze(2)
        return self._write(ahead, kept_n.tolist(), new_nt.tolist(), told_nt.tolist(), logits_ntv)

    def _ahead(self, each: Running) -> int:
        """How many proposals a row takes: at most what may be written before its last token."""
        if each.request.constraint is not None:
            return 0
        return min(self.proposals, each.limit - len(each.tokens) - 1)

    def _uniforms(self, ahead: Sequence[int], most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers in [0, 1), each request's own: for the draft's draws (n, t), for judging them (n, t), and for the
        last draw (n,)."""
        drafted_nt, judged_nt = torch.zeros(2, len(ahead), most, dtype=torch.float64)
        last_n = torch.zeros(len(ahead), dtype=torch.float64)
        for row, (each, count) in enumerate(zip(self.running, ahead)):
            drawn = torch.tensor([each.uniform() for _place in range(2 * count + 1)], dtype=torch.float64)
            drafted_nt[row, :count], judged_nt[row, :count], last_n[row] = drawn[:count], drawn[count:-1], drawn[-1]
        return drafted_nt, judged_nt, last_n

    def _propose(
        self, sampler: Sampler, position_nt: Tensor, ahead_n: Tensor, uniform_nt: Tensor, allowed_nv: Tensor | None
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor] | None]]:
        """The newest tokens and the proposals behind them (n, 1 + t), q of each proposal (n, t, v), and what was
        written before each place."""
        cache, network, most = self.cache.draft, self.draft_network, uniform_nt.shape[1]
        two_n2 = torch.tensor([_last_two(each) for each in self.running], device=position_nt.device)
        # The token before the newest may be a proposal that the draft has not read itself.
        place_n2 = torch.stack([(position_nt[:, 0] - 1).clamp(min=0), position_nt[:, 0]], 1)
        hidden_nd = cache.steps(two_n2, place_n2, max(self._positions))[:, -1]
        tokens, probabilities, written = [two_n2[:, 1]], [], [self._written]
        for place in range(most):
            prob_nv, _told = sampler.distribution(network.logits(hidden_nd), allowed_nv, written[-1])
            drawn_n = inverted(prob_nv, uniform_nt[:, place]).squeeze(1)
            tokens.append(torch.where(place < ahead_n, drawn_n, tokens[-1]))
            probabilities.append(prob_nv)
            written.append(_more(written[-1], drawn_n))
            if place + 1 < most:
                hidden_nd = cache.step(tokens[-1], position_nt[:, place + 1], max(self._positions) + place + 1)
        rows, size = len(ahead_n), len(self.model.head_weight)
        empty_ntv = position_nt.new_empty(rows, 0, size, dtype=torch.float64)
        return torch.stack(tokens, 1), torch.stack(probabilities, 1) if probabilities else empty_ntv, written

    def _distribution(
        self, logits_ntv: Tensor, allowed_nv: Tensor | None, written: Sequence[tuple[Tensor, Tensor] | None]
    ) -> tuple[Tensor, Tensor]:
        """p, and the log-probabilities to tell, at each place: (n, t, v) both."""
        rows, time, _size = logits_ntv.shape
        if time not in self._wide:
            samplings = [each.request.sampling for each in self.running for _place in range(time)]
            self._wide[time] = Sampler(samplings, logits_ntv.device)
        before = None
        if known := [each for each in written if each is not None]:
            seen, own = (torch.stack(each, 1).flatten(0, 1) for each in zip(*known))
            before = seen, own
        allowed_bv = None if allowed_nv is None else allowed_nv.repeat_interleave(time, 0)
        prob_bv, told_bv = self._wide[time].distribution(logits_ntv.flatten(0, 1), allowed_bv, before)
        return prob_bv.view(rows, time, -1), told_bv.view(rows, time, -1)

    def _write(
        self, ahead: Sequence[int], kept: Sequence[int], tokens: Sequence[Sequence[int]],
        told: Sequence[Sequence[float]], logits_ntv: Tensor,
    ) -> list[tuple[Running, Reason | None]]:  # fmt: skip
        self._fresh, found, ended = [], [], []
        for slot, running in enumerate(self.running):
            reason: Reason | None = None
            for place in range(kept[slot] + 1):
                token, log_prob = tokens[slot][place], told[slot][place]
                likeliest = _looked(running.request, logits_ntv[slot, place], token)
                reason = running.write(token, log_prob)
                self._positions[slot] += 1
                self._fresh.append(Token(running.number, token, log_prob, reason, likeliest))
                if reason is not None:
                    ended.append(slot)
                    break
            found.append((running, reason))
            self.proposed[running.number] = self.proposed.get(running.number, 0) + ahead[slot]
            self.accepted[running.number] = self.accepted.get(running.number, 0) + kept[slot]
        if ended:
            self._release(ended)
        return found


class BothCaches(KeyValueCache):
    """The model's cache, and its draft's: both have the same sequences in the same slots."""

    def __init__(self, model: Decoder, draft: Decoder, slots: int) -> None:
        super().__init__(model, slots)
        self.draft = KeyValueCache(draft, slots)

    def reserve(self, positions: int) -> None:
        super().reserve(positions)
        self.draft.reserve(positions)

    def copy(self, source: int, targets: Sequence[int], positions: int) -> None:
        super().copy(source, targets, positions)
        self.draft.copy(source, targets, positions)

    def prefill(self, rows: Sequence[Tensor], slots: Sequence[int]) -> None:
        super().prefill(rows, slots)
        self.draft.prefill(rows, slots)


def judge(
    prob_ntv: Tensor, draft_ntv: Tensor, proposed_nt: Tensor, ahead_n: Tensor, uniform_nt: Tensor, last_n: Tensor
) -> tuple[Tensor, Tensor]:
    """How many of each row's first `ahead_n` proposals stay, and the token that is written behind them: (n,) both.

    `prob_ntv`: p at each proposal and behind the last; `draft_ntv`: q at each proposal; both float64. `uniform_nt` and
    `last_n`: numbers in [0, 1) that decide.
    """
    time = proposed_nt.shape[1]
    chosen_nt1 = proposed_nt[:, :, None]
    p_nt, q_nt = prob_ntv[:, :time].gather(2, chosen_nt1).squeeze(2), draft_ntv.gather(2, chosen_nt1).squeeze(2)
    stays_nt = (uniform_nt * q_nt < p_nt) & (torch.arange(time, device=ahead_n.device) < ahead_n[:, None])
    kept_n = stays_nt.int().cumprod(1).sum(1)
    row_n = torch.arange(len(kept_n), device=kept_n.device)
    p_nv = prob_ntv[row_n, kept_n]
    if time:
        rest_nv = (p_nv - draft_ntv[row_n, kept_n.clamp(max=time - 1)]).clamp(min=0)
        # Where p and q are one but for rounding, nothing may be left.
        turned_down_n1 = ((kept_n < ahead_n) & (rest_nv.sum(1) > 0))[:, None]
        p_nv = torch.where(turned_down_n1, rest_nv, p_nv)
    return kept_n, inverted(p_nv, last_n).squeeze(1)


def _last_two(each: Running) -> tuple[int, int]:
    """The tokens that stand last; the first one twice, where there is one."""
    tail = (*each.request.prompt[-2:], *each.tokens[-2:])
    return tail[max(len(tail) - 2, 0)], tail[-1]


def _more(written: tuple[Tensor, Tensor] | None, token_n: Tensor) -> tuple[Tensor, Tensor] | None:
    """The counts with one more token in each row."""
    if written is None:
        return None
    seen, own = (counts.scatter_add(1, token_n[:, None], counts.new_ones(len(token_n), 1)) for counts in written)
    return seen, own


def _looked(request: Request, logits_v: Tensor, token: int) -> Likeliest | None:
    if request.likeliest is None:
        return None
    log_prob_v = logits_v.log_softmax(-1)
    value_k, index_k = log_prob_v.topk(min(request.likeliest, len(log_prob_v)))
    return Likeliest(float(log_prob_v[token]), tuple(zip(index_k.tolist(), value_k.tolist())))
