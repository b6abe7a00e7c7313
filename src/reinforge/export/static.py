"""Layers of fixed grids as ONNX says them, so that its runtimes put kernels of whole numbers in their place."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.models.compressed import quantised
from reinforge.models.static import Grid, StaticConv2d, StaticLayer, StaticLinear, whole_bias


class _WrittenLinear(StaticLinear):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _parts(self)
        return _out(functional.linear(_rounded(x, self.grids.input), weight, bias), self.grids.output)


class _WrittenConv2d(StaticConv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _parts(self)
        return _out(self._conv_forward(_rounded(x, self.grids.input), weight, bias), self.grids.output)


WRITTEN: dict[type[nn.Module], type[StaticLayer]] = {StaticLinear: _WrittenLinear, StaticConv2d: _WrittenConv2d}


def write_static(model: nn.Module) -> None:
    """Have layers of fixed grids written with QuantizeLinear and DequantizeLinear: weights in units by output, biases
    in 32 bits, worth what a unit of the products is."""
    for layer in model.modules():
        if type(layer) in WRITTEN:
            grids, bias = cast(StaticLayer, layer).grids, cast("Tensor | None", layer.bias)
            weight = cast(Tensor, layer.weight).detach()
            _units, worth = quantised(weight)
            if bias is not None:
                bias_units, bias_worth, worth = whole_bias(bias.detach(), worth, grids.input)
                layer.register_buffer("bias_units", bias_units)
                layer.register_buffer("bias_worth", bias_worth)
            units = (weight / worth.view(-1, *(1,) * (weight.ndim - 1))).round().to(torch.int8)
            layer.register_buffer("units", units)
            layer.register_buffer("worth", worth)
            # onnxruntime has no kernel of whole numbers for weights whose zero is left out.
            layer.register_buffer("zero", torch.zeros_like(units.flatten(1)[:, 0]))
            layer.__class__ = WRITTEN[type(layer)]


def _parts(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias from their units."""
    held: dict[str, Any] = layer._buffers
    weight = _restored(held["units"], held["worth"], held["zero"])
    return weight, _restored(held["bias_units"], held["bias_worth"]) if "bias_units" in held else None


def _restored(units: Tensor, *by_row: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", (units, *by_row), {"axis": 0}, dtype=torch.float32, shape=units.shape
    )


def _rounded(x: Tensor, grid: Grid) -> Tensor:
    scale, zero = torch.tensor(grid.scale), torch.tensor(grid.zero, dtype=torch.uint8)
    units = torch.onnx.ops.symbolic("QuantizeLinear", (x, scale, zero), dtype=torch.uint8, shape=x.shape)
    return torch.onnx.ops.symbolic("DequantizeLinear", (units, scale, zero), dtype=torch.float32, shape=x.shape)


def _out(x: Tensor, grid: Grid | None) -> Tensor:
    return x if grid is None else _rounded(x, grid)
