"""Layers that compute in 8 bits by grids fixed beforehand, as ONNX's QuantizeLinear and DequantizeLinear do."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reinforge.models.images import Convolution
from reinforge.registry import Options

# The largest of a grid's 256 units.
LAST = 255
# What a bias may come to, in units: as much again is left for the products.
LARGEST = 2.0**30


class Grid(Options):
    """Numbers in 8 bits without a sign: `scale` from one unit to the next, and the unit that is 0."""

    scale: Annotated[float, Field(ge=1e-30, le=1e30)]
    zero: Annotated[int, Field(ge=0, le=LAST)]


class Grids(Options):
    """What a layer's inputs are rounded to, and its outputs; these stay as they are where there is none."""

    input: Grid
    output: Grid | None = None


class StaticLinear(nn.Linear):
    """A linear layer whose inputs are rounded to a grid."""

    grids: Grids

    def forward(self, x: Tensor) -> Tensor:
        return _out(functional.linear(rounded(x, self.grids.input), self.weight, self.bias), self.grids)


class StaticConv2d(nn.Conv2d):
    """A convolution whose inputs and outputs are rounded to grids."""

    grids: Grids

    def forward(self, x: Tensor) -> Tensor:
        return _out(self._conv_forward(rounded(x, self.grids.input), self.weight, self.bias), self.grids)


StaticLayer = StaticLinear | StaticConv2d
STATIC: dict[type[nn.Module], type[StaticLayer]] = {nn.Linear: StaticLinear, nn.Conv2d: StaticConv2d}


def _out(x: Tensor, grids: Grids) -> Tensor:
    return x if grids.output is None else rounded(x, grids.output)


def rounded(x: Tensor, grid: Grid) -> Tensor:
    """What is left of x: to the nearest unit, halves to the even one, and no further than the first and the last
    (QuantizeLinear and DequantizeLinear of ONNX). Gradients pass where nothing is cut off."""
    near = (x.detach() / grid.scale).round().clamp(-grid.zero, LAST - grid.zero) * grid.scale
    if not torch.is_grad_enabled():
        return near
    within = x.clamp(-grid.zero * grid.scale, (LAST - grid.zero) * grid.scale)
    return near + (within - within.detach())


def whole_bias(bias: Tensor, worth: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """A bias in 32 bits, in units of the products of inputs and weights; what these are worth; and what weights are.

    `worth` is that of weights by output. Where they are so small that the bias has too many of their units, theirs are
    larger, and what they lose is less than the bias's last bit.
    """
    worth = torch.maximum(worth, bias.abs() / (grid.scale * LARGEST))
    unit = worth * grid.scale
    return (bias / unit).round().clamp(-LARGEST, LARGEST).to(torch.int32), unit, worth


def fix(layer: nn.Module, grids: Grids) -> None:
    """Make a plain linear layer or convolution one of grids. Raises KeyError for another."""
    layer.__class__ = STATIC[type(layer)]
    cast(StaticLayer, layer).grids = grids


def fold(model: nn.Module) -> None:
    """Put normalisations by the statistics of batches, which no longer change, into the convolutions before them."""
    for module in model.modules():
        if isinstance(module, Convolution) and isinstance(module.norm, nn.BatchNorm2d):
            module.convolution = fuse_conv_bn_eval(module.convolution.eval(), module.norm.eval())
            module.norm = None
