"""Learning values of numbered states one step at a time: Q-learning and SARSA."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.q_table import QTable
from reinforge.objectives.options import QLearningOptions, SARSAOptions
from reinforge.objectives.returns import at, parts, tensor
from reinforge.schema.signature import Signature


class TableLearner(nn.Module):
    """The table, and nothing beside it."""

    def __init__(self, model: QTable) -> None:
        super().__init__()
        self.model = model


class QLearning:
    """Q(s, a) += alpha (r + gamma max Q(s', .) - Q(s, a)), step by step as they came (Watkins, 1989).

    alpha is the learning rate of plain gradient descent. Copies of the environment take a step at once: a pair of state
    and action that several of them met moves to the mean of their targets, by alpha as if there were one.
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "sgd"}

    def __init__(self, options: QLearningOptions | SARSAOptions, signature: Signature) -> None:
        self.options = options

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, QTable):
            raise ComponentError(f"it can't train a {type(model).__name__}", remedy="Use the model q-table, or dqn.")
        return TableLearner(model)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """The columns of a rollout that are learned from, and the numbers of the pairs of state and action."""
        assert isinstance(learner, TableLearner)
        rollout, model = experience.batch, learner.model
        states, action = model.states(parts(rollout, "observation")), tensor(rollout, "action")
        columns: dict[str, Leaf | Batch] = {
            "observation": parts(rollout, "observation"),
            "next_observation": parts(rollout, "final_observation"),
            "action": action,
            "reward": tensor(rollout, "reward"),
            "terminated": tensor(rollout, "terminated"),
            "valid": tensor(rollout, "valid"),
            "pair": states * model.output.size + action,
        }
        return dataclasses.replace(experience, batch=columns, extra={})

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """One for each step of all copies."""
        for time in range(tensor(experience.batch, "action").shape[1]):
            batch = at(experience.batch, time)
            valid, pair = tensor(batch, "valid"), batch.pop("pair")
            assert isinstance(pair, Tensor)
            # Of pairs that count, how often each is there: its rows share what one row alone would have.
            _, inverse = torch.unique(torch.where(valid, pair, -1), return_inverse=True)
            times = inverse.bincount()[inverse]
            yield {**batch, "weight": valid * valid.sum() / times}

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, TableLearner)
        return [Step("table", [learner.model.values], self._loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The steps that count."""
        return {"td": tensor(batch, "valid").sum()}

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing follows an update."""

    def _following(self, values: Tensor, batch: Batch) -> Tensor:
        return values.amax(-1)

    def _loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, TableLearner)
        with torch.no_grad():
            after = learner.model(parts(batch, "next_observation"))[0]["action"]
            following = self._following(after, batch) * ~tensor(batch, "terminated")
            goal = tensor(batch, "reward") + self.options.gamma * following
        values = learner.model(parts(batch, "observation"))[0]["action"]
        error = goal - values.gather(-1, tensor(batch, "action").unsqueeze(-1)).squeeze(-1)
        return Loss({"td": Term((0.5 * error.square() * tensor(batch, "weight")).sum())})


class SARSA(QLearning):
    """Q(s, a) += alpha (r + gamma Q(s', a') - Q(s, a)), with a' the action taken next (Rummery and Niranjan, 1994).

    A step whose next action is not in the rollout is left out: the last one of each rollout, and those that were
    truncated. What is learned is the value of the policy that explores.
    """

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """The columns of a rollout, with the next actions."""
        prepared = super().prepare(learner, experience)
        action, truncated = tensor(prepared.batch, "action"), tensor(experience.batch, "truncated")
        unknown = truncated.clone()
        unknown[:, -1] |= ~tensor(prepared.batch, "terminated")[:, -1]
        following = torch.cat([action[:, 1:], torch.zeros_like(action[:, :1])], 1)
        valid = tensor(prepared.batch, "valid") & ~unknown
        return dataclasses.replace(prepared, batch={**prepared.batch, "next_action": following, "valid": valid})

    def _following(self, values: Tensor, batch: Batch) -> Tensor:
        return values.gather(-1, tensor(batch, "next_action").unsqueeze(-1)).squeeze(-1)
