"""Decoders of fewer heads and narrower feed-forwards. The stream between layers keeps its width: what is read from it
and written to it stays where it is."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from reinforge.core.seeds import undisturbed
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.models.decoder import Attention, Block, Decoder, FeedForward
from reinforge.models.decoder_options import DecoderOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Signature

# Units of a feed-forward come in so many.
STEP = 8


def pruned_decoder(
    model: Decoder, options: DecoderOptions, keep: float, signature: Signature
) -> tuple[Decoder, DecoderOptions]:
    """The decoder with `keep` of its numbers, and its options: each layer keeps the key-value heads, with the query
    heads that share them, and the units of its feed-forward whose weights have the largest squares (as LLM-Pruner's
    groups, arXiv:2305.11627, by size alone). Raises RecipeError where what is left would have no head or unit."""
    less = fewer(model, options, keep)
    with undisturbed():
        small: Decoder = REGISTRY.build("model", less, signature)
    given, kept = model.state_dict(), set(small.state_dict())
    found = {name: value for name, value in given.items() if name in kept}
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        rows, columns = _heads(block.attention, less)
        units = _units(block.feed_forward, less.hidden_width)
        both = torch.cat([units, units + options.hidden_width])
        for part, places in (("attention.qkv", rows), ("feed_forward.gate_up", both)):
            for name in (f"blocks.{number}.{part}.weight", f"blocks.{number}.{part}.bias"):
                if name in given:
                    found[name] = given[name][places]
        for part, places in (("attention.out", columns), ("feed_forward.down", units)):
            name = f"blocks.{number}.{part}.weight"
            found[name] = given[name][:, places]
    small.load_state_dict(found)
    return small.to(next(model.parameters()).dtype).eval(), less


def fewer(model: Decoder, options: DecoderOptions, keep: float) -> DecoderOptions:
    """Options of a decoder with `keep` of the numbers: heads and units go in equal parts, as far as heads can be
    divided. Raises RecipeError."""
    total = sum(parameter.numel() for parameter in model.parameters())
    blocks = [cast(Block, block) for block in model.blocks]
    groups = options.kv_heads or options.heads
    head = sum(_size(block.attention) for block in blocks) // groups
    unit = sum(_size(block.feed_forward) for block in blocks) // options.hidden_width
    there = head * groups + unit * options.hidden_width
    part = (keep * total - (total - there)) / there
    heads = min(groups, max(1, round(groups * part)))
    hidden = int((keep * total - (total - there) - heads * head) / unit) // STEP * STEP
    if hidden < STEP or hidden >= options.hidden_width:
        raise RecipeError(
            _("{part:.0%} of its numbers are outside of heads and feed-forwards, and stay").format(
                part=1 - there / total
            ),
            where="--method prune", remedy=_("Take another method, or a larger --keep."),
        )  # fmt: skip
    told = {
        "depth": None, "heads": heads * (options.heads // groups), "kv_heads": options.kv_heads and heads,
        "head_width": options.each_head, "hidden": hidden,
    }  # fmt: skip
    return type(options).model_validate({**options.model_dump(mode="json"), **told})


def _size(part: Attention | FeedForward) -> int:
    """Numbers of what becomes narrower: biases that stay count for little."""
    linears = (part.qkv, part.out) if isinstance(part, Attention) else (part.gate_up, part.down)
    return sum(linear.weight.numel() for linear in linears)


def _heads(attention: Attention, less: DecoderOptions) -> tuple[Tensor, Tensor]:
    """Rows of queries, keys and values, and columns of what goes out, of the key-value heads that stay."""
    width, groups = attention.head_width, attention.kv_heads
    shared = attention.heads // groups
    query = torch.arange(attention.heads * width).view(groups, shared * width)
    key = attention.heads * width + torch.arange(groups * width).view(groups, width)
    value = key + groups * width
    weight, out = attention.qkv.weight.detach().double().square(), attention.out.weight.detach().double().square()
    parts = (weight.sum(1)[query], weight.sum(1)[key], weight.sum(1)[value], out.sum(0)[query])
    chosen = _largest(parts, less.kv_heads or less.heads)
    return torch.cat([query[chosen].flatten(), key[chosen].flatten(), value[chosen].flatten()]), query[chosen].flatten()


def _units(feed_forward: FeedForward, count: int) -> Tensor:
    """Units that stay, by gate, what is gated, and what goes out."""
    both = feed_forward.gate_up.weight.detach().double().square().sum(1).view(2, -1)
    out = feed_forward.down.weight.detach().double().square().sum(0)
    return _largest((both[0, :, None], both[1, :, None], out[:, None]), count)


def _largest(parts: tuple[Tensor, ...], count: int) -> Tensor:
    """The rows with the most of all parts' squares, in their order; each part counts as much as any other."""
    size = torch.stack([part.sum(1) / part.sum().clamp(min=1e-30) for part in parts]).sum(0)
    return size.topk(count).indices.sort().values
