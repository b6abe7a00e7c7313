"""Deep Q-learning."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.q_network import QNetwork
from reinforge.objectives.averages import follow
from reinforge.objectives.options import DQNOptions
from reinforge.objectives.returns import parts, summed, tensor
from reinforge.schema.signature import Signature


class DQNLearner(nn.Module):
    """The Q-network and its target: a copy that follows behind. `age` counts updates since the target last moved."""

    age: Tensor

    def __init__(self, model: QNetwork) -> None:
        super().__init__()
        self.model = model
        self.target = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Move the target by `rate` of the way to the network; its normalisers all the way."""
        follow(self.target, self.model, rate)
        if self.model.normalises:
            for mine, theirs in zip(self.target.buffers(), self.model.buffers()):
                mine.copy_(theirs)


class DQN:
    """r + gamma^k max Q'(s', .) as target of Q(s, a), by Huber's loss (Mnih et al., 2015).

    With `double`, the network picks the action that the target network values (van Hasselt et al., 2016). A terminal
    state has no value after it; a truncated one has. Weights of prioritised replay scale each row's loss.
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam"}

    def __init__(self, options: DQNOptions, signature: Signature) -> None:
        self.options = options
        if signature.outputs["action"].form != "discrete":
            raise ComponentError("DQN needs discrete actions", where="objective", remedy="Use sac.")

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, QNetwork):
            raise ComponentError(f"a {type(model).__name__} gives no action values", remedy="Use the model q-network.")
        return DQNLearner(model)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Sum the n-step rewards; and where the target stands still for all updates of the experience, compute
        their targets at once."""
        assert isinstance(learner, DQNLearner)
        rows = dict(experience.batch)
        reward, discount = summed(rows, self.options.gamma)
        updates = int(experience.extra["updates"])
        if not self.options.double and int(learner.age) + updates <= self.options.period:
            rows["goal"] = self._goal(learner, parts(rows, "next_observation"), reward, discount)
            del rows["next_observation"]
        else:
            rows["reward"], rows["discount"] = reward, discount
        return dataclasses.replace(experience, batch=rows)

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The experience's updates, in order."""
        rows = batches.rows(experience.batch)
        size = rows // int(experience.extra["updates"])
        for start in range(0, rows, size):
            yield batches.part(experience.batch, start, start + size)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, DQNLearner)
        return [Step("q", list(learner.model.parameters()), self._loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"td": torch.tensor(batches.rows(batch))}

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        assert isinstance(learner, DQNLearner)
        learner.age += 1
        if clock.updates % self.options.period == 0:
            learner.follow(self.options.tau)
            learner.age.zero_()

    def _goal(self, learner: DQNLearner, observation: Batch, reward: Tensor, discount: Tensor) -> Tensor:
        values: Tensor = learner.target(observation)[0]["action"]
        if self.options.double:
            best = learner.model(observation)[0]["action"].argmax(-1, keepdim=True)
            following = values.gather(-1, best).squeeze(-1)
        else:
            following = values.amax(-1)
        return reward + discount * following

    def _loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, DQNLearner)
        goal, action, weight = batch.get("goal"), tensor(batch, "action"), batch.get("weight")
        if goal is None:
            with torch.no_grad():
                goal = self._goal(
                    learner, parts(batch, "next_observation"), tensor(batch, "reward"), tensor(batch, "discount")
                )
        assert isinstance(goal, Tensor)
        values = learner.model(parts(batch, "observation"))[0]["action"]
        value = values.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        if not isinstance(weight, Tensor):
            return Loss({"td": Term(functional.huber_loss(value, goal, reduction="sum", delta=self.options.delta))})
        each = functional.huber_loss(value, goal, reduction="none", delta=self.options.delta)
        return Loss({"td": Term((each * weight).sum())}, {"td": (value - goal).detach()})
