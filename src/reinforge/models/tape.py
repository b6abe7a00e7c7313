"""Layers one after the other with gradients by hand, in buffers that stay.

Networks of policies are so small that on a CPU starting an operation costs more than its arithmetic, recording it for
autograd as much again, and what else one does in Python (transposing, finding a parameter, making room for a result) as
much again. So buffers, and views of weights and of their gradients, are made once for a number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from reinforge.models.native_tape import EPSILON, Linear, Standing

# Activations whose derivative follows from what they gave.
TRACEABLE = ("relu", "tanh")
# Up to so many columns of what goes in, BLAS gets the gradient of the weights several times faster the other way round.
_FEW = 32
_KEPT = 64
_RELU, _TANH = torch.ops.aten.threshold_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
_NORM, _UNNORM = torch.ops.aten.native_layer_norm.out, torch.ops.aten.native_layer_norm_backward.default


class Norm(NamedTuple):
    """Layer normalisation of n rows: what goes in (n, o), each row's mean and inverse deviation (n, 1), and a gain of 1
    and a bias of 0 (o,), with which torch's loop is vectorised and takes half the time."""

    before: Tensor
    mean: Tensor
    inverse: Tensor
    gain: Tensor
    bias: Tensor

    @classmethod
    def like(cls, after: Tensor) -> Norm:
        """Room for what comes out (n, o)."""
        mean, gain = after.new_empty(len(after), 1), after.new_ones(after.shape[1])
        return cls(torch.empty_like(after), mean, torch.empty_like(mean), gain, torch.zeros_like(gain))

    def forward(self, after: Tensor) -> None:
        """From `before` into (n, o)."""
        shape = after.shape[1:]
        _NORM(self.before, shape, self.gain, self.bias, EPSILON, out0=after, out1=self.mean, out2=self.inverse)

    def backward(self, gradient: Tensor, rows: Tensor | None = None) -> Tensor:
        """The gradient of what goes in, from that of what comes out, of all rows or of some."""
        before, mean, inverse = self[:3] if rows is None else (part.index_select(0, rows) for part in self[:3])
        shape, only = gradient.shape[1:], [True, False, False]
        inner: Tensor = _UNNORM(gradient, before, shape, mean, inverse, None, None, only)[0]
        return inner


class _Layer(NamedTuple):
    """A layer, its weight (o, i), its activation; where it is normalised, what is and by what; what comes out of it
    (n, o), for NumPy as well where that takes its tanh; the gradient there; and room for what is added to that of the
    weight (None: it is added at once)."""

    linear: Linear
    back: Tensor
    active: str | None
    norm: Norm | None
    after: Tensor
    array: np.ndarray[Any, np.dtype[Any]] | None
    outer: Tensor
    by_weight: Tensor | None


class Tape(Standing):
    """Layers for n rows: (n, i) of the first to (n, o) of the last, those with an activation normalised before it where
    `normalised`. What it gives holds until it is next used."""

    def __init__(
        self, layers: Sequence[Linear], parameters: Sequence[Tensor], rows: int, activation: str, last_active: bool,
        normalised: bool = False,
    ) -> None:  # fmt: skip
        # Of which weights, biases and gradients are views.
        super().__init__(parameters)
        self._layers = []
        for index, linear in enumerate(layers):
            weight, into = linear.weight, linear.weight_grad
            after = weight.new_empty(rows, weight.shape[1])
            last = index == len(layers) - 1
            active = activation if last_active or not last else None
            # On some processors torch's tanh takes ten times as long.
            numpy = active == "tanh" and after.device.type == "cpu" and after.dtype == torch.float32
            apart = into is not None and weight.shape[0] < _FEW and not into.is_contiguous()
            self._layers.append(
                _Layer(
                    linear, weight.t(), active,
                    norm=Norm.like(after) if normalised and active is not None else None,
                    after=after,
                    array=after.numpy() if numpy else None,
                    outer=after[:0] if last else torch.empty_like(after),
                    by_weight=torch.empty(weight.shape, dtype=weight.dtype) if apart else None,
                )
            )  # fmt: skip
        self.norms = [layer.norm for layer in self._layers]
        self._reversed = list(reversed(list(enumerate(self._layers))))
        self.inputs: list[Tensor] = [layer.after for layer in self._layers]
        """What went into each layer, (n, i); the first is what `forward` was given. Behind them, what came out."""
        self.inputs.insert(0, torch.empty(0))
        self.kind = layers[0].weight.dtype if layers else torch.float32
        self._ones = layers[0].weight.new_ones(rows) if layers else torch.ones(rows)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (n, o) for x (n, i)."""
        self.uses += 1
        self.inputs[0] = x = x.to(self.kind)
        for (weight, bias, _, _), _, active, norm, after, array, _, _ in self._layers:
            product = after if norm is None else norm.before
            # The product alone, then the bias: together they take longer where the product is small.
            torch.mm(x, weight, out=product)
            product.add_(bias)
            if norm is not None:
                norm.forward(after)
            if array is not None:
                np.tanh(array, out=array)
            elif active is not None:
                torch.relu_(after) if active == "relu" else torch.tanh_(after)
            x = after
        return x

    def backward(self, gradient: Tensor, inward: bool = False) -> Tensor | None:
        """Add to the gradients of weights from that of the outputs (n, o), which it may overwrite. The gradient of what
        went in where `inward`."""
        gradient = gradient.to(self.kind)
        for index, (linear, back, active, norm, after, _, _, by_weight) in self._reversed:
            if active is not None:
                slope(gradient, after, active)
            if norm is not None:
                gradient = norm.backward(gradient)
            before = self.inputs[index]
            if (into := linear.weight_grad) is not None:
                if by_weight is None:
                    into.addmm_(before.t(), gradient)
                else:
                    into.add_(torch.mm(before.t(), gradient, out=by_weight))
            if (into := linear.bias_grad) is not None:
                into.addmv_(gradient.t(), self._ones)
            if index:
                gradient = torch.mm(gradient, back, out=self._layers[index - 1].outer)
            elif inward:
                gradient = gradient @ back
        return gradient if inward else None


def slope(gradient: Tensor, after: Tensor, name: str) -> Tensor:
    """The gradient before an activation, from that after it and what it gave: in the place of what it was, which is
    still in the cache."""
    if name == "relu":
        return cast(Tensor, _RELU(gradient, after, 0, grad_input=gradient))
    return cast(Tensor, _TANH(gradient, after, grad_input=gradient))


class Stands(Protocol):
    """What can tell whether what it was made of is where it was."""

    def stands(self) -> bool: ...


T = TypeVar("T", bound=Stands)


class Tapes(Generic[T]):
    """Tapes, or what has some, by number of rows or the like, while they stand. Copies begin empty."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept there; made where nothing is, or it no longer stands."""
        found = self._kept.get(key)
        if found is None or not found.stands():
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            found = self._kept[key] = make()
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Tapes[T]:
        return Tapes()

    def __reduce__(self) -> tuple[type[Tapes[T]], tuple[()]]:
        return Tapes, ()
