"""Rewards as learning sees them: scaled, normalised by running statistics, clipped. Evaluation sees the true ones."""

from __future__ import annotations

import numpy as np

from reinforge.core.contracts import State
from reinforge.environments.observations import Array
from reinforge.environments.options import RewardOptions

_EPSILON = 1e-8


class RewardScaling:
    """scale * r / s, clipped to [-clip, clip], for n environments.

    Where normalised, s is the deviation of the discounted sum of rewards of each environment, over all steps so far;
    its mean is not taken off, for that would change which policy is best (Engstrom et al., 2020). Otherwise s is 1.
    """

    def __init__(self, options: RewardOptions, count: int) -> None:
        self.options = options
        self.active = options != RewardOptions()
        self._sum = np.zeros(count)
        self._count, self._mean, self._squares = 0.0, 0.0, 0.0

    def __call__(self, reward: Array, done: Array, valid: Array) -> Array:
        """float32 (n,) from rewards (n,), where an episode ends, and where the step is a real one."""
        if not self.active:
            return reward
        options, found = self.options, reward * np.float64(self.options.scale)
        if options.normalise:
            self._sum = np.where(valid, options.gamma * self._sum + found, self._sum)
            self._observe(self._sum[valid])
            self._sum[done] = 0.0
            found = found / self.deviation
        if options.clip is not None:
            found = np.clip(found, -options.clip, options.clip)
        return found.astype(np.float32)

    @property
    def deviation(self) -> float:
        """What rewards are divided by."""
        return float(np.sqrt(self._squares / self._count + _EPSILON)) if self._count > 1 else 1.0

    def _observe(self, sums: Array) -> None:
        # Chan, Golub and LeVeque (1983).
        if not len(sums):
            return
        mean, total = float(sums.mean()), self._count + len(sums)
        difference = mean - self._mean
        self._squares += float(np.square(sums - mean).sum()) + difference**2 * self._count * len(sums) / total
        self._mean += difference * len(sums) / total
        self._count = total

    def begin(self) -> None:
        """All episodes begin anew."""
        self._sum[:] = 0.0

    def state_dict(self) -> State:
        """The running statistics, and every environment's sum."""
        return {"sum": self._sum.copy(), "count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: State) -> None:
        self._sum = np.array(state["sum"])
        self._count, self._mean, self._squares = state["count"], state["mean"], state["squares"]
