"""The same as `tape.py`, in C: for layers in single precision, on one thread of a CPU with a C compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reinforge.core.compiled import compiled
from reinforge.core.products import rounding

SOURCE = Path(__file__).with_name("tape.c")
# What layer normalisation adds to variances.
EPSILON = 1e-5
# Numbers of bf16 that stand for one of fp32.
ROUNDED, EXACT = 1, 3
# What the library tells of the processor: its units for bf16 multiply tiles (AMX).
_TILES = 2
_ACTIVATIONS = {"relu": 1, "tanh": 2}
# Narrower layers with tanh gain less than compiling takes.
_WIDE = 128
_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


class Linear(NamedTuple):
    """A layer x weight + bias: weight (i, o) and bias (o,), any views, and their gradients (None: not asked for)."""

    weight: Tensor
    bias: Tensor
    weight_grad: Tensor | None
    bias_grad: Tensor | None


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _long) for name in ("width_in", "width_out")),
        ("weight", _pointer), ("weight_in", _long), ("weight_out", _long), ("bias", _pointer),
        ("weight_grad", _pointer), ("grad_in", _long), ("grad_out", _long), ("bias_grad", _pointer),
        *((name, _pointer) for name in ("before", "mean", "inverse", "after", "outer")),
        ("active", _long), ("parts", _long),
    )  # fmt: skip


class Functions:
    """Those of the library; wide products by units for bf16 where there are `parts`: of factors split into so many bf16
    numbers, of which one alone rounds them, and three are as exact as fp32, for numbers between about 1e-31 and 3e38.
    """

    def __init__(self, library: ctypes.CDLL, parts: int = 0) -> None:
        self.parts = parts
        self.forward, self.backward = library.forward, library.backward
        layers: tuple[Any, ...] = (_pointer, _long, _long)
        self.forward.argtypes = [*layers, _pointer, _long, _float]
        self.backward.argtypes = [*layers, _pointer, _long, _pointer, _pointer]
        self.several, self.several_backward = library.several, library.several_backward
        self.several_climb = library.several_climb
        stacks: tuple[Any, ...] = (_pointer, _long, _long, _long)
        self.several.argtypes = [*stacks, *(_pointer, _long) * 2, _float, _pointer, _pointer]
        self.several_backward.argtypes = [*stacks, _pointer, _pointer]
        self.several_climb.argtypes = [*stacks, _pointer, _long, *(_pointer,) * 4]
        self.squash, self.unsquash = library.squash, library.unsquash
        self.squash.argtypes = [_long, _long, _pointer, _pointer, _float, _float, *(_pointer,) * 4]
        self.unsquash.argtypes = [_long, _long, *(_pointer,) * 3, _float, *(_pointer,) * 3]


def native(weights: Iterable[Tensor], activation: str) -> Functions | None:
    """The functions for such layers, at the number of threads that torch has now; None where there are none, or they
    gain less than compiling them takes."""
    weights = list(weights)
    wide = activation == "relu" or max(size for w in weights for size in w.shape) >= _WIDE
    fits = (
        wide
        and activation in _ACTIVATIONS
        and all(w.dtype == torch.float32 and w.is_cpu and w.numel() for w in weights)
    )
    exact, rounded = _built() if fits and torch.get_num_threads() == 1 else (None, None)
    return rounded if rounding() else exact


def conditions() -> Hashable:
    """On what it depends, beside the weights, whether there are any, and which."""
    return torch.get_num_threads(), rounding()


def attempt() -> tuple[object, str]:
    """Those for any layers, looked for anew, and why there are none."""
    return compiled(SOURCE, _both)


def _both(library: ctypes.CDLL) -> tuple[Functions, Functions]:
    """The exact ones, and those that may round: the same where the processor has no units for it. Three products in
    place of one pay by AMX, not by AVX-512."""
    units = library.units()
    exact = Functions(library, EXACT if units == _TILES else 0)
    return exact, Functions(library, ROUNDED) if units else exact


@cache
def _built() -> tuple[Functions | None, Functions | None]:
    return compiled(SOURCE, _both)[0] or (None, None)


class Standing:
    """What is made of parameters and their gradients, and holds for as long as they stay where they are."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters, self._places, self.uses = list(parameters), _places(parameters), 0

    def stands(self) -> bool:
        """Whether parameters and their gradients are where they were."""
        return self._places == _places(self._parameters)

    def check(self, use: int) -> None:
        """Raise RuntimeError where the tape was used again since: its buffers hold other values."""
        if self.uses != use:
            raise RuntimeError("the layers were traced again before their gradients were taken")


