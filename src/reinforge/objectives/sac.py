"""Soft actor-critic."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Clock, Experience, Loss, Number, Numbers, Outcome, Pull, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.critics import Critics
from reinforge.models.distributions import tanh_gaussian_log_prob
from reinforge.models.squashed_gaussian import SquashedGaussian
from reinforge.objectives import by_hand
from reinforge.objectives.averages import follow
from reinforge.objectives.errors import squared, weighted, weights
from reinforge.objectives.options import SACOptions
from reinforge.objectives.returns import in_turn, parts, settled, tensor
from reinforge.schema.signature import Signature


class SACLearner(nn.Module):
    """The actor (deployed), twin critics, their targets, and the logarithm of the temperature."""

    def __init__(self, model: SquashedGaussian, options: SACOptions) -> None:
        super().__init__()
        self.model = model
        sizes, activation, norm = options.critic_sizes, options.critic_activation, options.critic_norm
        self.critics = Critics(model.perception, model.output.size, sizes, activation, norm)
        self.targets = self.critics.target(model.perception)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(options.temperature)))
        self.log_temperature.requires_grad_(options.adapt)

    def values(self, critics: Critics, observation: Batch, action: Tensor) -> Tensor:
        """What the critics say of actions in learner space: (2, rows), in the precision of those that learn."""
        features = critics.see(self.model.perception, observation)
        values: Tensor = critics(features, action, like=self.critics)
        return values

    def act(self, observation: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions in learner space (rows, size), and their log-probs (rows,)."""
        outputs, _ = self.model(observation)
        latent = outputs["mean"] + outputs["log_std"].exp() * noise
        return torch.tanh(latent), tanh_gaussian_log_prob(outputs["mean"], outputs["log_std"], latent)


