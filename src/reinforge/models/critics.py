"""Values of actions beside a policy, several computed together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.native_tape import EPSILON, Linear, NativeCritics, Standing, conditions, native
from reinforge.models.perception import Perception
from reinforge.models.tape import TRACEABLE, Tape, Tapes, slope

Pull = Callable[[Tensor], None]
Climb = Callable[[Tensor], Tensor]
# What numbers of rows are rounded up to.
_ROWS = 32


class _Traced(Protocol):
    """Critics for n rows, without recording."""

    @property
    def uses(self) -> int:
        """How often they were asked."""

    def stands(self) -> bool:
        """Whether the weights are where they were."""

    def check(self, use: int) -> None:
        """Raise RuntimeError where they were asked again since."""

    def forward(self, features: Tensor, action: Tensor, count: int) -> Tensor:
        """The values (count, n) by the first of them, for features (n, f) and actions (n, size)."""

    def backward(self, gradient: Tensor) -> None:
        """Add to the gradients of weights from that of the values (count, n)."""

    def climb(self, gradient: Tensor, size: int) -> Tensor:
        """The gradient of the actions (n, size) from that of the values (count, n): of each for the rows alone that
        have one."""


class _TorchCritics(Standing):
    """By torch, one after the other: what goes through a critic's layers stays in the cache."""

    def __init__(self, each: Sequence[list[Linear]], parameters: Sequence[Tensor], rows: int, kind: torch.dtype,
                 activation: str, normalised: bool) -> None:  # fmt: skip
        super().__init__(parameters)
        self._each = [_TorchCritic(layers, rows, kind, activation, normalised) for layers in each]

    def forward(self, features: Tensor, action: Tensor, count: int) -> Tensor:
        self.uses += 1
        x = torch.cat([features, action], -1)
        return torch.stack([critic.forward(x) for critic in self._each[:count]])

    def backward(self, gradient: Tensor) -> None:
        for critic, outer in zip(self._each, gradient):
            critic.backward(outer)

    def climb(self, gradient: Tensor, size: int) -> Tensor:
        total = gradient.new_zeros(gradient.shape[1], size)
        for critic, outer in zip(self._each, gradient):
            critic.climb(outer, total)
        return total


class _TorchCritic:
    """A tape of the hidden layers in the precision `kind`, and the last layer in single precision: a column (h,) and a
    number."""

    def __init__(self, layers: list[Linear], rows: int, kind: torch.dtype, activation: str, normalised: bool) -> None:
        self.last = layers.pop()
        # Those that learn may be in half precision, and what follows them in single.
        self.rounded = [(v, v.to(kind)) for layer in layers for v in layer[:2] if v.dtype != kind]
        if self.rounded:
            by_source = {id(source): copy for source, copy in self.rounded}
            layers = [Linear(by_source[id(w)], by_source[id(b)], None, None) for w, b, _, _ in layers]
        self.hidden = Tape(layers, (), rows, activation, last_active=True, normalised=normalised)
        self.activation, self.kind = activation, kind
        self.weights = [layer.weight.t() for layer in layers]
        self.column, self.into = self.last.weight[:, 0], self.last.weight_grad

    def forward(self, x: Tensor) -> Tensor:
        """The values (n,) for x (n, i)."""
        for source, rounded in self.rounded:
            rounded.copy_(source)
        # Number by number: as products with a vector some libraries take several times as long.
        return (self.hidden.forward(x) * self.column.float()).sum(1).add_(self.last.bias.float())

    def backward(self, gradient: Tensor) -> None:
        """Add to the gradients of weights from that of the values (n,)."""
        if self.into is not None:
            self.into[:, 0].add_((self.hidden.inputs[-1] * gradient.unsqueeze(-1)).sum(0))
        if self.last.bias_grad is not None:
            self.last.bias_grad.add_(gradient.sum(0))
        # Of each row one number: no product of matrices.
        self.hidden.backward(gradient.to(self.kind).unsqueeze(-1) * self.column)

    def climb(self, gradient: Tensor, total: Tensor) -> None:
        """Add to `total` (n, size) the gradient of the actions, the last columns of x, from that of the values (n,)."""
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
        self._tapes: Tapes[_Traced] = Tapes()
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
        alone = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if features.device.type == "cpu" and self.activation in TRACEABLE and alone:
            return self._traced(features.shape[0], like).forward(features, action, first or self.count)
        x = torch.cat([features, action], -1)
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
        critics = self._traced(features.shape[0])
        values, use = critics.forward(features, action, self.count), critics.uses

        def pull(gradient: Tensor) -> None:
            critics.check(use)
            critics.backward(gradient)

        return values, pull

    def climb(self, features: Tensor, action: Tensor, first: int | None = None) -> tuple[Tensor, Climb]:
        """`forward`, and what gives the gradient of the actions (rows, size) from that of the values (count, rows): of
        each critic for the rows alone that ask for it; before the next pass of as many rows."""
        critics = self._traced(features.shape[0])
        values, use = critics.forward(features, action, first or self.count), critics.uses

        def pull(gradient: Tensor) -> Tensor:
            critics.check(use)
            return critics.climb(gradient, action.shape[1])

        return values, pull

    def _traced(self, rows: int, like: Critics | None = None) -> _Traced:
        """All of them for so many rows, in the precision of others, where they are `like` them."""
        weights, biases = _all(self.weights), _all(self.biases)
        kind = _all((like or self).weights)[0].dtype

        def made() -> _Traced:
            functions = native(weights, self.activation) if kind == torch.float32 else None
            each = [
                [
                    Linear(w.detach()[index], b.detach()[index, 0], None if w.grad is None else w.grad[index],
                           None if b.grad is None else b.grad[index, 0])
                    for w, b in zip(weights, biases)
                ]
                for index in range(self.count)
            ]  # fmt: skip
            parameters = [*weights, *biases]
            if functions is None:
                return _TorchCritics(each, parameters, rows, kind, self.activation, self.normalised)
            return NativeCritics(functions, each, parameters, rows, self.activation, self.normalised)

        return self._tapes.get((rows, kind, conditions()), made)


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
