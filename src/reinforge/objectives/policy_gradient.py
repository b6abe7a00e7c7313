"""Policy gradients with one update for each rollout: A2C and REINFORCE."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Clock, Experience, Outcome, Step
from reinforge.objectives.options import A2COptions, PPOOptions, REINFORCEOptions
from reinforge.objectives.ppo import PPO, PPOLearner
from reinforge.objectives.returns import tensor
from reinforge.schema.signature import Signature


class A2C(PPO):
    """log pi(a | s) times the advantage, a value loss and an entropy bonus, once for each rollout (Mnih et al., 2016).

    It is PPO's loss where the ratio is 1, whose gradient is that of the log-probability: Huang et al., "A2C is a
    special case of PPO" (2022).
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "rmsprop", "eps": 1e-5}

    def __init__(self, options: A2COptions, signature: Signature) -> None:
        super().__init__(PPOOptions(epochs=1, minibatches=1, **options.model_dump(exclude={"kind"})), signature)

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The whole rollout."""
        yield {**experience.batch, "clip": torch.full((batches.rows(experience.batch),), self.options.clip)}

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, PPOLearner)
        return [Step("a2c", list(learner.model.parameters()), self._loss)]


class REINFORCE(A2C):
    """log pi(a | s) times the return that followed, less a baseline where wanted (Williams, 1992).

    Of each rollout only the steps of episodes that ended in it count, since only their returns are known: rollouts
    are to be longer than episodes. What follows a truncated episode is the value's guess; nothing, without a baseline.
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam"}

    def __init__(self, options: REINFORCEOptions, signature: Signature) -> None:
        value_weight = options.value_weight if options.baseline else 0.0
        given = options.model_copy(update={"value_weight": value_weight}).model_dump(exclude={"kind", "baseline"})
        super().__init__(A2COptions(gae_lambda=1.0, **given), signature)
        self.baseline = options.baseline

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Returns of the steps whose episodes ended in the rollout; rows become sequences."""
        rollout: dict[str, Leaf | Batch] = dict(experience.batch)
        terminated, truncated = tensor(rollout, "terminated"), tensor(rollout, "truncated")
        rollout["valid"] = tensor(rollout, "valid") & _ended(terminated | truncated)
        if not self.baseline:
            rollout["terminated"], rollout["truncated"] = terminated | truncated, torch.zeros_like(truncated)
        prepared = super().prepare(learner, dataclasses.replace(experience, batch=rollout))
        if self.baseline:
            return prepared
        return dataclasses.replace(prepared, batch={**prepared.batch, "advantage": prepared.batch["return"]})

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, PPOLearner)
        parameters = list(learner.model.parameters()) if self.baseline else learner.model.acting()
        return [Step("reinforce", parameters, self._loss)]


def _ended(done: Tensor) -> Tensor:
    """Of steps (n, time): whether one of them or one after them ends an episode."""
    return done.flip(1).cumsum(1).flip(1) > 0
