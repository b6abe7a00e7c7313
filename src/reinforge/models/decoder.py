"""The decoder language model: RMS norm, rotary positions, grouped-query attention, a gated feed-forward.

The shapes of Llama, Qwen 2 and 3, Gemma 3, Mistral and SmolLM are settings of this one file.

Shape suffixes: b rows, t time (new positions), c cached positions, d width, h query heads, k key-value heads, e head
width, f hidden width, v vocabulary, n any number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.options import DecoderOptions
from reinforge.models.rotary import rotary_tables, rotate
from reinforge.schema.signature import Signature

Cache = tuple[Tensor, Tensor, Tensor]


class Normalise(torch.autograd.Function):
    """x / rms(x) * gain with its closed-form gradient: torch has no fused backward for it on the CPU, and the
    composed one costs twice the time of this."""

    @staticmethod
    def forward(ctx: Any, x_nd: Tensor, gain_d: Tensor, epsilon: float) -> Tensor:
        wide_nd = x_nd.to(torch.promote_types(x_nd.dtype, torch.float32))
        square_n = torch.linalg.vecdot(wide_nd, wide_nd)
        inverse_n1 = torch.rsqrt(square_n.div_(x_nd.shape[-1]).add_(epsilon)).unsqueeze(-1)
        ctx.save_for_backward(x_nd, gain_d, inverse_n1)
        return (wide_nd * inverse_n1).mul_(gain_d).to(x_nd.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_nd, gain_d, inverse_n1 = ctx.saved_tensors
        grad_nd = grad_nd.to(inverse_n1.dtype)
        unit_nd = x_nd * inverse_n1
        through_nd = grad_nd * gain_d
        along_n1 = torch.linalg.vecdot(through_nd, unit_nd).unsqueeze(-1).div_(-x_nd.shape[-1])
        learned = ctx.needs_input_grad[1]
        grad_gain_d = (grad_nd * unit_nd).flatten(0, -2).sum(0).to(gain_d.dtype) if learned else None
        grad_x_nd = torch.addcmul(through_nd, unit_nd, along_n1).mul_(inverse_n1)
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
        self.dropout, self.scale = options.dropout, options.attention_scale
        inner, kv_inner = self.heads * self.head_width, self.kv_heads * self.head_width
        self.qkv = Joined(options.width, {"q": inner, "k": kv_inner, "v": kv_inner}, bias=options.bias != "none")
        self.out = nn.Linear(inner, options.width, bias=options.bias in ("attention", "all"))
        self.q_norm = RMSNorm(self.head_width, options) if options.qk_norm else None
        self.k_norm = RMSNorm(self.head_width, options) if options.qk_norm else None

    def forward(
        self, x_btd: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        rows, time, _ = x_btd.shape
        qkv_bthe = self.qkv(x_btd).view(rows, time, self.heads + 2 * self.kv_heads, self.head_width)
        q_bthe, k_btke, v_btke = qkv_bthe.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_bthe, k_btke = self.q_norm(q_bthe), self.k_norm(k_btke)
        if angles is not None:
            q_bthe, k_btke = rotate(q_bthe, *angles), rotate(k_btke, *angles)
        q_bhte, k_bkce, v_bkce = q_bthe.transpose(1, 2), k_btke.transpose(1, 2), v_btke.transpose(1, 2)
        if cache is not None:
            keys_bkce, values_bkce, slots_bkte = cache
            k_bkce = keys_bkce.scatter_(2, slots_bkte, k_bkce)
            v_bkce = values_bkce.scatter_(2, slots_bkte, v_bkce)
        mixed_bhte = F.scaled_dot_product_attention(
            q_bhte,
            k_bkce,
            v_bkce,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=self.kv_heads != self.heads,
        )
        return cast(Tensor, self.out(mixed_bhte.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU or GeGLU: act(x G) * (x U), then back to the width (arXiv:2002.05202)."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        hidden, bias = options.hidden_width, options.bias == "all"
        self.gate_up = Joined(options.width, {"gate": hidden, "up": hidden}, bias=bias)
        self.down = nn.Linear(hidden, options.width, bias=bias)
        self.gelu = options.activation == "gelu"

    def forward(self, x_btd: Tensor) -> Tensor:
        gate_btf, up_btf = self.gate_up(x_btd).chunk(2, -1)
        gate_btf = F.gelu(gate_btf, approximate="tanh") if self.gelu else F.silu(gate_btf)
        return cast(Tensor, self.down(gate_btf * up_btf))


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

    def forward(
        self, x_btd: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        mixed_btd = self.attention(self.attention_norm(x_btd), angles, mask, cache)
        if self.attention_post_norm is not None:
            mixed_btd = self.attention_post_norm(mixed_btd)
        x_btd = x_btd + self.drop(mixed_btd)
        fed_btd = self.feed_forward(self.feed_forward_norm(x_btd))
        if self.feed_forward_post_norm is not None:
            fed_btd = self.feed_forward_post_norm(fed_btd)
        return x_btd + self.drop(fed_btd)

    def drop(self, x_btd: Tensor) -> Tensor:
        return F.dropout(x_btd, self.dropout, self.training) if self.dropout else x_btd


class Decoder(nn.Module):
    """A causal language model over one input of tokens, with next-token logits under its one output's name.

    Inputs: tokens (rows, time) int64, or Ragged (padded at the end, where causal attention never sees the padding);
    with "documents" (rows, time) int64, positions attend only within the same number. With a state (a key-value cache)
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
        """The normalised stream before the head: (rows, time, width); losses take this, to never hold all logits."""
        given = inputs[self.input]
        tokens_bt = given.pad().long() if isinstance(given, Ragged) else cast(Tensor, given)
        time = tokens_bt.shape[1]
        if time > self.options.context:
            raise ComponentError(
                f"{time} positions do not fit a context of {self.options.context}",
                where="model decoder",
                remedy="Shorten the sequences, or raise model.context.",
            )
        x_btd = self.embedding(tokens_bt)
        if self.options.embedding_scale is not None:
            # Rounded to the stream's type first, as those who trained with it did.
            x_btd = x_btd * torch.tensor(self.options.embedding_scale, dtype=x_btd.dtype)
        if state is None:
            documents_bt = cast(Tensor | None, inputs.get("documents"))
            angles, masks = self.angles(slice(time), 1), self.masks(time, documents_bt)
            for kind, block in zip(self.kinds, self.blocks):
                x_btd = block(x_btd, angles.get(kind), masks.get(kind), None)
            return self.norm(x_btd), None
        keys, values, lengths_b = (cast(Tensor, state[name]) for name in ("keys", "values", "lengths"))
        position_bt = lengths_b[:, None] + torch.arange(time, device=lengths_b.device)
        angles, masks = self.angles(position_bt, 2), self.cached_masks(position_bt, keys.shape[3])
        slots = position_bt[:, None, :, None].expand(-1, keys.shape[2], -1, keys.shape[4])
        for layer, (kind, block) in enumerate(zip(self.kinds, self.blocks)):
            cache = keys[:, layer], values[:, layer], slots
            x_btd = block(x_btd, angles.get(kind), masks.get(kind), cache)
        # A padded row advances by its own length alone: what follows overwrites its padding.
        new_b = given.lengths.to(lengths_b.device) if isinstance(given, Ragged) else time
        return self.norm(x_btd), {"keys": keys, "values": values, "lengths": lengths_b + new_b}

    def angles(self, positions: slice | Tensor, heads_at: int) -> dict[str, tuple[Tensor, Tensor]]:
        """By kind of layer, the rotary tables at these positions, with a dimension for heads; none where unrotated."""
        both = self.cos[positions].unsqueeze(heads_at), self.sin[positions].unsqueeze(heads_at)
        if self.options.local_rotary is None:
            return {"global": both, "local": both}
        local = self.local_cos[positions].unsqueeze(heads_at), self.local_sin[positions].unsqueeze(heads_at)
        return {"global": both, "local": local}

    def masks(self, time: int, documents_bt: Tensor | None) -> dict[str, Tensor]:
        """By kind of layer, what positions see of one another, (rows or 1, 1, time, time) bool; where it is merely
        everything before, there is no mask."""
        found: dict[str, Tensor] = {}
        if documents_bt is not None:
            same_btt = documents_bt[:, :, None] == documents_bt[:, None, :]
            found = dict.fromkeys(("global", "local", "unrotated"), same_btt.tril_()[:, None])
        window = self.options.window
        if window is not None and window < time:
            near_tt = torch.ones(time, time, dtype=torch.bool, device=self.cos.device).tril_().triu_(1 - window)
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
