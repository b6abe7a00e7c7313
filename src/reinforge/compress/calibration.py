"""Grids of 8 bits for what goes into a network's layers and comes out of them, found from rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from reinforge.compress.shrinking import in_8_bits
from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.models.compressed import Compressed, quantised
from reinforge.models.decoder import Decoder
from reinforge.models.static import (
    LAST,
    STATIC,
    Grid,
    Grids,
    StaticConv2d,
    StaticLinear,
    fix,
    fold,
    rounded,
    whole_bias,
)

# Rows that are looked at, some at a time, and numbers of a layer that are kept of them.
ROWS, AT_ONCE, NUMBERS = 512, 64, 2**18
# What is beyond it is taken for infinite.
FARTHEST = 1e30
# Ranges that are tried: so many hundredths of the whole. Of the whole itself all pixels may lie between two units.
PARTS = range(110, 19, -1)


@dataclass
class _Seen:
    """What went into a layer and what came out: the least and the largest number, and some of all."""

    low: float = 0.0
    high: float = 0.0
    some: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        flat = x.flatten()
        # An odd step meets every column of a map.
        self.some.append(flat[:: len(flat) * (ROWS // AT_ONCE) // NUMBERS | 1].clone())

    def grid(self) -> Grid:
        return best(torch.cat([*self.some, torch.tensor([self.low, self.high])]))


def best(x: Tensor) -> Grid:
    """The grid with the least squared error, of those for parts of the numbers' range; 0 is on it exactly."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    grids = [grid_of(low * part / 100, high * part / 100) for part in PARTS]
    return min(grids, key=lambda grid: float((rounded(x, grid) - x).square().mean()))


def grid_of(low: float, high: float) -> Grid:
    """The grid from `low`, at most 0, to `high`, at least 0."""
    scale = float(torch.tensor(max((high - low) / LAST, 1e-30)))
    return Grid(scale=scale, zero=max(0, min(LAST, round(-low / scale))))


def static(model: nn.Module, inputs: Callable[[], Batch]) -> tuple[nn.Module, Compressed]:
    """A copy whose matrices are rounded to 8 bits, and whose linear layers and convolutions round what goes into them,
    convolutions what comes out of them too, to grids that fit what they meet in the rows. Raises RecipeError for a
    network that has no such layers."""
    if any(isinstance(module, Decoder) for module in model.modules()):
        raise RecipeError(
            _("language models have no fixed grids"), where="--method int8-static",
            remedy=_("Take int8 or int8-weight."),
        )  # fmt: skip
    plain = copy.deepcopy(model)
    fold(plain)
    changed, change = in_8_bits(plain, computing=False)
    layers = {
        name: layer for name, layer in plain.named_modules()
        if type(layer) in STATIC and (f"{name}.weight" if name else "weight") in change.packed
        and layer.weight.dtype == torch.float32 and getattr(layer, "padding_mode", "zeros") == "zeros"
    }  # fmt: skip
    seen = _watched(plain, layers, inputs()) if layers else {}
    # Nothing is known of what goes into a layer that met nothing but zeros.
    seen = {name: ends for name, ends in seen.items() if ends[0].low < ends[0].high}
    if not seen:
        raise RecipeError(
            _("it has no linear layer or convolution that could compute in 8 bits"), where="--method int8-static",
            remedy=_("Take another method."),
        )  # fmt: skip
    grids = {
        name: Grids(input=given.grid(), output=gave.grid() if isinstance(layers[name], nn.Conv2d) else None)
        for name, (given, gave) in seen.items()
    }
    for name, found in grids.items():
        fix(changed.get_submodule(name), found)
    return changed, change.model_copy(update={"static": grids})


def _watched(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Batch) -> dict[str, tuple[_Seen, _Seen]]:
    """What went into those of the layers that are called, and what came out, while the network, which is spoilt by it,
    computes some of the rows."""
    seen: dict[str, tuple[_Seen, _Seen]] = {}
    for name, layer in layers.items():
        # Some networks multiply by the weights of what is a plain layer, and call others.
        layer.__class__ = type("Watched", (type(layer),), {})
        layer.register_forward_hook(partial(_note, seen, name))
    total = batches.rows(inputs)
    some = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:ROWS]
    model.eval()
    with torch.no_grad():
        for part in batches.split(batches.select(inputs, some), AT_ONCE):
            model(part)
    return seen


def _note(
    seen: dict[str, tuple[_Seen, _Seen]], name: str, _layer: nn.Module, given: tuple[Tensor, ...], gave: Tensor
) -> None:
    if not gave.numel():
        return
    if not bool((given[0].abs() <= FARTHEST).all() and (gave.abs() <= FARTHEST).all()):
        raise RecipeError(
            _("its layer {name} meets numbers that are not finite").format(name=name), where="--method int8-static",
            remedy=_("Give other rows with --train, or take int8 or int8-weight."),
        )  # fmt: skip
    before, after = seen.setdefault(name, (_Seen(), _Seen()))
    before.add(given[0])
    after.add(gave)


def round_biases(model: nn.Module) -> None:
    """Round the biases of layers of grids as they are where whole numbers are added up."""
    for layer in model.modules():
        if isinstance(layer, StaticLinear | StaticConv2d) and layer.bias is not None:
            with torch.no_grad():
                units, unit, _worth = whole_bias(layer.bias, quantised(layer.weight)[1], layer.grids.input)
                layer.bias.copy_(units * unit)