class NativeTape(Standing):
    """Layers for n rows: (n, i) of the first to (n, o) of the last, those with an activation normalised before it where
    `normalised`. What it gives holds until it is next used."""

    def __init__(
        self, functions: Functions, layers: Sequence[Linear], parameters: Sequence[Tensor], rows: int,
        activation: str, last_active: bool, normalised: bool = False,
    ) -> None:  # fmt: skip
        self._functions, self._rows = functions, rows
        self._widths = layers[0].weight.shape[0], layers[-1].weight.shape[1]
        # Of which weights, biases and gradients are views.
        super().__init__(parameters)
        # What the library is told of by address must stay.
        self._linears, self._held = list(layers), list[Tensor]()
        self._layers = (_Layer * len(layers))()
        for index, (told, (weight, bias, into, into_bias)) in enumerate(zip(self._layers, layers)):
            (told.width_in, told.width_out), (told.weight_in, told.weight_out) = weight.shape, weight.stride()
            told.weight, told.bias = weight.data_ptr(), bias.data_ptr()
            if into is not None:
                assert 1 in into.stride(), "rows or columns of a gradient lie together"
                told.weight_grad, (told.grad_in, told.grad_out) = into.data_ptr(), into.stride()
            told.bias_grad = None if into_bias is None else into_bias.data_ptr()
            told.parts = functions.parts
            told.active = _ACTIVATIONS[activation] if last_active or index < len(layers) - 1 else 0
            wanted = ("after", "outer", *(("before", "mean", "inverse") if normalised and told.active else ()))
            for name in wanted:
                setattr(told, name, self._room(told.width_out if name not in ("mean", "inverse") else 1).data_ptr())
        self._output = self._held[-len(wanted)]
        self._x = self._output
        self.place = ctypes.addressof(self._layers)
        self._told = (self.place, len(layers), rows)

    def _room(self, width: int) -> Tensor:
        self._held.append(_room(self._rows, width))
        return self._held[-1]

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (n, o) for x (n, i)."""
        self.uses += 1
        self._x = x = _fit(x, self._rows, self._widths[0])
        self._functions.forward(*self._told, x.data_ptr(), x.shape[1], EPSILON)
        return self._output

    def backward(self, gradient: Tensor, inward: bool = False) -> Tensor | None:
        """Add to the gradients of weights from that of the outputs (n, o), which it may overwrite. The gradient of what
        went in where `inward`."""
        gradient = _fit(gradient, self._rows, self._widths[1])
        inner = torch.empty_like(self._x) if inward else None
        x, out = self._x, None if inner is None else inner.data_ptr()
        self._functions.backward(*self._told, x.data_ptr(), x.shape[1], gradient.data_ptr(), out)
        return inner


class NativeCritics(Standing):
    """Several tapes of one shape, with one output each, for the same n rows of features and actions, end to end."""

    def __init__(self, functions: Functions, tapes: Sequence[Sequence[Linear]], parameters: Sequence[Tensor], rows: int,
                 activation: str, normalised: bool) -> None:  # fmt: skip
        super().__init__(parameters)
        self._functions, self._rows = functions, rows
        self._tapes = [NativeTape(functions, layers, (), rows, activation, False, normalised) for layers in tapes]
        self._stacks = (_pointer * len(tapes))(*(tape.place for tape in self._tapes))
        self._many, self._depth, self._width = len(tapes), len(tapes[0]), tapes[0][0].weight.shape[0]
        self._x, self._inner = _room(rows, self._width), _room(rows, self._width)
        self._chosen, self._asked = torch.empty(rows, dtype=torch.int64), _room(rows)

    def forward(self, features: Tensor, action: Tensor, count: int) -> Tensor:
        """The values (count, n) by the first of them, for features (n, f) and actions (n, size)."""
        self.uses += 1
        size = self._width - features.shape[1]
        features, action = _fit(features, self._rows, features.shape[1]), _fit(action, self._rows, size)
        values = _room(count, self._rows)
        self._functions.several(
            *self._told(count), features.data_ptr(), features.shape[1], action.data_ptr(), size, EPSILON,
            self._x.data_ptr(), values.data_ptr(),
        )  # fmt: skip
        return values

    def backward(self, gradient: Tensor) -> None:
        """Add to the gradients of weights from that of the values (count, n)."""
        gradient = _fit(gradient, len(gradient), self._rows)
        self._functions.several_backward(*self._told(len(gradient)), self._x.data_ptr(), gradient.data_ptr())

    def climb(self, gradient: Tensor, size: int) -> Tensor:
        """The gradient of the actions (n, size) from that of the values (count, n): of each for the rows alone that
        have one."""
        gradient, total = _fit(gradient, len(gradient), self._rows), torch.zeros(self._rows, size, dtype=torch.float32)
        self._functions.several_climb(
            *self._told(len(gradient)), gradient.data_ptr(), self._width - size, self._chosen.data_ptr(),
            self._asked.data_ptr(), self._inner.data_ptr(), total.data_ptr(),
        )  # fmt: skip
        return total

    def _told(self, count: int) -> tuple[int, int, int, int]:
        if not 0 < count <= self._many:
            raise ValueError(f"{count} of {self._many} critics")
        return ctypes.addressof(self._stacks), count, self._depth, self._rows


def squashed_natively(
    functions: Functions, outputs: Tensor, noise: Tensor, bounds: tuple[float, float]
) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """`distributions.squashed_by_numpy`."""
    (rows, size), (low, high) = noise.shape, bounds
    outputs, noise = _fit(outputs, rows, 2 * size), _fit(noise, rows, size)
    (action, bent, step), log_prob = (_room(rows, size) for _ in range(3)), _room(rows)
    functions.squash(
        rows, size, outputs.data_ptr(), noise.data_ptr(), low, high, action.data_ptr(), log_prob.data_ptr(),
        bent.data_ptr(), step.data_ptr(),
    )  # fmt: skip

    def slopes(moved: Tensor, chosen: Tensor) -> Tensor:
        moved, chosen = _fit(moved, rows, size), _fit(chosen.unsqueeze(-1), rows, 1)
        gradient = _room(rows, 2 * size)
        functions.unsquash(
            rows, size, action.data_ptr(), bent.data_ptr(), step.data_ptr(), 0.5 * (high - low), moved.data_ptr(),
            chosen.data_ptr(), gradient.data_ptr(),
        )  # fmt: skip
        return gradient

    return action, log_prob, slopes


def _fit(x: Tensor, rows: int, width: int) -> Tensor:
    """As the library reads it. Raises ValueError for another shape than (rows, width)."""
    if x.shape != (rows, width):
        raise ValueError(f"{tuple(x.shape)} where ({rows}, {width}) belongs")
    return x.float().contiguous()


def _room(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _places(parameters: Sequence[Tensor]) -> list[tuple[int, int | None]]:
    """Where they and their gradients are."""
    return [(p.data_ptr(), None if p.grad is None else p.grad.data_ptr()) for p in parameters]
