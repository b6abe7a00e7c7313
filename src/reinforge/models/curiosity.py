"""How new an observation is: the error of a network that learns to predict another, which stays as it began."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.models.perception import Perception
from reinforge.models.perceptron import Network
from reinforge.models.policy_options import PolicyOptions
from reinforge.schema.signature import Signature


class Glance(nn.Module):
    """Observations to features: encoders and layers."""

    def __init__(self, options: PolicyOptions, features: int, signature: Signature) -> None:
        super().__init__()
        self.perception = Perception(options, signature)
        sizes = (self.perception.features, *options.sizes, features)
        self.network = Network(sizes, options.activation, math.sqrt(2))

    def forward(self, observation: Batch) -> Tensor:
        features: Tensor = self.network(self.perception(observation))
        return features


class Curiosity(nn.Module):
    """Random network distillation (Burda et al., 2019): a predictor learns what a fixed random network says.

    Its error is divided by the deviation of all errors so far, so that a bonus keeps its size. Boxes are normalised by
    running statistics of what was met. Both change in `bonus` alone.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, options: PolicyOptions, features: int, signature: Signature) -> None:
        super().__init__()
        options = options.model_copy(update={"normalise": True, "frames": 1})
        self.predictor = Glance(options, features, signature)
        self.target = Glance(options, features, signature).requires_grad_(False)
        self.target.perception.normalisers = self.predictor.perception.normalisers
        for name in ("count", "mean", "squares"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def error(self, observation: Batch) -> Tensor:
        """The mean squared error of the predictor at each observation: (...)."""
        with torch.no_grad():
            goal = self.target(observation)
        error: Tensor = (self.predictor(observation) - goal).square().mean(-1)
        return error

    @torch.no_grad()
    def bonus(self, observation: Batch, valid: Tensor | None = None) -> Tensor:
        """The error over the deviation of errors: (...). Takes these observations into the statistics, those that are
        `valid` where that is said."""
        for name, normaliser in self.predictor.perception.statistics().items():
            value = observation[name]
            assert isinstance(value, Tensor)
            seen = value[valid] if valid is not None else value
            seen = seen.reshape(-1, *normaliser.mean.shape).double()
            if len(seen):
                mean = seen.mean(0)
                count = torch.tensor(float(len(seen)), dtype=torch.float64, device=seen.device)
                normaliser.update(count, mean, (seen - mean).square().sum(0))
        error = self.error(observation)
        self._take_in(error[valid] if valid is not None else error)
        deviation = (self.squares / self.count.clamp(min=1)).sqrt()
        return error / deviation.clamp(min=1e-8).to(error.dtype)

    def _take_in(self, error: Tensor) -> None:
        seen = error.flatten().double()
        if not len(seen):
            return
        total = self.count + len(seen)
        difference = seen.mean() - self.mean
        self.squares += (seen - seen.mean()).square().sum() + difference.square() * self.count * len(seen) / total
        self.mean += difference * len(seen) / total
        self.count.copy_(total)
