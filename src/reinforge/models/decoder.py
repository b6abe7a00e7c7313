"""The decoder language model: RMS norm, rotary positions, grouped-query attention, a gated feed-forward.

The shapes of Llama, Qwen 2 and 3, Gemma 3, Mistral and SmolLM are settings of this one file.

Shape suffixes: b rows, t time (new positions), c cached positions, d width, h query heads, k key-value heads, e head
width, f hidden width, v vocabulary, n any number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.products import spare_rows
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.attention import Layout, attend, seen_tt
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.rotary import rotary_tables, rotate
from reinforge.schema.signature import Signature

# Queries, keys and values (..., heads, head width), already turned, to what they mix to (..., query heads, head width).
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
Angles = tuple[Tensor, Tensor]


class Normalise(torch.autograd.Function):
    """x / rms(x) * gain with its closed-form gradient: torch has no fused backward for it on the CPU, and the
    composed one costs twice the time of this."""

    # Everything in one type: products of two take several times as long on a CPU.
    @staticmethod
    def forward(ctx: Any, x_nd: Tensor, gain_d: Tensor, epsilon: float) -> Tensor:
        wide_nd = x_nd.to(torch.promote_types(x_nd.dtype, torch.float32))
        square_n = torch.linalg.vector_norm(wide_nd, dim=-1).square_()
        inverse_n1 = torch.rsqrt(square_n.div_(x_nd.shape[-1]).add_(epsilon)).unsqueeze(-1)
        ctx.save_for_backward(x_nd, gain_d, inverse_n1)
        return (wide_nd * inverse_n1).mul_(gain_d.to(wide_nd.dtype)).to(x_nd.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_nd, gain_d, inverse_n1 = ctx.saved_tensors
        kind = inverse_n1.dtype
        grad_nd, wide_d = grad_nd.to(kind), gain_d.to(kind)
        unit_nd = x_nd.to(kind) * inverse_n1
        both_nd = grad_nd * unit_nd
        along_n1 = (both_nd @ wide_d).unsqueeze(-1).div_(-x_nd.shape[-1])
        grad_gain_d = both_nd.flatten(0, -2).sum(0).to(gain_d.dtype) if ctx.needs_input_grad[1] else None
        grad_x_nd = torch.addcmul(torch.mul(grad_nd, wide_d, out=both_nd), unit_nd, along_n1).mul_(inverse_n1)
        return grad_x_nd.to(x_nd.dtype), grad_gain_d, None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) * gain over the last dimension (arXiv:1910.07467); with `offset` the gain is what is
    learned plus 1."""

    def __init__(self, width: int, options: DecoderOptions) -> None:
        super().__init__()
        self.epsilon, self.offset = options.norm_epsilon, options.norm_offset
        self.weight = nn.Parameter(torch.zeros(width) if self.offset else torch.ones(width))

    def forward(self, x_btd: Tensor) -> Tensor:
        # In half precision, 1 + weight would round away what was learned.
        gain_d = (
            self.weight.to(torch.promote_types(self.weight.dtype, torch.float32)) + 1 if self.offset else self.weight
        )
        if torch.is_grad_enabled() and x_btd.device.type == "cpu" and not torch.compiler.is_compiling():
            return cast(Tensor, Normalise.apply(x_btd, gain_d, self.epsilon))  # type: ignore[no-untyped-call]
        return F.rms_norm(x_btd.to(gain_d.dtype), gain_d.shape, gain_d, self.epsilon).to(x_btd.dtype)


class Joined(nn.Linear):
    """Linear layers of the same input as one: `parts` are their names and widths, in order."""

    def __init__(self, width: int, parts: Mapping[str, int], *, bias: bool) -> None:
        super().__init__(width, sum(parts.values()), bias=bias)
        self.parts = dict(parts)


