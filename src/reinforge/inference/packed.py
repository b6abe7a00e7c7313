"""A decoder's weights laid out once for the processor's matrix products, instead of in every product: on a CPU half
precision then takes 0.6 of the time (`python -m benchmarks.generate`)."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.models.decoder import Decoder, Joined

# Rows that the layout is made for; others work as well.
HINT = 32


class PackedLinear(nn.Module):
    """A linear layer in the layout of the CPU's own library, for inference alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = pack(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""))


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
        for name, module in model.named_modules():
            # Others (adapters, say) do more than multiply.
            if type(module) in (nn.Linear, Joined) and name != "head":
                parent, _, own = name.rpartition(".")
                setattr(self.get_submodule(parent), own, PackedLinear(module.weight, module.bias))
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
