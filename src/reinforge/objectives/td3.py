"""Twin delayed deterministic policy gradients, and the deterministic policy gradients that they began from."""

from __future__ import annotations

import copy
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
from reinforge.models.deterministic import Deterministic
from reinforge.objectives import by_hand
from reinforge.objectives.averages import follow
from reinforge.objectives.errors import squared, weighted, weights
from reinforge.objectives.options import DDPGOptions, TD3Options
from reinforge.objectives.returns import in_turn, parts, settled, tensor
from reinforge.schema.signature import Signature


class TD3Learner(nn.Module):
    """The actor (deployed), its critics, and the targets of both."""

    def __init__(self, model: Deterministic, options: TD3Options | DDPGOptions, critics: int) -> None:
        super().__init__()
        self.model = model
        self.target = copy.deepcopy(model).requires_grad_(False)
        # Observations are normalised alike by both.
        self.target.perception.normalisers = model.perception.normalisers
        sizes, activation, norm = options.critic_sizes, options.critic_activation, options.critic_norm
        self.critics = Critics(model.perception, model.output.size, sizes, activation, norm, critics)
        self.targets = self.critics.target(model.perception)

    def values(self, critics: Critics, observation: Batch, action: Tensor, first: int | None = None) -> Tensor:
        """What the critics, or the `first` of them, say of actions in learner space: (critics, rows), in the precision
        of those that learn."""
        features = critics.see(self.model.perception, observation)
        values: Tensor = critics(features, action, first, like=self.critics)
        return values


class TD3:
    """Deterministic policy gradients with twin critics, smoothed targets and a delayed actor (Fujimoto et al., 2018).

    Critics learn r + gamma^k min Q'(s', a'), where a' is the target actor's action with clipped normal noise, clipped
    to [-1, 1]. The actor climbs the first critic; it and all targets move every `delay` updates. Everything is in
    learner space, where [-1, 1] spans the environment's bounds.
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam"}

    def __init__(self, options: TD3Options | DDPGOptions, signature: Signature) -> None:
        self.options = options
        output = signature.outputs["action"]
        if output.form != "continuous":
            raise ComponentError("it needs continuous actions", where="objective", remedy="Use dqn.")
        self.size = output.size
        if isinstance(options, TD3Options):
            self.critics, self.delay = 2, options.delay
            self.smoothing, self.bound = options.target_noise, options.noise_clip
        else:
            self.critics, self.delay, self.smoothing, self.bound = 1, 1, 0.0, 0.0

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, Deterministic):
            raise ComponentError(f"it can't train a {type(model).__name__}", remedy="Use the model deterministic.")
        return TD3Learner(model, self.options, self.critics)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Sum the n-step rewards."""
        return settled(experience, self.options.gamma)

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The experience's updates, in order, with the noise of the target's actions."""
        drawn: dict[str, Leaf | Batch] = {}
        if self.smoothing:
            noise = torch.randn(batches.rows(experience.batch), self.size, generator=generator)
            drawn["noise"] = noise.mul_(self.smoothing).clamp_(-self.bound, self.bound)
        yield from in_turn(experience, drawn)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, TD3Learner)
        simple = learner.model.traceable and learner.critics.traceable
        critic, actor = (self._critic_by_hand, self._actor_by_hand) if simple else (None, None)
        return [
            Step("critic", list(learner.critics.parameters()), self._critic, by_hand=critic),
            Step("actor", list(learner.model.parameters()), self._actor, every=self.delay, by_hand=actor),
        ]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(batches.rows(batch))
        return {"td": rows, "q": rows, "policy": rows}

    @torch.no_grad()
    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Move all targets by tau, after the updates in which the actor moved."""
        assert isinstance(learner, TD3Learner)
        if (clock.updates - 1) % self.delay == 0:
            follow(learner.targets, learner.critics, self.options.tau)
            follow(learner.target, learner.model, self.options.tau)

    def _critic(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, TD3Learner)
        with torch.no_grad():
            action = learner.target(parts(batch, "next_observation"))[0]["mean"]
            action = self._smoothed(batch, action)
            value = learner.values(learner.targets, parts(batch, "next_observation"), action).amin(0)
            goal = tensor(batch, "reward") + tensor(batch, "discount") * value
        values = learner.values(learner.critics, parts(batch, "observation"), tensor(batch, "action"))
        return squared(values - goal, goal, weights(batch))

    def _critic_by_hand(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> tuple[Numbers, Pull]:
        assert isinstance(learner, TD3Learner)
        see = learner.model.perception
        ahead = see(parts(batch, "next_observation"))
        action = self._smoothed(batch, learner.target.trace(ahead)[0])
        following = learner.targets(ahead, action, like=learner.critics).numpy()
        discounted = tensor(batch, "discount").numpy() * np.minimum.reduce(following, 0)
        goal = tensor(batch, "reward").numpy() + discounted
        values, pull = learner.critics.trace(see(parts(batch, "observation")), tensor(batch, "action"))
        loss, slopes = by_hand.squared(values.numpy(), goal, by_hand.weights(batch))

        def back(scales: Mapping[str, float]) -> None:
            pull(slopes(scales["td"]))

        return loss, back

    def _smoothed(self, batch: Batch, action: Tensor) -> Tensor:
        """The target actor's next actions, with noise."""
        noise = batch.get("noise")
        return (action + noise).clamp_(-1, 1) if isinstance(noise, Tensor) else action

    def _actor(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, TD3Learner)
        observation = parts(batch, "observation")
        action = learner.model(observation)[0]["mean"]
        each = -learner.values(learner.critics, observation, action, first=1)[0]
        return Loss({"policy": Term(weighted(each, weights(batch)).sum())})

    def _actor_by_hand(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> tuple[Numbers, Pull]:
        assert isinstance(learner, TD3Learner)
        features = learner.model.perception(parts(batch, "observation"))
        action, pull = learner.model.trace(features)
        values, climb = learner.critics.climb(features, action, first=1)
        weight = weights(batch)

        def back(scales: Mapping[str, float]) -> None:
            pull(climb(weighted(torch.full_like(values, -scales["policy"]), weight)))

        return Numbers({"policy": Number(-weighted(values[0], weight).sum().item())}), back


class DDPG(TD3):
    """Deep deterministic policy gradients: one critic, no smoothing, no delay (Lillicrap et al., 2016)."""