class SAC:
    """Maximum-entropy actor-critic with twin critics and an adaptive temperature (Haarnoja et al., 2018).

    Log-probs, and so the target entropy (minus the number of action dimensions by default), are of actions in (-1, 1):
    the scaling to the environment's bounds is not in them. The buffer holds actions in (-1, 1) too.

    With `conservative`, each critic also learns to think little of actions that the data don't show: it loses
    log sum exp Q(s, .) - Q(s, a), the sum over all actions by importance sampling (CQL; Kumar et al., 2020).
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam"}

    def __init__(self, options: SACOptions, signature: Signature) -> None:
        self.options = options
        output = signature.outputs["action"]
        if output.form != "continuous":
            raise ComponentError("SAC needs continuous actions", where="objective", remedy="Use dqn.")
        self.size = output.size
        self.target_entropy = -float(output.size) if options.target_entropy is None else options.target_entropy

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, SquashedGaussian):
            raise ComponentError(f"SAC can't train a {type(model).__name__}", remedy="Use the model squashed-gaussian.")
        return SACLearner(model, self.options)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Sum the n-step rewards."""
        return settled(experience, self.options.gamma)

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The experience's updates, in order, with the noise of both actions, and of those to think little of."""
        rows = batches.rows(experience.batch)
        noise = torch.randn(2, rows, self.size, generator=generator)
        drawn: dict[str, Leaf | Batch] = {"noise": noise[0], "next_noise": noise[1]}
        if self.options.conservative:
            shape = (rows, self.options.conservative_actions, self.size)
            drawn["any"] = torch.rand(shape, generator=generator) * 2 - 1
            drawn["any_noise"] = torch.randn(shape, generator=generator)
        yield from in_turn(experience, drawn)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, SACLearner)
        simple = learner.model.traceable and learner.critics.traceable
        critic = self._critic_by_hand if simple and not self.options.conservative else None
        actor = self._actor_by_hand if simple else None
        every = self.options.delay
        steps = [
            Step("critic", list(learner.critics.parameters()), self._critic, by_hand=critic),
            Step("actor", list(learner.model.parameters()), self._actor, every=every, by_hand=actor),
        ]
        if self.options.adapt:
            own, temperature = [learner.log_temperature], self._temperature_by_hand
            steps.append(Step("temperature", own, self._temperature, every=every, by_hand=temperature))
        return steps

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(batches.rows(batch))
        names = ("td", "q", "policy", "temperature", "entropy")
        return dict.fromkeys((*names, "conservative") if self.options.conservative else names, rows)

    @torch.no_grad()
    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Move the targets by tau."""
        assert isinstance(learner, SACLearner)
        if clock.updates % self.options.period == 0:
            follow(learner.targets, learner.critics, self.options.tau)

    def _critic(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, SACLearner)
        with torch.no_grad():
            action, log_prob = learner.act(parts(batch, "next_observation"), tensor(batch, "next_noise"))
            value = learner.values(learner.targets, parts(batch, "next_observation"), action).amin(0)
            soft = value - learner.log_temperature.exp() * log_prob
            goal = tensor(batch, "reward") + tensor(batch, "discount") * soft
        observation = parts(batch, "observation")
        values = learner.values(learner.critics, observation, tensor(batch, "action"))
        loss = squared(values - goal, goal, weights(batch), 0.5)
        if self.options.conservative:
            surplus = self._any(learner, observation, batch) - values
            loss.terms["conservative"] = Term(surplus.sum(), self.options.conservative)
        return loss

    def _any(self, learner: SACLearner, observation: Batch, batch: Batch) -> Tensor:
        """log of the integral of exp Q(s, a) over all actions in (-1, 1), as each critic sees it: (2, rows).

        The mean over n uniform actions and n of the policy of exp Q divided by the density that they were drawn from
        (Kumar et al., 2020, appendix F).
        """
        anything, noise = tensor(batch, "any"), tensor(batch, "any_noise")
        rows, n, size = anything.shape
        with torch.no_grad():
            outputs, _ = learner.model(observation)
            mean, log_std = (outputs[name].unsqueeze(1) for name in ("mean", "log_std"))
            latent = mean + log_std.exp() * noise
            density = tanh_gaussian_log_prob(mean, log_std, latent)
        actions = torch.cat([anything, torch.tanh(latent)], 1).flatten(0, 1)
        features = learner.critics.see(learner.model.perception, observation).repeat_interleave(2 * n, 0)
        values = learner.critics(features, actions).unflatten(1, (rows, 2 * n))
        uniform = density.new_full((rows, n), -size * math.log(2))
        relative: Tensor = values - torch.cat([uniform, density], 1)
        return relative.logsumexp(-1) - math.log(2 * n)

    def _critic_by_hand(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> tuple[Numbers, Pull]:
        assert isinstance(learner, SACLearner)
        see = learner.model.perception
        ahead = see(parts(batch, "next_observation"))
        action, log_prob, _ = learner.model.trace(ahead, tensor(batch, "next_noise"))
        value = np.minimum.reduce(learner.targets(ahead, action, like=learner.critics).numpy(), 0)
        soft = value - _temperature(learner) * log_prob.numpy()
        goal = tensor(batch, "reward").numpy() + tensor(batch, "discount").numpy() * soft
        values, pull = learner.critics.trace(see(parts(batch, "observation")), tensor(batch, "action"))
        loss, slopes = by_hand.squared(values.numpy(), goal, by_hand.weights(batch), 0.5)

        def back(scales: Mapping[str, float]) -> None:
            pull(slopes(scales["td"]))

        return loss, back

    def _actor(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, SACLearner)
        observation = parts(batch, "observation")
        action, log_prob = learner.act(observation, tensor(batch, "noise"))
        value = learner.values(learner.critics, observation, action).amin(0)
        each = weighted(learner.log_temperature.detach().exp() * log_prob - value, weights(batch))
        drawn = log_prob.detach()
        return Loss({"policy": Term(each.sum()), "entropy": Term(-drawn.sum(), 0.0)}, carry={"log_prob": drawn})

    def _actor_by_hand(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> tuple[Numbers, Pull]:
        assert isinstance(learner, SACLearner)
        features = learner.model.perception(parts(batch, "observation"))
        action, log_prob, pull = learner.model.trace(features, tensor(batch, "noise"))
        values, climb = learner.critics.climb(features, action)
        array, temperature, weight = values.numpy(), _temperature(learner), by_hand.weights(batch)
        each = by_hand.weighted(temperature * log_prob.numpy() - np.minimum.reduce(array, 0), weight)

        def back(scales: Mapping[str, float]) -> None:
            slope = by_hand.weighted(np.full(len(each), scales["policy"], each.dtype), weight)
            pull(climb(by_hand.least(array, -slope)), torch.from_numpy(temperature * slope))

        terms = {"policy": Number(float(each.sum())), "entropy": Number(-float(log_prob.numpy().sum()), 0.0)}
        return Numbers(terms, carry={"log_prob": log_prob}), back

    def _temperature(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, SACLearner)
        return Loss({"temperature": Term(learner.log_temperature * self._surplus(batch))})

    def _temperature_by_hand(
        self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]
    ) -> tuple[Numbers, Pull]:
        assert isinstance(learner, SACLearner)
        surplus, into = self._surplus(batch), learner.log_temperature.grad

        def back(scales: Mapping[str, float]) -> None:
            if into is not None:
                into.add_(scales["temperature"] * surplus)

        return Numbers({"temperature": Number(float(learner.log_temperature * surplus))}), back

    def _surplus(self, batch: Batch) -> Tensor:
        """By how much less than the target the actions' entropy was, summed, of those that the actor's step drew: a
        pass of the new policy would cost as much as a critic's."""
        return weighted(-tensor(batch, "log_prob") - self.target_entropy, weights(batch)).sum()


def _temperature(learner: SACLearner) -> float:
    return float(learner.log_temperature.exp())