class Attention(nn.Module):
    """Causal self-attention; each group of query heads shares one key-value head (arXiv:2305.13245)."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        self.heads, self.kv_heads = options.heads, options.kv_heads or options.heads
        self.head_width = options.each_head
        inner, kv_inner = self.heads * self.head_width, self.kv_heads * self.head_width
        self.qkv = Joined(options.width, {"q": inner, "k": kv_inner, "v": kv_inner}, bias=options.bias != "none")
        self.out = nn.Linear(inner, options.width, bias=options.bias in ("attention", "all"))
        self.q_norm = RMSNorm(self.head_width, options) if options.qk_norm else None
        self.k_norm = RMSNorm(self.head_width, options) if options.qk_norm else None

    def forward(self, x_nd: Tensor, angles: Angles | None, mix: Mix) -> Tensor:
        heads = self.heads + 2 * self.kv_heads
        qkv_nhe = self.qkv(x_nd).unflatten(-1, (heads, self.head_width))
        if self.q_norm is not None and self.k_norm is not None:
            q_nhe, k_nke, v_nke = qkv_nhe.split((self.heads, self.kv_heads, self.kv_heads), dim=-2)
            q_nhe, k_nke = self.q_norm(q_nhe), self.k_norm(k_nke)
            if angles is not None:
                q_nhe, k_nke = rotate(q_nhe, *angles), rotate(k_nke, *angles)
        else:
            # Turned in one go.
            qk_nhe, v_nke = qkv_nhe.split((self.heads + self.kv_heads, self.kv_heads), dim=-2)
            if angles is not None:
                qk_nhe = rotate(qk_nhe, *angles)
            q_nhe, k_nke = qk_nhe.split((self.heads, self.kv_heads), dim=-2)
        return cast(Tensor, self.out(mix(q_nhe, k_nke, v_nke).flatten(-2)))


class FeedForward(nn.Module):
    """SwiGLU or GeGLU: act(x G) * (x U), then back to the width (arXiv:2002.05202)."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        hidden, bias = options.hidden_width, options.bias == "all"
        self.gate_up = Joined(options.width, {"gate": hidden, "up": hidden}, bias=bias)
        self.down = nn.Linear(hidden, options.width, bias=bias)
        self.gelu = options.activation == "gelu"

    def forward(self, x_btd: Tensor) -> Tensor:
        both_btf = self.gate_up(x_btd)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return cast(Tensor, self.down(Gated.apply(both_btf, self.gelu)))  # type: ignore[no-untyped-call]
        gate_btf, up_btf = both_btf.chunk(2, -1)
        return cast(Tensor, self.down(activated(gate_btf, self.gelu).mul(up_btf)))


def activated(gate_nf: Tensor, gelu: bool) -> Tensor:
    """SiLU, or GELU by its tanh form."""
    return F.gelu(gate_nf, approximate="tanh") if gelu else F.silu(gate_nf)


class Gated(torch.autograd.Function):
    """act(gate) * up of (..., [gate, up]), with its closed-form gradient written where it belongs: it keeps nothing but
    its input, and joins no halves."""

    @staticmethod
    def forward(ctx: Any, both_nf: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(both_nf)
        ctx.gelu = gelu
        gate_nf, up_nf = both_nf.chunk(2, -1)
        return activated(gate_nf, gelu).mul_(up_nf)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_nf: Tensor) -> tuple[Tensor, None]:
        (both_nf,) = ctx.saved_tensors
        grad_both_nf = torch.empty_like(both_nf)
        (gate_nf, up_nf), (grad_gate_nf, grad_up_nf) = both_nf.chunk(2, -1), grad_both_nf.chunk(2, -1)
        act_nf = activated(gate_nf, ctx.gelu)
        torch.mul(grad_nf, act_nf, out=grad_up_nf)
        torch.mul(grad_nf, up_nf, out=act_nf)
        if ctx.gelu:
            torch.ops.aten.gelu_backward.grad_input(act_nf, gate_nf, approximate="tanh", grad_input=grad_gate_nf)
        else:
            torch.ops.aten.silu_backward.grad_input(act_nf, gate_nf, grad_input=grad_gate_nf)
        return grad_both_nf, None


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each on the normalised stream and added to it, normalised again
    where `post_norm` says so."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = RMSNorm(options.width, options), RMSNorm(options.width, options)
        self.attention, self.feed_forward = Attention(options), FeedForward(options)
        self.attention_post_norm = RMSNorm(options.width, options) if options.post_norm else None
        self.feed_forward_post_norm = RMSNorm(options.width, options) if options.post_norm else None
        self.dropout = options.dropout

    def forward(self, x_nd: Tensor, angles: Angles | None, mix: Mix) -> Tensor:
        mixed_nd = self.attention(self.attention_norm(x_nd), angles, mix)
        if self.attention_post_norm is not None:
            mixed_nd = self.attention_post_norm(mixed_nd)
        x_nd = x_nd + self.drop(mixed_nd)
        fed_nd = self.feed_forward(self.feed_forward_norm(x_nd))
        if self.feed_forward_post_norm is not None:
            fed_nd = self.feed_forward_post_norm(fed_nd)
        return x_nd + self.drop(fed_nd)

    def drop(self, x_btd: Tensor) -> Tensor:
        return F.dropout(x_btd, self.dropout, self.training) if self.dropout else x_btd


