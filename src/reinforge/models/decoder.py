"""The decoder language model: RMS norm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

Shape suffixes: b rows, t time (new positions), c cached positions, d width, h query heads, k key-value heads, e head
width, f hidden width, v vocabulary, n any number of tokens.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.options import DecoderOptions
from reinforge.schema.signature import Signature

EPSILON = 1e-6


class Normalise(torch.autograd.Function):
    """x / rms(x) * gain with its closed-form gradient: torch has no fused backward for it on the CPU, and the
    composed one costs twice the time of this."""

    @staticmethod
    def forward(ctx: Any, x_nd: Tensor, gain_d: Tensor) -> Tensor:
        wide_nd = x_nd.to(torch.promote_types(x_nd.dtype, torch.float32))
        square_n = torch.linalg.vecdot(wide_nd, wide_nd)
        inverse_n1 = torch.rsqrt(square_n.div_(x_nd.shape[-1]).add_(EPSILON)).unsqueeze(-1)
        ctx.save_for_backward(x_nd, gain_d, inverse_n1)
        return (wide_nd * inverse_n1).mul_(gain_d).to(x_nd.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor, Tensor]:
        x_nd, gain_d, inverse_n1 = ctx.saved_tensors
        grad_nd = grad_nd.to(inverse_n1.dtype)
        unit_nd = x_nd * inverse_n1
        through_nd = grad_nd * gain_d
        along_n1 = torch.linalg.vecdot(through_nd, unit_nd).unsqueeze(-1).div_(-x_nd.shape[-1])
        grad_gain_d = (grad_nd * unit_nd).flatten(0, -2).sum(0).to(gain_d.dtype)
        grad_x_nd = torch.addcmul(through_nd, unit_nd, along_n1).mul_(inverse_n1)
        return grad_x_nd.to(x_nd.dtype), grad_gain_d


class Rotate(torch.autograd.Function):
    """Turn each pair (x[i], x[i + e/2]) by its angle; the gradient turns back (RoFormer, arXiv:2104.09864)."""

    @staticmethod
    def forward(ctx: Any, x_bthe: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
        ctx.save_for_backward(cos_te, sin_te)
        return turn(x_bthe, cos_te, sin_te, 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_bthe: Tensor) -> tuple[Tensor, None, None]:
        cos_te, sin_te = ctx.saved_tensors
        return turn(grad_bthe, cos_te, sin_te, -1.0), None, None


def rotate(x_bthe: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
    """`Rotate`, typed."""
    return cast(Tensor, Rotate.apply(x_bthe, cos_te, sin_te))  # type: ignore[no-untyped-call]


def turn(x_bthe: Tensor, cos_te: Tensor, sin_te: Tensor, sign: float) -> Tensor:
    """Rotate by the tables' angles (sign 1) or back (sign -1). The sine table holds -sin in its first half."""
    turned = torch.addcmul(x_bthe * cos_te, x_bthe.roll(x_bthe.shape[-1] // 2, -1), sin_te, value=sign)
    return turned.to(x_bthe.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + 1e-6) * gain over the last dimension (arXiv:1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_btd: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x_btd.device.type == "cpu" and not torch.compiler.is_compiling():
            return cast(Tensor, Normalise.apply(x_btd, self.weight))  # type: ignore[no-untyped-call]
        return F.rms_norm(x_btd, self.weight.shape, self.weight, EPSILON)


class Attention(nn.Module):
    """Causal self-attention; each group of query heads shares one key-value head (arXiv:2305.13245)."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        self.heads, self.kv_heads = options.heads, options.kv_heads or options.heads
        self.head_width = options.width // options.heads
        self.dropout = options.dropout
        self.qkv = nn.Linear(options.width, (self.heads + 2 * self.kv_heads) * self.head_width, bias=False)
        self.out = nn.Linear(options.width, options.width, bias=False)

    def forward(
        self, x_btd: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: tuple[Tensor, Tensor, Tensor] | None
    ) -> Tensor:
        rows, time, _ = x_btd.shape
        qkv_bthe = self.qkv(x_btd).view(rows, time, self.heads + 2 * self.kv_heads, self.head_width)
        q_bthe, k_btke, v_btke = qkv_bthe.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        q_bthe, k_btke = rotate(q_bthe, cos, sin), rotate(k_btke, cos, sin)
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
            enable_gqa=self.kv_heads != self.heads,
        )
        return cast(Tensor, self.out(mixed_bhte.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU: silu(x G) * (x U), then back to the width (arXiv:2002.05202)."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        hidden = options.hidden_width
        self.gate_up = nn.Linear(options.width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, options.width, bias=False)

    def forward(self, x_btd: Tensor) -> Tensor:
        gate_btf, up_btf = self.gate_up(x_btd).chunk(2, -1)
        return cast(Tensor, self.down(F.silu(gate_btf) * up_btf))


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each on the normalised stream and added to it."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = RMSNorm(options.width), RMSNorm(options.width)
        self.attention, self.feed_forward = Attention(options), FeedForward(options)
        self.dropout = options.dropout

    def forward(
        self, x_btd: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: tuple[Tensor, Tensor, Tensor] | None
    ) -> Tensor:
        x_btd = x_btd + self.drop(self.attention(self.attention_norm(x_btd), cos, sin, mask, cache))
        return x_btd + self.drop(self.feed_forward(self.feed_forward_norm(x_btd)))

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

    def __init__(self, options: DecoderOptions, signature: Signature) -> None:
        super().__init__()
        self.options = options
        self.input, self.output, vocabulary = token_names(signature)
        self.embedding = nn.Embedding(vocabulary, options.width)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.layers))
        self.norm = RMSNorm(options.width)
        # Tied weights stand once in the state, under the embedding's name.
        self.head = None if options.tied else nn.Linear(options.width, vocabulary, bias=False)
        cos_ce, sin_ce = rotary_tables(options.context, options.width // options.heads, options.rotary_base)
        self.register_buffer("cos", cos_ce, persistent=False)
        self.register_buffer("sin", sin_ce, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Normal weights of deviation 0.02; the layers that write to the stream by 1/sqrt(2 layers) less (GPT-2)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.options.layers) if writes else 0.02)

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
        if state is None:
            cos, sin, mask = self.cos[:time, None], self.sin[:time, None], None
            if "documents" in inputs:
                documents_bt = cast(Tensor, inputs["documents"])
                same_btt = documents_bt[:, :, None] == documents_bt[:, None, :]
                mask = same_btt.tril_()[:, None]
            for block in self.blocks:
                x_btd = block(x_btd, cos, sin, mask, None)
            return self.norm(x_btd), None
        keys, values, lengths_b = (cast(Tensor, state[name]) for name in ("keys", "values", "lengths"))
        capacity = keys.shape[3]
        position_bt = lengths_b[:, None] + torch.arange(time, device=lengths_b.device)
        cos, sin = self.cos[position_bt][:, :, None], self.sin[position_bt][:, :, None]
        mask = (torch.arange(capacity, device=lengths_b.device) <= position_bt[:, :, None])[:, None]
        slots = position_bt[:, None, :, None].expand(-1, keys.shape[2], -1, keys.shape[4])
        for layer, block in enumerate(self.blocks):
            x_btd = block(x_btd, cos, sin, mask, (keys[:, layer], values[:, layer], slots))
        # A padded row advances by its own length alone: what follows overwrites its padding.
        new_b = given.lengths.to(lengths_b.device) if isinstance(given, Ragged) else time
        return self.norm(x_btd), {"keys": keys, "values": values, "lengths": lengths_b + new_b}

    def initial_state(self, n: int, capacity: int | None = None) -> dict[str, Tensor]:
        """An empty key-value cache of n rows for `capacity` positions (the context, where None).

        keys and values: (n, layers, key-value heads, capacity, head width); lengths: (n,) int64.
        """
        options, like = self.options, self.embedding.weight
        shape = (n, options.layers, options.kv_heads or options.heads, capacity or options.context)
        keys = like.new_zeros(*shape, options.width // options.heads, requires_grad=False)
        return {
            "keys": keys,
            "values": torch.zeros_like(keys),
            "lengths": torch.zeros(n, dtype=torch.int64, device=like.device),
        }


def rotary_tables(context: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (context, head width), float32, computed in float64: position p, pair i turns by
    p * base^(-2i / head width); the first half of the sines is negated, so that rotating is two multiplications."""
    frequency = base ** -(torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = torch.arange(context, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), 1).float(), torch.cat((-sin, sin), 1).float()


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
