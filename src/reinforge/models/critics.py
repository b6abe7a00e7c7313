"""Values of actions beside a policy, several computed together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.native_tape import EPSILON, Linear, NativeTape, native
from reinforge.models.perception import Perception
from reinforge.models.tape import TRACEABLE, Tape, Tapes, slope

Pull = Callable[[Tensor], None]
Climb = Callable[[Tensor], Tensor]
# What numbers of rows are rounded up to.
_ROWS = 32


class _Critic(Protocol):
    """One of several for n rows, without recording."""

    def stands(self) -> bool:
        """Whether the weights are where they were."""

    @property
    def uses(self) -> int:
        """How often it was asked."""

    def check(self, use: int) -> None:
        """Raise RuntimeError where it was asked again since."""

    def forward(self, x: Tensor) -> Tensor:
        """The values (n,) for x (n, i)."""

    def backward(self, gradient: Tensor) -> None:
        """Add to the gradients of weights from that of the values (n,)."""

    def climb(self, gradient: Tensor, total: Tensor) -> None:
        """Add to `total` (n, size) the gradient of the actions, the last columns of x, from that of the values (n,)."""


class _NativeCritic:
    """In C."""

    def __init__(self, tape: NativeTape) -> None:
        self.tape, self.stands, self.check = tape, tape.stands, tape.check

    @property
    def uses(self) -> int:
        return self.tape.uses

    def forward(self, x: Tensor) -> Tensor:
        return self.tape.forward(x)[:, 0]

    def backward(self, gradient: Tensor) -> None:
        self.tape.backward(gradient.unsqueeze(-1))

    def climb(self, gradient: Tensor, total: Tensor) -> None:
        self.tape.climb(gradient, total)


class _TorchCritic:
    """By torch: a tape of the hidden layers in the precision `kind`, and the last layer in single precision: a column
    (h,) and a number."""

    def __init__(self, layers: list[Linear], parameters: Sequence[Tensor], rows: int, kind: torch.dtype,
                 activation: str, normalised: bool) -> None:  # fmt: skip
        self.last = layers.pop()
        # Those that learn may be in half precision, and what follows them in single.
        self.rounded = [(v, v.to(kind)) for layer in layers for v in layer[:2] if v.dtype != kind]
        if self.rounded:
            by_source = {id(source): copy for source, copy in self.rounded}
            layers = [Linear(by_source[id(w)], by_source[id(b)], None, None) for w, b, _, _ in layers]
        self.hidden = Tape(layers, parameters, rows, activation, last_active=True, normalised=normalised)
        self.activation, self.kind = activation, kind
        self.weights = [layer.weight.t() for layer in layers]
        self.column, self.into = self.last.weight[:, 0], self.last.weight_grad

    def stands(self) -> bool:
        return self.hidden.stands()

    @property
    def uses(self) -> int:
        return self.hidden.uses

    def check(self, use: int) -> None:
        self.hidden.check(use)

    def forward(self, x: Tensor) -> Tensor:
        for source, rounded in self.rounded:
            rounded.copy_(source)
        # Number by number: as products with a vector some libraries take several times as long.
        return (self.hidden.forward(x) * self.column.float()).sum(1).add_(self.last.bias.float())

    def backward(self, gradient: Tensor) -> None:
        if self.into is not None:
            self.into[:, 0].add_((self.hidden.inputs[-1] * gradient.unsqueeze(-1)).sum(0))
        if self.last.bias_grad is not None:
            self.last.bias_grad.add_(gradient.sum(0))
        # Of each row one number: no product of matrices.
        self.hidden.backward(gradient.to(self.kind).unsqueeze(-1) * self.column)

    def climb(self, gradient: Tensor, total: Tensor) -> None:
        rows = _asked(gradient)
        asked = gradient if rows is None else gradient[rows]
        outer = asked.to(self.kind).unsqueeze(-1) * self.column
        for index in range(len(self.weights) - 1, -1, -1):
            after = self.hidden.inputs[index + 1]
            slope(outer, after if rows is None else after.index_select(0, rows), self.activation)
            if (norm := self.hidden.norms[index]) is not None:
                outer = norm.backward(outer, rows)
            # Into the first layer, the actions' columns alone.
            outer = outer @ (self.weights[index] if index else self.weights[0][:, -total.shape[1] :])
        if rows is None:
            total.add_(outer)
        else:
            total.index_add_(0, rows, outer.to(total.dtype))


class Critics(nn.Module):
    """`count` action values computed together: features (rows, f) and actions (rows, size) to (count, rows).

    They look through the policy's own perception where nothing in it learns. Where something does (images), they have
    encoders of their own, which learn from values, and share its running statistics alone.
    """

    def __init__(
        self, perception: Perception, actions: int, sizes: Sequence[int], activation: str, norm: str | None = None,
        count: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.perception: Perception | None = None
        if perception.learns:
            self.perception = copy.deepcopy(perception)
            self.share(perception)
        widths = [perception.features + actions, *sizes, 1]
        self.weights = nn.ParameterList(torch.empty(count, i, o) for i, o in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(count, 1, o) for o in widths[1:])
        self.activation, self.normalised, self.count = activation, norm == "layer", count
        self._tapes: Tapes[_Critic] = Tapes()
        for index, weight in enumerate(self.weights):
            for critic in weight:
                nn.init.orthogonal_(critic, math.sqrt(2) if index < len(widths) - 2 else 1.0)

    def share(self, perception: Perception) -> None:
        """Take the policy's running statistics for our own: they change there alone."""
        if self.perception is not None:
            self.perception.normalisers = perception.normalisers

    def target(self, perception: Perception) -> Critics:
        """A copy that does not learn, to follow behind."""
        target = copy.deepcopy(self).requires_grad_(False)
        target.share(perception)
        return target

    def see(self, perception: Perception, observation: Batch) -> Tensor:
        """Features (rows, f) of an observation: by our own encoders, or by the policy's perception."""
        features: Tensor = (self.perception or perception)(observation)
        return features

    def forward(
        self, features: Tensor, action: Tensor, first: int | None = None, like: Critics | None = None
    ) -> Tensor:
        """The values (count, rows), or of the `first` of them alone; in the precision of others, where they are `like`
        them. The last layer is always in single precision: half of it would round values, and their errors far more.
        """
        x = torch.cat([features, action], -1)
        if x.device.type == "cpu" and self.activation in TRACEABLE and not torch.is_grad_enabled():
            # One after the other: what goes through a critic's layers stays in the cache.
            return torch.stack([critic.forward(x) for critic in self._critics(x.shape[0], first or self.count, like)])
        kind, last = (like or self).weights[0].dtype, len(self.weights) - 1
        x = x.expand(first or self.count, -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            layer = torch.float32 if index == last else kind
            if first:
                weight, bias = weight[:first], bias[:first]
            x = torch.baddbmm(bias.to(layer), x.to(layer), weight.to(layer))
            if index < last:
                x = functional.layer_norm(x, x.shape[-1:], eps=EPSILON) if self.normalised else x
                x = ACTIVATIONS[self.activation](x)
        return x.squeeze(-1)

    @property
    def traceable(self) -> bool:
        """Whether `trace` and `climb` can be used: known activations, and nothing that learns before the layers."""
        return self.activation in TRACEABLE and self.perception is None

    def trace(self, features: Tensor, action: Tensor) -> tuple[Tensor, Pull]:
        """`forward`, and what adds to the .grad of the weights from the values' gradient (count, rows), before the next
        pass of as many rows."""
        x = torch.cat([features, action], -1)
        critics = self._critics(x.shape[0], self.count)
        values = torch.stack([critic.forward(x) for critic in critics])
        uses = [critic.uses for critic in critics]

        def pull(gradient: Tensor) -> None:
            for critic, use, outer in zip(critics, uses, gradient):
                critic.check(use)
                critic.backward(outer)

        return values, pull

    def climb(self, features: Tensor, action: Tensor, first: int | None = None) -> tuple[Tensor, Climb]:
        """`forward`, and what gives the gradient of the actions (rows, size) from that of the values (count, rows): of
        each critic for the rows alone that ask for it; before the next pass of as many rows."""
        x = torch.cat([features, action], -1)
        critics = self._critics(x.shape[0], first or self.count)
        values = torch.stack([critic.forward(x) for critic in critics])
        uses = [critic.uses for critic in critics]

        def pull(gradient: Tensor) -> Tensor:
            total = torch.zeros_like(action)
            for critic, use, outer in zip(critics, uses, gradient):
                critic.check(use)
                critic.climb(outer, total)
            return total

        return values, pull

    def _critics(self, rows: int, count: int, like: Critics | None = None) -> list[_Critic]:
        """The first of them for so many rows, in the precision of others, where they are `like` them."""
        weights, biases = _all(self.weights), _all(self.biases)
        kind = _all((like or self).weights)[0].dtype

        functions = native(weights, self.activation) if kind == torch.float32 else None

        def made(index: int) -> _Critic:
            layers = [
                Linear(w.detach()[index], b.detach()[index, 0], None if w.grad is None else w.grad[index],
                       None if b.grad is None else b.grad[index, 0])
                for w, b in zip(weights, biases)
            ]  # fmt: skip
            parameters = [*weights, *biases]
            if functions is None:
                return _TorchCritic(layers, parameters, rows, kind, self.activation, self.normalised)
            tape = NativeTape(functions, layers, parameters, rows, self.activation, False, self.normalised)
            return _NativeCritic(tape)

        key = (rows, kind, functions)
        return [self._tapes.get((index, *key), partial(made, index)) for index in range(count)]


def _asked(gradient: Tensor) -> Tensor | None:
    """Rows with a gradient, and enough without for a round number of them: for each new number oneDNN compiles its
    products. None where that is all."""
    array = gradient.numpy()
    rows, others = np.flatnonzero(array), np.flatnonzero(array == 0)
    spare = -len(rows) % _ROWS
    return torch.from_numpy(np.concatenate([rows, others[:spare]])) if spare < len(others) else None


def _all(parameters: nn.ParameterList) -> list[nn.Parameter]:
    # What a ParameterList looks up one by one costs as much as a layer of a small network.
    return list(parameters._parameters.values())  # type: ignore[arg-type]
