"""Learning with the rounding in sight: weights, and inputs of layers that compute in 8 bits, are rounded as they will
be, and gradients pass as though they were not (Jacob et al., arXiv:1712.05877)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reinforge.models.compressed import Compressed, Int8Linear, quantised, restored


class _Rounded(nn.Module):
    """A weight as 8 bits give it back."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            error = restored(*quantised(weight)).to(weight.dtype) - weight
        return weight + error


def _rounded_rows(_layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    """What a layer that computes in 8 bits makes of its inputs."""
    (x,) = given
    with torch.no_grad():
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        error = (x / step).round() * step - x
    return (x + error,)


@contextmanager
def rounding(model: nn.Module, change: Compressed) -> Iterator[None]:
    """Within it the network computes as though it were in 8 bits, gradients too; after it its weights are rounded.

    Recurrent layers read their weights in a way of their own: theirs are rounded by whoever stores them.
    """
    weights = dict(model.named_parameters())
    rounded = {id(weights[name]) for name in change.packed if name in weights}
    # Wherever they stand: one may serve several layers.
    places = [
        (owner, own) for owner in model.modules() for own, weight in owner._parameters.items()
        if id(weight) in rounded and not isinstance(owner, nn.RNNBase)
    ]  # fmt: skip
    eight = [model.get_submodule(name) for name in change.int8]
    hooks = [layer.register_forward_pre_hook(_rounded_rows) for layer in eight]
    for layer in eight:
        # Both are rounded before they meet: the product is a plain one.
        layer.__class__ = nn.Linear
    for owner, own in places:
        parametrize.register_parametrization(owner, own, _Rounded())
    try:
        yield
    finally:
        for owner, own in places:
            parametrize.remove_parametrizations(owner, own)
        for layer in eight:
            layer.__class__ = Int8Linear
        for hook in hooks:
            hook.remove()
