"""Implicit Q-learning: values of what the data show, without asking for an action that they don't."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.critics import Critics
from reinforge.models.policy import Policy
from reinforge.objectives.averages import follow
from reinforge.objectives.options import IQLOptions
from reinforge.objectives.returns import in_turn, parts, settled, tensor
from reinforge.schema.signature import Signature


class IQLearner(nn.Module):
    """The policy (deployed), twin critics with their targets, and the value of states."""

    def __init__(self, model: Policy, options: IQLOptions) -> None:
        super().__init__()
        self.model = model
        sizes, activation, norm = options.critic_sizes, options.critic_activation, options.critic_norm
        self.critics = Critics(model.perception, model.output.size, sizes, activation, norm)
        self.targets = self.critics.target(model.perception)
        # The value of a state is a critic that sees no action.
        self.state_value = Critics(model.perception, 0, sizes, activation, norm, 1)

    def values(self, critics: Critics, observation: Batch, action: Tensor) -> Tensor:
        """What the critics say of the actions taken: (critics, rows)."""
        if not self.model.continuous:
            action = functional.one_hot(action, self.model.output.size).float()
        found: Tensor = critics(critics.see(self.model.perception, observation), action)
        return found

    def state(self, observation: Batch) -> Tensor:
        """What a state is worth: (rows,)."""
        features = self.state_value.see(self.model.perception, observation)
        found: Tensor = self.state_value(features, features[:, :0])
        return found[0]


class IQL:
    """Implicit Q-learning (Kostrikov et al., 2022), for discrete or continuous actions.

    V(s) is an expectile of min Q'(s, a) over the actions of the data (equation 5), Q(s, a) learns r + gamma^k V(s')
    (equation 6), and the policy the actions taken, by exp(beta (Q' - V)) (equation 7), at most `limit`.
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam"}

    def __init__(self, options: IQLOptions, signature: Signature) -> None:
        self.options = options
        if signature.outputs["action"].form == "multi-discrete":
            raise ComponentError("IQL needs one choice, or continuous actions", where="objective")

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, Policy) or model.initial_state(1):
            raise ComponentError(
                f"IQL can't train this {type(model).__name__}",
                remedy="Use actor-critic or squashed-gaussian, without a memory.",
            )
        return IQLearner(model, self.options)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Sum the n-step rewards."""
        return settled(experience, self.options.gamma)

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The experience's updates, in order."""
        yield from in_turn(experience)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, IQLearner)
        return [
            Step("value", list(learner.state_value.parameters()), self._value),
            Step("critic", list(learner.critics.parameters()), self._critic),
            Step("actor", learner.model.acting(), self._actor),
        ]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(batches.rows(batch))
        return dict.fromkeys(("expectile", "td", "policy"), rows)

    @torch.no_grad()
    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Move the targets by tau."""
        assert isinstance(learner, IQLearner)
        follow(learner.targets, learner.critics, self.options.tau)

    def _value(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, IQLearner)
        observation = parts(batch, "observation")
        with torch.no_grad():
            goal = learner.values(learner.targets, observation, tensor(batch, "action")).amin(0)
        error = goal - learner.state(observation)
        weight = (self.options.expectile - (error.detach() < 0).to(error.dtype)).abs()
        return Loss({"expectile": Term((weight * error.square()).sum())})

    def _critic(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, IQLearner)
        with torch.no_grad():
            following = learner.state(parts(batch, "next_observation"))
            goal = tensor(batch, "reward") + tensor(batch, "discount") * following
        errors = learner.values(learner.critics, parts(batch, "observation"), tensor(batch, "action")) - goal
        return Loss({"td": Term(errors.square().sum())}, {"td": errors.detach().abs().mean(0)})

    def _actor(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, IQLearner)
        observation, action = parts(batch, "observation"), tensor(batch, "action")
        with torch.no_grad():
            advantage = learner.values(learner.targets, observation, action).amin(0) - learner.state(observation)
            weight = (self.options.beta * advantage).exp().clamp(max=self.options.limit)
        outputs, _ = learner.model(observation)
        return Loss({"policy": Term(-(weight * learner.model.log_prob(outputs, action)).sum())})
