"""A decoder's weights laid out once for the processor's matrix products, instead of in every product: on a CPU half
precision then takes 0.6 of the time (`python -m benchmarks.generate`). Norms and gates are `native` where they can."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.inference.native import LANES, native
from reinforge.models.decoder import Decoder, FeedForward, Joined, RMSNorm, activated

# Rows that the layout is made for; others work as well.
HINT = 32


class PackedLinear(nn.Module):
    """A linear layer in the layout of the CPU's own library, for inference alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = pack(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""))


class NativeNorm(nn.Module):
    """An RMS norm in one pass, for inference alone."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        # In a tuple, so that it is no module of this one: the original's state is its own.
        self.norm = (norm,)
        self.gain_d = norm.weight.detach().float() + norm.offset

    def forward(self, x_nd: Tensor) -> Tensor:
        # Adapters may widen the stream.
        functions, (norm,) = native(x_nd), self.norm
        if functions is None:
            return cast(Tensor, norm(x_nd))
        return functions.normalise(x_nd, self.gain_d, norm.epsilon)


class NativeFeedForward(FeedForward):
    """A feed-forward whose gate takes one pass, for inference alone."""

    def forward(self, x_nd: Tensor) -> Tensor:
        both_nf = self.gate_up(x_nd)
        functions = native(both_nf)
        if functions is None:
            gate_nf, up_nf = both_nf.chunk(2, -1)
            return cast(Tensor, self.down(activated(gate_nf, self.gelu).mul(up_nf)))
        return cast(Tensor, self.down(functions.gate(both_nf, self.gelu)))


class PackedDecoder(Decoder):
    """A decoder that shares everything with its original but the packed weights, which `refresh` takes anew."""

    packed_head: PackedLinear
    original: tuple[Decoder]

    @classmethod
    def of(cls, model: Decoder) -> PackedDecoder:
        """Made of a decoder whose weights are on a CPU."""
        # Tensors are shared: only modules are copied.
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        made = copy.deepcopy(model, shared)
        made.__class__ = cls
        packed = cast(PackedDecoder, made)
        # In a tuple, so that it is no module of this one.
        packed.original = (model,)
        packed.refresh()
        return packed.eval()

    @torch.no_grad()
    def refresh(self) -> None:
        """Pack the original's weights as they are now."""
        (model,) = self.original
        faster = native(model.embedding.weight) is not None
        for name, module in model.named_modules():
            parent, _, own = name.rpartition(".")
            # Others (adapters, say) do more than multiply.
            if type(module) in (nn.Linear, Joined) and name != "head":
                setattr(self.get_submodule(parent), own, PackedLinear(module.weight, module.bias))
            elif faster and type(module) is RMSNorm and len(module.weight) % LANES == 0:
                setattr(self.get_submodule(parent), own, NativeNorm(module))
            elif faster and type(module) is FeedForward and self.options.hidden_width % LANES == 0:
                self.get_submodule(name).__class__ = NativeFeedForward
        self.packed_head = PackedLinear(model.head_weight, None)

    def logits(self, hidden_nd: Tensor) -> Tensor:
        """As the original's."""
        return cast(Tensor, self.packed_head(hidden_nd)).float()


def pack(weight: Tensor) -> Tensor:
    """Weights (out, in) in another layout; only `PackedLinear` reads it."""
    with torch.inference_mode():
        return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), HINT))


def packable(model: Decoder) -> bool:
    """Whether this processor and these weights have such a layout."""
    weight = model.embedding.weight
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
