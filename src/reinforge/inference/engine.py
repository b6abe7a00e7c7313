"""The generation engine: requests wait, take a slot, are read, and are written one token a step until they end.

Continuous batching: a slot that falls free takes the next request while its neighbours go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from reinforge.core.modes import evaluating
from reinforge.data.values import Origin
from reinforge.errors import ComponentError, DataError
from reinforge.inference.cache import KeyValueCache
from reinforge.inference.native import native
from reinforge.inference.packed import PackedDecoder, packable
from reinforge.inference.requests import Completion, Likeliest, Reason, Request, Running, Token
from reinforge.inference.sampling import Sampler
from reinforge.messages import _
from reinforge.models.decoder import Decoder

PROMPTS = Origin(unit="prompt")
# Tokens of prompts that are read at once, at most: what bounds the memory of reading.
PREFILL = 4096


class GenerationEngine:
    """Writes completions with the weights that the model had when the engine was made, or last flushed.

    A request's draws are its seed's alone, and its logits depend on its neighbours only by the order in which a
    processor sums (1e-5 in float32): alone or in any company it says the same, but where two tokens are equally likely
    to within that.

    Weights may change in place whenever nothing is being written; `flush` then takes the new ones and forgets what was
    read with the old. Raises ComponentError for a model that is not causal.
    """

    def __init__(self, model: Decoder, *, slots: int = 32, origin: Origin = PROMPTS) -> None:
        if not model.options.causal:
            raise ComponentError(
                _("the model reads its texts from both sides, and writes none"), where="model.causal",
                remedy=_("Put a head on it: model.encoders.NAME={kind: decoder, source: BUNDLE, pool: mean}."),
            )  # fmt: skip
        self.model, self.slots, self.origin = model, slots, origin
        self.network = PackedDecoder.of(model) if packable(model) else model
        self.cache = KeyValueCache(self.network, slots)
        # Draws are float32, whatever the weights are: what they need is compiled before the first.
        native(model.embedding.weight.new_empty(0, dtype=torch.float32))
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []
        self._next = 0
        self._sampler: Sampler | None = None
        self._positions: list[int] = []
        self._written: tuple[Tensor, Tensor] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being written."""
        return not self.waiting and not self.running

    def add(self, request: Request) -> int:
        """Its number. Raises DataError for an empty prompt, or one that leaves no room in the context."""
        length, context = len(request.prompt), self.model.options.context
        if not 0 < length <= context:
            raise unfit(length, context, self.origin.at(self._next))
        # The last token that fits is drawn, and never fed back.
        limit = min(request.sampling.max_tokens, context - length + 1)
        self.waiting.append(Running(self._next, request, limit))
        self._next += 1
        return self._next - 1

    def cancel(self, number: int) -> None:
        """Let a request go, wherever it is; it gives no more tokens."""
        self.waiting = deque(each for each in self.waiting if each.number != number)
        for slot, each in enumerate(self.running):
            if each.number == number:
                # The last one at work moves into its slot.
                with torch.inference_mode():
                    self._release([slot])
                return

    def flush(self) -> None:
        """Forget everything that was read: the weights are others now. Raises RuntimeError while requests are at
        work, whose beginnings would be those of the old weights."""
        if not self.idle:
            raise RuntimeError("weights changed while completions were being written")
        if isinstance(self.network, PackedDecoder):
            self.network.refresh()
        # The cache stays where it fits: every slot is read anew before it is written, and new memory is dear.
        if self.cache.dtype != self.model.embedding.weight.dtype:
            self.cache = KeyValueCache(self.network, self.slots)
        self._next = 0

    def run(self, requests: Iterable[Request]) -> list[Completion]:
        """All completions, in the order of their requests."""
        numbers = [self.add(request) for request in requests]
        done: dict[int, Completion] = {}
        with self._evaluating():
            while not self.idle:
                for running, reason in self._step():
                    if reason is not None:
                        done[running.number] = running.completion(reason)
        return [done[number] for number in numbers]

    def stream(self, requests: Iterable[Request] = ()) -> Iterator[Token]:
        """Tokens as they are written, of these requests and of all that are added meanwhile, until there are none."""
        for request in requests:
            self.add(request)
        while not self.idle:
            yield from self.step()

    def step(self) -> list[Token]:
        """One token more of each that is at work; those that wait take free slots before it. Requests may be added and
        cancelled between steps."""
        if self.idle:
            return []
        with self._evaluating():
            found = self._step()
        return [
            Token(each.number, each.tokens[-1], each.log_probs[-1], reason, each.likeliest) for each, reason in found
        ]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        # Asked for every token: where nothing trains there is nothing to change.
        with evaluating(self.model) if self.model.training else nullcontext(), torch.inference_mode():
            yield

    def _step(self) -> list[tuple[Running, Reason | None]]:
        """One token more of each that is at work, and why it was the last."""
        self._admit()
        rows, device = len(self.running), self.model.embedding.weight.device
        token_n = torch.tensor([each.tokens[-1] if each.tokens else each.request.prompt[-1] for each in self.running])
        position_n = torch.tensor(self._positions)
        longest = max(self._positions)
        self.cache.reserve(longest + 1)
        hidden_nd = self.cache.step(token_n.to(device), position_n.to(device), longest)
        if self._sampler is None:
            self._sampler = Sampler([each.request.sampling for each in self.running], device)
            self._written = self._counted() if self._sampler.penalises else None
        uniform_n = torch.tensor([each.uniform() for each in self.running], dtype=torch.float64, device=device)
        logits_nv = self.network.logits(hidden_nd)
        likeliest = self._likeliest(logits_nv)
        drawn_n, log_prob_n = self._sampler(logits_nv, uniform_n, self._allowed(logits_nv), self._written)
        if self._written is not None:
            for counts_nv in self._written:
                counts_nv.scatter_add_(1, drawn_n[:, None], counts_nv.new_ones(rows, 1))
        for slot, look in likeliest.items():
            self.running[slot].likeliest = look(int(drawn_n[slot]))
        found = []
        ended = []
        for slot, (running, token, log_prob) in enumerate(zip(self.running, drawn_n.tolist(), log_prob_n.tolist())):
            reason = running.write(token, log_prob)
            self._positions[slot] += 1
            found.append((running, reason))
            if reason is not None:
                ended.append(slot)
        if ended:
            self._release(ended)
        return found

    def _likeliest(self, logits_nv: Tensor) -> dict[int, Callable[[int], Likeliest]]:
        """By slot that wants it, what the model itself expects, of the token that is drawn and of the likeliest."""
        wanted = [(slot, each.request.likeliest) for slot, each in enumerate(self.running)]
        slots = [slot for slot, count in wanted if count is not None]
        if not slots:
            return {}
        log_prob_mv = logits_nv[slots].log_softmax(-1)
        most = max(count or 0 for _slot, count in wanted)
        value_mk, index_mk = log_prob_mv.topk(min(most, logits_nv.shape[1]), -1)

        def look(row: int, count: int) -> Callable[[int], Likeliest]:
            pairs = tuple(zip(index_mk[row, :count].tolist(), value_mk[row, :count].tolist()))
            return lambda token: Likeliest(float(log_prob_mv[row, token]), pairs)

        return {slot: look(row, wanted[slot][1] or 0) for row, slot in enumerate(slots)}

    def _admit(self) -> None:
        """Fill free slots, several at a time where some are at work: reading one prompt costs nearly a step."""
        free = min(self.slots - len(self.running), len(self.waiting))
        if not free or (self.running and free < min(len(self.waiting), self.slots // 8)):
            return
        first = len(self.running)
        new = [self.waiting.popleft() for _ in range(free)]
        self.running += new
        self._sampler = None
        # A prompt's last token is fed in the first step, with everyone's newest: reading needs no logits.
        self._positions += [len(each.request.prompt) - 1 for each in new]
        self.cache.reserve(max(len(each.request.prompt) for each in new))
        self._read(range(first, len(self.running)))

    def _read(self, slots: Iterable[int]) -> None:
        """Read the prompts in these slots, each different one once, copied to where it is wanted too."""
        # Any slot's beginning is its prompt, however far it is.
        known = {each.request.prompt: slot for slot, each in enumerate(self.running) if slot not in slots}
        wanted: dict[tuple[int, ...], list[int]] = {}
        for slot in slots:
            wanted.setdefault(self.running[slot].request.prompt, []).append(slot)
        fresh = [prompt for prompt in wanted if prompt not in known and len(prompt) > 1]
        device = self.model.embedding.weight.device
        # Of one length side by side, they are read by one call of attention.
        for part in _parts(sorted(fresh, key=len)):
            rows = [torch.tensor(prompt[:-1], device=device) for prompt in part]
            self.cache.prefill(rows, [wanted[prompt][0] for prompt in part])
        for prompt, places in wanted.items():
            self.cache.copy(known.get(prompt, places[0]), places, len(prompt) - 1)

    def _release(self, ended: Sequence[int]) -> None:
        """Take what ended out; the last ones at work move into the slots before them."""
        for slot in reversed(ended):
            last = len(self.running) - 1
            if slot != last:
                self.cache.copy(last, [slot], self._positions[last])
                self.running[slot], self._positions[slot] = self.running[last], self._positions[last]
            self.running.pop()
            self._positions.pop()
        self._sampler = None

    def _allowed(self, logits_nv: Tensor) -> Tensor | None:
        """(n, v) bool: what each may write; None where there is no limit."""
        masks = [_mask(each.request) for each in self.running]
        if all(mask is None for mask in masks):
            return None
        free_v = torch.ones(logits_nv.shape[1], dtype=torch.bool)
        return torch.stack([free_v if mask is None else mask for mask in masks]).to(logits_nv.device)

    def _counted(self) -> tuple[Tensor, Tensor]:
        """(n, v) int32, twice: how often each token stands in prompt and completion, and in the completion."""
        size, device = len(self.model.head_weight), self.model.embedding.weight.device

        def counted(rows: list[Sequence[int]]) -> Tensor:
            return torch.stack([torch.bincount(torch.tensor(row, dtype=torch.int64), minlength=size) for row in rows])

        seen = counted([(*each.request.prompt, *each.tokens) for each in self.running])
        own = counted([each.tokens for each in self.running])
        return seen.to(device, torch.int32), own.to(device, torch.int32)


def unfit(length: int, context: int, where: str | None = None) -> DataError:
    """What to raise for an empty prompt, or one that leaves no room in the context."""
    return DataError(
        _("a prompt of {n} tokens does not fit a context of {context}").format(n=length, context=context),
        where=where,
        remedy=_("A prompt needs a token at least; shorten it, or train with a longer context."),
    )


def _mask(request: Request) -> Tensor | None:
    if request.constraint is None:
        return request.allowed
    mask = request.constraint.allowed()
    return mask if request.allowed is None else mask & request.allowed


def _parts(prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """As many at a time as `PREFILL` tokens hold."""
    part: list[tuple[int, ...]] = []
    for prompt in prompts:
        if part and sum(map(len, part)) + len(prompt) > PREFILL:
            yield part
            part = []
        part.append(prompt)
    if part:
        yield part
