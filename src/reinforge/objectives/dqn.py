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
from reinforge.objectives.return_distributions import categorical_loss, project, quantile_loss
from reinforge.objectives.returns import in_turn, parts, summed, tensor
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
    """r + gamma^k max Q'(s', .) as target of Q(s, a), by Huber's loss (Mnih et al., 2015), and the family's switches.

    With `double`, the network picks the action that the target network values (van Hasselt et al., 2016). A terminal
    state has no value after it; a truncated one has. Weights of prioritised replay scale each row's loss. Where the
    network gives a distribution of returns, that of the target is learned instead: its projection, or its quantiles.
    Noise of noisy networks is drawn for each row by itself: for the network, for its choice and for the target.

    With `munchausen` (Vieillard et al., 2020, equation 2), pi being the softmax of values over a temperature tau, the
    reward gains weight tau log pi(a | s), bounded below, and what follows is the mean under pi of value - tau log pi,
    of distributions the mean of quantiles, or the mixture of probabilities. Of n-step rewards the first gains alone.
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
        rows, extra = dict(experience.batch), experience.extra
        reward, discount = summed(rows, self.options.gamma)
        updates, noise = int(extra["updates"]), learner.model.parameter_noise
        if not self.options.double and not noise and int(learner.age) + updates <= self.options.period:
            rows["goal"] = self._goal(learner, rows, reward, discount)
            del rows["next_observation"]
        else:
            rows["reward"], rows["discount"] = reward, discount
        if noise:
            extra = {**extra, "noise": torch.tensor(noise)}
        return dataclasses.replace(experience, batch=rows, extra=extra)

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The experience's updates, in order."""
        noise = int(experience.extra.get("noise", 0))
        for batch in in_turn(experience):
            if noise:
                names = ("noise", "next_noise", "choice_noise") if self.options.double else ("noise", "next_noise")
                batch |= zip(names, torch.randn(len(names), batches.rows(batch), noise, generator=generator))
            yield batch

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, DQNLearner)
        return [Step("q", list(learner.model.parameters()), self._loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(batches.rows(batch))
        return dict.fromkeys(("td", "q", "conservative") if self.options.conservative else ("td", "q"), rows)

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        assert isinstance(learner, DQNLearner)
        learner.age += 1
        if clock.updates % self.options.period == 0:
            learner.follow(self.options.tau)
            learner.age.zero_()

    def _goal(self, learner: DQNLearner, batch: Batch, reward: Tensor, discount: Tensor) -> Tensor:
        """What a row's value should be: (rows,); probabilities or quantiles of returns (rows, atoms)."""
        outputs = _see(learner.target, batch, "next_observation", "next_noise")
        values = outputs["action"]
        if self.options.double:
            values = _see(learner.model, batch, "next_observation", "choice_noise")["action"]
        if self.options.munchausen is None:
            best = values.argmax(-1, keepdim=True)
            if "logits" in outputs:
                return project(learner.target.support, _chosen(outputs["logits"], best).softmax(-1), reward, discount)
            if "quantiles" in outputs:
                return reward.unsqueeze(-1) + discount.unsqueeze(-1) * _chosen(outputs["quantiles"], best)
            return reward + discount * outputs["action"].gather(-1, best).squeeze(-1)
        tau = self.options.munchausen.temperature
        now = _see(learner.target, batch, "observation", "next_noise")["action"]
        taken = (now / tau).log_softmax(-1).gather(-1, tensor(batch, "action").unsqueeze(-1)).squeeze(-1)
        bonus = (tau * taken).clamp(self.options.munchausen.floor, 0)
        reward = reward + self.options.munchausen.weight * bonus
        logarithm = (values / tau).log_softmax(-1)
        share, entropy = logarithm.exp(), -tau * logarithm
        if "logits" in outputs:
            # Of each action by itself: r + discount (Z(s', a') - tau log pi(a' | s')), then their mixture.
            moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * entropy
            each = project(
                learner.target.support, outputs["logits"].softmax(-1), moved, discount.unsqueeze(-1).expand_as(moved)
            )
            return (share.unsqueeze(-1) * each).sum(-2)
        if "quantiles" in outputs:
            mean = (share.unsqueeze(-1) * (outputs["quantiles"] + entropy.unsqueeze(-1))).sum(-2)
            return reward.unsqueeze(-1) + discount.unsqueeze(-1) * mean
        return reward + discount * (share * (outputs["action"] + entropy)).sum(-1)

    def _loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, DQNLearner)
        goal, action, weight = batch.get("goal"), tensor(batch, "action"), batch.get("weight")
        if goal is None:
            with torch.no_grad():
                goal = self._goal(learner, batch, tensor(batch, "reward"), tensor(batch, "discount"))
        assert isinstance(goal, Tensor)
        outputs = _see(learner.model, batch, "observation", "noise")
        values, chosen = outputs["action"], action.unsqueeze(-1)
        # How good it thinks its states are: nothing shows a divergence earlier.
        terms = {"q": Term(values.detach().amax(-1).sum(), 0.0)}
        delta = self.options.delta
        if self.options.conservative:
            surplus = values.logsumexp(-1) - values.gather(-1, chosen).squeeze(-1)
            terms["conservative"] = Term(surplus.sum(), self.options.conservative)
        if "logits" in outputs:
            each, error = categorical_loss(_chosen(outputs["logits"], chosen), goal)
        elif "quantiles" in outputs:
            quantiles = _chosen(outputs["quantiles"], chosen)
            each = quantile_loss(quantiles, goal, delta)
            error = quantiles.detach().mean(-1) - goal.mean(-1)
        else:
            value = values.gather(-1, chosen).squeeze(-1)
            if not isinstance(weight, Tensor):
                total = functional.huber_loss(value, goal, reduction="sum", delta=delta)
                return Loss({"td": Term(total), **terms})
            each = functional.huber_loss(value, goal, reduction="none", delta=delta)
            error = (value - goal).detach()
        if not isinstance(weight, Tensor):
            return Loss({"td": Term(each.sum()), **terms})
        return Loss({"td": Term((each * weight).sum()), **terms}, {"td": error})


def _see(network: QNetwork, batch: Batch, observation: str, noise: str) -> dict[str, Tensor]:
    inputs = parts(batch, observation)
    if network.parameter_noise:
        inputs = {**inputs, "noise": batch[noise]}
    outputs: dict[str, Tensor] = network(inputs)[0]
    return outputs


def _chosen(each: Tensor, action: Tensor) -> Tensor:
    """Of (rows, actions, atoms) those of the action (rows, 1): (rows, atoms)."""
    return each.take_along_dim(action.unsqueeze(-1), -2).squeeze(-2)