class Decoder(nn.Module):
    """A causal language model over one input of tokens, with next-token logits under its one output's name.

    Inputs: tokens (rows, time) int64, or Ragged; with "documents" (rows, time) int64, each position's document in its
    row from 1 on, 0 where the row is filled up: documents see nothing of each other, and what is filled up costs
    nothing. With a state (a key-value cache)
    the tokens continue what it holds; the cache is updated in place. Raises ComponentError where the signature is not
    one input and one output of tokens, or the time exceeds the context.
    """

    cos: Tensor
    sin: Tensor
    local_cos: Tensor
    local_sin: Tensor

    def __init__(self, options: DecoderOptions, signature: Signature) -> None:
        super().__init__()
        self.options = options
        self.input, self.output, vocabulary = token_names(signature)
        self.embedding = nn.Embedding(vocabulary, options.width)
        self.kinds = [options.layer_kind(layer) for layer in range(options.layers)]
        self.blocks = nn.ModuleList(Block(options) for _ in self.kinds)
        self.norm = RMSNorm(options.width, options)
        # Tied weights stand once in the state, under the embedding's name.
        self.head = None if options.tied else nn.Linear(options.width, vocabulary, bias=False)
        tables = {"": options.rotary} | ({"local_": options.local_rotary} if options.local_rotary else {})
        for name, rotary in tables.items():
            cos_ce, sin_ce = rotary_tables(options.context, options.each_head, rotary)
            self.register_buffer(f"{name}cos", cos_ce, persistent=False)
            self.register_buffer(f"{name}sin", sin_ce, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Normal weights of deviation 0.02; the layers that write to the stream by 1/sqrt(2 layers) less (GPT-2)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.options.layers) if writes else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs: Batch, state: Batch | None = None) -> tuple[dict[str, Tensor], Batch | None]:
        """Logits (rows, time, vocabulary) in float32 under the output's name, and the advanced state."""
        hidden_btd, state = self.hidden(inputs, state)
        return {self.output: self.logits(hidden_btd)}, state

    def logits(self, hidden_nd: Tensor) -> Tensor:
        """Next-token logits in float32: (..., vocabulary)."""
        return F.linear(hidden_nd, self.head_weight).float()

    @property
    def head_weight(self) -> Tensor:
        """(vocabulary, width): the embedding's own where tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(self, inputs: Batch, state: Batch | None = None) -> tuple[Tensor, Batch | None]:
        """The normalised stream before the head: (rows, time, width); losses take this, to never hold all logits. Where
        a row is filled up, it is 0."""
        given = inputs[self.input]
        if state is not None:
            return self._continued(given, state)
        documents_bt = cast(Tensor | None, inputs.get("documents"))
        if isinstance(given, Ragged):
            values_n, layout = given.values[int(given.offsets[0]) : int(given.offsets[-1])], Layout.of_ragged(given)
            return Ragged(self.hidden_of(values_n, layout), given.offsets - given.offsets[0]).pad(), None
        tokens_bt = cast(Tensor, given)
        if torch.compiler.is_compiling():
            return self._rows(tokens_bt, documents_bt), None
        if documents_bt is None:
            layout = Layout.of_rows(tokens_bt.shape[0], tokens_bt.shape[1], tokens_bt.device)
            return self.hidden_of(tokens_bt.flatten(), layout).view(*tokens_bt.shape, -1), None
        layout = Layout.of_documents(documents_bt)
        flat_n = tokens_bt.flatten()
        hidden_nd = self.hidden_of(flat_n if layout.place is None else flat_n[layout.place], layout)
        if layout.place is not None:
            filled_nd = hidden_nd.new_zeros(len(flat_n), hidden_nd.shape[1])
            hidden_nd = filled_nd.index_copy(0, layout.place, hidden_nd)
        return hidden_nd.view(*tokens_bt.shape, -1), None

    def hidden_of(self, tokens_n: Tensor, layout: Layout) -> Tensor:
        """The same of documents end to end, which see nothing of each other and all begin at the first position:
        (n, width)."""
        self._check_time(max(layout.lengths, default=0))
        options, tokens = self.options, len(tokens_n)
        spare = 0 if layout.even else spare_rows(tokens_n)
        if spare:
            tokens_n, layout = F.pad(tokens_n, (0, spare)), layout.filled_up(spare, options.context)
        dropout = options.dropout if self.training else 0.0
        mixes: dict[str, Mix] = {
            kind: partial(
                attend, layout=layout, window=options.window if kind == "local" else None,
                scale=options.attention_scale, dropout=dropout, causal=options.causal,
            ) for kind in set(self.kinds)
        }  # fmt: skip
        hidden_nd = self.run(tokens_n, layout.positions, [mixes[kind] for kind in self.kinds])
        return hidden_nd[:tokens] if spare else hidden_nd

    def run(self, tokens_n: Tensor, positions_n: Tensor | None, mixes: Sequence[Mix]) -> Tensor:
        """The normalised stream of tokens at these positions, (n, width); what each layer's queries see is the matter
        of its `mixes`, and turning them too where no positions are given."""
        x_nd = self._embedded(tokens_n.long())
        # In the stream's own type: products of two types take three times as long on a CPU.
        angles = {} if positions_n is None else {
            kind: (cos_n1e.to(x_nd.dtype), sin_n1e.to(x_nd.dtype))
            for kind, (cos_n1e, sin_n1e) in self.angles(positions_n, 1).items()
        }  # fmt: skip
        for kind, block, mix in zip(self.kinds, self.blocks, mixes):
            x_nd = block(x_nd, angles.get(kind), mix)
        return cast(Tensor, self.norm(x_nd))

    def _rows(self, tokens_bt: Tensor, documents_bt: Tensor | None) -> Tensor:
        """The same for the compiler, which wants shapes that don't depend on where documents end: (rows, time, width)
        under a mask."""
        time = tokens_bt.shape[1]
        self._check_time(time)
        angles, masks = self.angles(slice(time), 1), self.masks(time, documents_bt)
        x_btd = self._embedded(tokens_bt)
        for kind, block in zip(self.kinds, self.blocks):
            x_btd = block(x_btd, angles.get(kind), partial(self._by_mask, mask=masks.get(kind)))
        return cast(Tensor, self.norm(x_btd))

    def _continued(self, given: object, state: Batch) -> tuple[Tensor, Batch]:
        """What follows the positions that a cache holds. Raises ComponentError where nothing can follow."""
        if not self.options.causal:
            raise ComponentError(
                "it sees its documents from both sides, and can't go on from a cache", where="model decoder",
                remedy="Give it whole documents.",
            )  # fmt: skip
        tokens_bt = given.pad().long() if isinstance(given, Ragged) else cast(Tensor, given)
        time = tokens_bt.shape[1]
        self._check_time(time)
        keys, values, lengths_b = (cast(Tensor, state[name]) for name in ("keys", "values", "lengths"))
        position_bt = lengths_b[:, None] + torch.arange(time, device=lengths_b.device)
        angles, masks = self.angles(position_bt, 2), self.cached_masks(position_bt, keys.shape[3])
        slots = position_bt[:, None, :, None].expand(-1, keys.shape[2], -1, keys.shape[4])
        x_btd = self._embedded(tokens_bt)
        for layer, (kind, block) in enumerate(zip(self.kinds, self.blocks)):
            cache = keys[:, layer], values[:, layer], slots
            x_btd = block(x_btd, angles.get(kind), partial(self._by_mask, mask=masks.get(kind), cache=cache))
        # A padded row advances by its own length alone: what follows overwrites its padding.
        new_b = given.lengths.to(lengths_b.device) if isinstance(given, Ragged) else time
        return self.norm(x_btd), {"keys": keys, "values": values, "lengths": lengths_b + new_b}

    def _by_mask(
        self, q_bthe: Tensor, k_btke: Tensor, v_btke: Tensor, *, mask: Tensor | None,
        cache: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        q_bhte, k_bkce, v_bkce = q_bthe.transpose(1, 2), k_btke.transpose(1, 2), v_btke.transpose(1, 2)
        if cache is not None:
            keys_bkce, values_bkce, slots_bkte = cache
            k_bkce = keys_bkce.scatter_(2, slots_bkte, k_bkce)
            v_bkce = values_bkce.scatter_(2, slots_bkte, v_bkce)
        mixed_bhte = F.scaled_dot_product_attention(
            q_bhte, k_bkce, v_bkce, attn_mask=mask, is_causal=self.options.causal and mask is None,
            dropout_p=self.options.dropout if self.training else 0.0, scale=self.options.attention_scale,
            enable_gqa=q_bhte.shape[1] != k_bkce.shape[1],
        )  # fmt: skip
        return mixed_bhte.transpose(1, 2)

    def _embedded(self, tokens_n: Tensor) -> Tensor:
        x_nd: Tensor = self.embedding(tokens_n)
        if self.options.embedding_scale is None:
            return x_nd
        # Rounded to the stream's type first, as those who trained with it did.
        return x_nd * torch.tensor(self.options.embedding_scale, dtype=x_nd.dtype)

    def _check_time(self, time: int) -> None:
        if time > self.options.context:
            raise ComponentError(
                f"{time} positions do not fit a context of {self.options.context}",
                where="model decoder",
                remedy="Shorten the sequences, or raise model.context.",
            )

    def angles(self, positions: slice | Tensor, heads_at: int) -> dict[str, tuple[Tensor, Tensor]]:
        """By kind of layer, the rotary tables at these positions, with a dimension for heads; none where unrotated."""
        both = self.cos[positions].unsqueeze(heads_at), self.sin[positions].unsqueeze(heads_at)
        if self.options.local_rotary is None:
            return {"global": both, "local": both}
        local = self.local_cos[positions].unsqueeze(heads_at), self.local_sin[positions].unsqueeze(heads_at)
        return {"global": both, "local": local}

    def masks(self, time: int, documents_bt: Tensor | None) -> dict[str, Tensor]:
        """By kind of layer, what positions see of one another, (rows or 1, 1, time, time) bool; where it is merely
        everything before, or everything where not causal, there is no mask."""
        found: dict[str, Tensor] = {}
        if documents_bt is not None:
            same_btt = documents_bt[:, :, None] == documents_bt[:, None, :]
            seen_btt = same_btt.tril_() if self.options.causal else same_btt
            found = dict.fromkeys(("global", "local", "unrotated"), seen_btt[:, None])
        window = self.options.window
        if window is not None and window < time:
            near_tt = seen_tt(time, window, self.cos.device)
            found["local"] = found["local"] & near_tt if found else near_tt[None, None]
        return found

    def cached_masks(self, position_bt: Tensor, capacity: int) -> dict[str, Tensor]:
        """By kind of layer, which cached positions each new one sees: (rows, 1, time, capacity) bool."""
        cached_c = torch.arange(capacity, device=position_bt.device)
        before_btc = cached_c <= position_bt[:, :, None]
        found = dict.fromkeys(("global", "local", "unrotated"), before_btc[:, None])
        window = self.options.window
        if window is not None and window < capacity:
            found["local"] = (before_btc & (cached_c > position_bt[:, :, None] - window))[:, None]
        return found

    def initial_state(self, n: int, capacity: int | None = None) -> dict[str, Tensor]:
        """An empty key-value cache of n rows for `capacity` positions (the context, where None).

        keys and values: (n, layers, key-value heads, capacity, head width); lengths: (n,) int64.
        """
        options, like = self.options, self.embedding.weight
        shape = (n, options.layers, options.kv_heads or options.heads, capacity or options.context)
        keys = like.new_zeros(*shape, options.each_head, requires_grad=False)
        return {
            "keys": keys,
            "values": torch.zeros_like(keys),
            "lengths": torch.zeros(n, dtype=torch.int64, device=like.device),
        }


def token_names(signature: Signature) -> tuple[str, str, int]:
    """The name of the token input, of the token output, and the vocabulary's size."""
    inputs = [(name, block.sizes) for name, block in signature.inputs.items() if block.form == "tokens"]
    outputs = [(name, head.size) for name, head in signature.outputs.items() if head.form == "tokens"]
    if len(inputs) != 1 or len(outputs) != 1 or len(signature.inputs) + len(signature.outputs) != 2:
        raise ComponentError(
            "it needs exactly one input and one output, both of tokens",
            where="model decoder",
            remedy="Use data of kind text, or another model.",
        )
    (input_name, sizes), (output_name, size) = inputs[0], outputs[0]
    if sizes != (size,):
        raise ComponentError(f"input and output have vocabularies of {sizes} and {size}", where="model decoder")
    return input_name, output_name, size
