"""Values of actions beside a policy, several computed together."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.perception import Perception


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
        self.activation = ACTIVATIONS[activation]
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

    def forward(self, features: Tensor, action: Tensor, first: int | None = None) -> Tensor:
        """The values (count, rows), or of the `first` of them alone."""
        x = torch.cat([features, action], -1).to(self.weights[0].dtype).expand(first or len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias[:first], x, weight[:first]) if first else torch.baddbmm(bias, x, weight)
            if index < last:
                x = self.activation(x)
        return x.squeeze(-1).float()
