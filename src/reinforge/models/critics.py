"""Values of actions beside a policy, several computed together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.perception import Perception
from reinforge.models.perceptron import TRACEABLE, active, slope

Pull = Callable[[Tensor], None]
Climb = Callable[[Tensor], Tensor]
Layers = list[tuple[nn.Parameter, nn.Parameter]]


class Critics(nn.Module):
    """`count` action values computed together: features (rows, f) and actions (rows, size) to (count, rows).

    They look through the policy's own perception where nothing in it learns. Where something does (images), they have
    encoders of their own, which learn from values, and share its running statistics alone.
    """

    def __init__(
        self, perception: Perception, actions: int, sizes: Sequence[int], activation: str, count: int = 2
    ) -> None:
        super().__init__()
        self.perception: Perception | None = None
        if perception.learns:
            self.perception = copy.deepcopy(perception)
            self.share(perception)
        widths = [perception.features + actions, *sizes, 1]
        self.weights = nn.ParameterList(torch.empty(count, i, o) for i, o in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(count, 1, o) for o in widths[1:])
        self.activation, self.count = activation, count
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
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            # One after the other: what goes through a critic's layers stays in the cache.
            return torch.stack([self._pass(critic, x, like)[0] for critic in range(first or self.count)])
        kind, last = (like or self).weights[0].dtype, len(self.weights) - 1
        x = x.expand(first or self.count, -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            layer = torch.float32 if index == last else kind
            if first:
                weight, bias = weight[:first], bias[:first]
            x = torch.baddbmm(bias.to(layer), x.to(layer), weight.to(layer))
            if index < last:
                x = ACTIVATIONS[self.activation](x)
        return x.squeeze(-1)

    @property
    def traceable(self) -> bool:
        """Whether `trace` and `climb` can be used: known activations, and nothing that learns before the layers."""
        return self.activation in TRACEABLE and self.perception is None

    def trace(self, features: Tensor, action: Tensor) -> tuple[Tensor, Pull]:
        """`forward`, and what adds to the .grad of the weights from the values' gradient (count, rows)."""
        x = torch.cat([features, action], -1)
        passes = [self._pass(critic, x) for critic in range(self.count)]
        layers = self._layers()

        def pull(gradient: Tensor) -> None:
            for critic, (_, before) in enumerate(passes):
                outer = gradient[critic]
                for index in range(len(layers) - 1, -1, -1):
                    outer = _inner(layers, outer, before, critic, index, self.activation)
                    weight, bias = layers[index][0].grad, layers[index][1].grad
                    if weight is not None:
                        # A single column, like the values, in single precision.
                        alike = before[index].to(outer.dtype).t()
                        if index == len(layers) - 1:
                            weight[critic].add_(alike @ outer)
                        else:
                            weight[critic].addmm_(alike, outer)
                    if bias is not None:
                        bias[critic, 0].add_(outer.sum(0))

        return torch.stack([values for values, _ in passes]), pull

    def climb(self, features: Tensor, action: Tensor, first: int | None = None) -> tuple[Tensor, Climb]:
        """`forward`, and what gives the gradient of the actions (rows, size) from that of the values (count, rows): of
        each critic for the rows alone that ask for it."""
        x = torch.cat([features, action], -1)
        passes = [self._pass(critic, x) for critic in range(first or self.count)]
        layers = self._layers()

        def pull(gradient: Tensor) -> Tensor:
            total = torch.zeros_like(action)
            for critic, (_, before) in enumerate(passes):
                # In half precision each new number of rows would have its product compiled.
                some = before[0].dtype == torch.float32
                rows = gradient[critic].nonzero().squeeze(-1) if some else torch.arange(len(x))
                outer, asked = gradient[critic], before
                if len(rows) < len(x):
                    outer, asked = outer[rows], [x, *(layer.index_select(0, rows) for layer in before[1:])]
                for index in range(len(layers) - 1, -1, -1):
                    outer = _inner(layers, outer, asked, critic, index, self.activation)
                # Into the first layer, the actions' columns alone.
                into = layers[0][0][critic, -action.shape[1] :].t()
                total.index_add_(0, rows, (outer @ into).to(total.dtype))
            return total

        return torch.stack([values for values, _ in passes]), pull

    def _layers(self) -> Layers:
        # What a ParameterList looks up one by one costs as much as a layer of a small network.
        return list(zip(self.weights._parameters.values(), self.biases._parameters.values()))  # type: ignore[arg-type]

    def _pass(self, critic: int, x: Tensor, like: Critics | None = None) -> tuple[Tensor, list[Tensor]]:
        """One critic's values (rows,), and what goes into each of its layers, x (rows, f + size) first."""
        layers = self._layers()
        kind = (like._layers() if like else layers)[0][0].dtype
        before = [x := x.to(kind)]
        for weight, bias in layers[:-1]:
            before.append(x := active(x, weight[critic].to(kind), bias[critic, 0].to(kind), self.activation))
        weight, bias = layers[-1]
        return torch.addmv(bias[critic, 0].float(), x.float(), weight[critic, :, 0].float()), before


def _inner(layers: Layers, outer: Tensor, before: Sequence[Tensor], critic: int, index: int, activation: str) -> Tensor:
    """From the gradient of what follows layer `index`, of the values (rows,) for the last, to that of what comes out of
    it before its activation, (rows, o)."""
    if index == len(layers) - 1:
        return outer.unsqueeze(-1)
    weight, after = layers[index + 1][0][critic].t(), before[index + 1]
    outer = outer.to(after.dtype)
    # From the values, of each row one number, no product of matrices.
    outer = outer * weight if index == len(layers) - 2 else outer @ weight
    return slope(outer, after, activation)
