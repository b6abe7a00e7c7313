"""Multi-layer perceptrons of policies, with gradients by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.models.activations import ACTIVATIONS
from reinforge.models.native_tape import Functions, Linear, NativeTape, conditions, native
from reinforge.models.tape import TRACEABLE, Tape, Tapes

Pull = Callable[[Tensor], Tensor | None]


class Network(nn.Module):
    """A multi-layer perceptron with orthogonal weights and zero biases: (..., sizes[0]) to (..., sizes[-1])."""

    def __init__(self, sizes: tuple[int, ...], activation: str, gain: float, last_active: bool = False) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        layers = [nn.Linear(i, o) for i, o in pairs]
        self.layers = nn.ModuleList(layers)
        self._tapes: Tapes[Tape | NativeTape] = Tapes()
        self.activation, self.last_active = activation, last_active
        for index, layer in enumerate(layers):
            hidden = last_active or index < len(pairs) - 1
            nn.init.orthogonal_(layer.weight, math.sqrt(2) if hidden else gain)
            nn.init.zeros_(layer.bias)

    @property
    def traceable(self) -> bool:
        """Whether `trace` knows its derivative: no layer has an adapter."""
        return self.activation in TRACEABLE and all(type(layer) is nn.Linear for layer in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for index, layer in enumerate(cast("Iterable[nn.Linear]", self.layers)):
            x = x.to(layer.weight.dtype)
            # Calling a plain layer costs as much as its arithmetic.
            x = functional.linear(x, layer.weight, layer.bias) if type(layer) is nn.Linear else layer(x)
            if index < last or self.last_active:
                x = ACTIVATIONS[self.activation](x)
        return x if self.last_active else x.float()

    def trace(self, x: Tensor, *, inward: bool = False, then: Network | None = None) -> tuple[Tensor, Pull]:
        """`forward` for x (rows, sizes[0]), and what adds to the .grad of its weights from the output's gradient, which
        it may overwrite: before the next trace of as many rows.

        That returns the gradient of x where `inward`, otherwise None. Weights without .grad are left out. With
        `last_active` the output too holds until the next trace. `then`: a head, of one layer, that goes on from there.
        """
        key = (x.shape[0], then is None, conditions())
        tape = self._tapes.get(key, lambda: self._tape(x.shape[0], then))
        outputs, use = tape.forward(x), tape.uses

        def pull(gradient: Tensor) -> Tensor | None:
            tape.check(use)
            return tape.backward(gradient, inward)

        held = self.last_active and then is None
        return outputs if held else outputs.to(torch.float32, copy=True), pull

    def native(self, then: Network | None = None) -> Functions | None:
        """The functions in C that `trace` takes, where there are any."""
        weights = [cast(nn.Linear, layer).weight for network in (self, then) if network for layer in network.layers]
        return native(weights, self.activation)

    def _tape(self, rows: int, then: Network | None) -> Tape | NativeTape:
        functions = self.native(then)
        networks = [self] if then is None else [self, then]
        layers = [
            Linear(
                layer.weight.detach().t(), layer.bias.detach(),
                None if layer.weight.grad is None else layer.weight.grad.t(), layer.bias.grad,
            )
            for network in networks
            for layer in cast("Iterable[nn.Linear]", network.layers)
        ]  # fmt: skip
        parameters = [parameter for network in networks for parameter in network.parameters()]
        last_active = networks[-1].last_active
        if functions is not None:
            return NativeTape(functions, layers, parameters, rows, self.activation, last_active)
        return Tape(layers, parameters, rows, self.activation, last_active)


def traceable(networks: Sequence[Network | None]) -> bool:
    """Whether all that are there can be traced."""
    return all(network.traceable for network in networks if network is not None)
