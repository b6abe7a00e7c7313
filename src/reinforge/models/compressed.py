"""Networks made smaller after training: weights in 8 bits, linear layers of low rank. Layers keep their places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from reinforge.errors import IntegrityError
from reinforge.models.decoder import Joined
from reinforge.models.static import STATIC, Grids, fix, fold
from reinforge.registry import Options

# Beside a weight in 8 bits: how much each of its rows' units is worth.
SCALE = "/scale"
# Layers that are nothing but a product.
PLAIN = (nn.Linear, Joined)


class Compressed(Options):
    """What was changed in a network: names of weights that are stored in 8 bits, of linear layers that compute in 8
    bits, what layers round their inputs and outputs to, and the rank of linear layers that became two."""

    packed: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
    static: dict[str, Grids] = Field({})
    low_rank: dict[str, PositiveInt] = Field({})


class Int8Linear(nn.Linear):
    """A linear layer whose inputs are rounded to 8 bits too, each row by itself, so that products are of whole numbers.

    A row is worth max |x| / 127 a unit, as in dynamic quantisation; rows never change one another. Training, devices
    other than a CPU and exported graphs take the weights as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32
        if plain or torch.compiler.is_compiling() or not x.numel():
            return functional.linear(x, self.weight, self.bias)
        units, worth = self._units()
        rows = x.reshape(-1, x.shape[-1])
        step = rows.abs().amax(1, keepdim=True).clamp_(min=1e-30) / 127
        found = torch._int_mm((rows / step).round_().to(torch.int8), units).float().mul_(step).mul_(worth)
        if self.bias is not None:
            found += self.bias
        return found.view(*x.shape[:-1], -1)

    def _units(self) -> tuple[Tensor, Tensor]:
        """The weight transposed in 8 bits (inputs, outputs), and what a unit of each output is worth."""
        kept: tuple[int, Tensor, Tensor] | None = self.__dict__.get("_kept")
        version = self.weight._version
        if kept is None or kept[0] != version:
            units, worth = quantised(self.weight.detach())
            kept = self.__dict__["_kept"] = version, units.t(), worth
        return kept[1], kept[2]


class LowRankLinear(nn.Linear):
    """x up^T of x down^T: a linear layer as the product of two, (rank, inputs) and (outputs, rank), and its bias."""

    down: nn.Parameter
    up: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x.to(self.down.dtype), self.down), self.up, self.bias)


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 units of a weight (rows, ...) and what a unit of each row is worth, float32 (rows,): max |w| / 127."""
    flat = weight.float().flatten(1)
    worth = flat.abs().amax(1).clamp(min=1e-30) / 127
    units = (flat / worth[:, None]).round().clamp(-127, 127).to(torch.int8)
    return units.view(weight.shape), worth


def restored(units: Tensor, worth: Tensor) -> Tensor:
    """The weight that `quantised` rounded: float32."""
    return units.float() * worth.view(-1, *(1,) * (units.ndim - 1))


def restructure(model: nn.Module, change: Compressed) -> None:
    """Give a network as it was described the layers that it was changed to; low-rank ones get new weights.

    Raises IntegrityError where it has no such layers.
    """
    for name in change.int8:
        _linear(model, name).__class__ = Int8Linear
    if change.static:
        fold(model)
    for name, grids in change.static.items():
        fix(_layer(model, name, tuple(STATIC)), grids)
    for name, rank in change.low_rank.items():
        layer = _linear(model, name)
        outputs, inputs = layer.weight.shape
        if rank > min(outputs, inputs):
            raise IntegrityError("a rank is larger than its layer", where="model.json")
        factor(layer, layer.weight.new_zeros(rank, inputs), layer.weight.new_zeros(outputs, rank))


def factor(layer: nn.Linear, down: Tensor, up: Tensor) -> None:
    """Make a linear layer the product of two."""
    del layer.weight
    layer.down, layer.up = nn.Parameter(down), nn.Parameter(up)
    layer.weight = cast(Any, _Weight(down.dtype, down.device, (len(up), down.shape[1])))
    layer.__class__ = LowRankLinear


def whole(model: nn.Module, name: str) -> Tensor:
    """A parameter by its name; the weight of a layer that became two is their product."""
    owner, _dot, own = name.rpartition(".")
    layer = model.get_submodule(owner)
    if own == "weight" and isinstance(layer, LowRankLinear):
        return (layer.up @ layer.down).detach()
    return model.get_parameter(name).detach()


class _Weight:
    """What others ask of a weight that is not there: its type, place and shape."""

    def __init__(self, dtype: torch.dtype, device: torch.device, shape: tuple[int, int]) -> None:
        self.dtype, self.device, self.shape = dtype, device, shape


def pack(weights: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights with the named ones in 8 bits, each with what its units are worth beside it."""
    found = dict(weights)
    for name in names:
        found[name], found[f"{name}{SCALE}"] = quantised(weights[name])
    return found


def unpack(weights: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """What `pack` packed. Raises IntegrityError where the parts don't fit each other."""
    found = dict(weights)
    for name in names:
        units, worth = found.get(name), found.pop(f"{name}{SCALE}", None)
        if (
            units is None
            or worth is None
            or units.dtype != torch.int8
            or units.ndim < 2
            or worth.dtype != torch.float32
        ):
            raise IntegrityError(f"{name[:100]!r} is not stored in 8 bits", where="weights.safetensors")
        if worth.shape != units.shape[:1] or not bool((worth.isfinite() & (worth > 0)).all()):
            raise IntegrityError(f"the worth of a unit of {name[:100]!r} is no number", where="weights.safetensors")
        found[name] = restored(units, worth)
    return found


def _linear(model: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, _layer(model, name, PLAIN))


def _layer(model: nn.Module, name: str, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = model
    if type(layer) not in kinds:
        raise IntegrityError(f"it has no plain layer {name[:100]!r}", where="model.json")
    return layer
