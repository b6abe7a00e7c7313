"""Other rewards for any objective of reinforcement learning: curiosity, and shaping by a potential."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Clock, Experience, Loss, Objective, Outcome, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.curiosity import Curiosity
from reinforge.objectives.options import CuriousOptions, LinearPotentialOptions, ShapedOptions
from reinforge.objectives.returns import parts, tensor
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature


class Wrapped:
    """An objective whose rewards are changed before it sees them; everything else is its own."""

    def __init__(self, of: Options, signature: Signature) -> None:
        self.inner: Objective = REGISTRY.build("objective", of, signature)
        default = getattr(self.inner, "default_optimizer", None)
        if default is not None:
            self.default_optimizer = default

    def build(self, model: nn.Module) -> nn.Module:
        return self.inner.build(model)

    def rewards(self, learner: nn.Module, batch: Batch) -> Tensor:
        """What is added to the reward: (n, time) of a rollout, (rows,) of sampled transitions."""
        raise NotImplementedError

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Add to the rewards: of n-step rows, to the first."""
        batch: dict[str, Leaf | Batch] = dict(experience.batch)
        added = self.rewards(learner, batch)
        if "rewards" in batch:
            rewards = tensor(batch, "rewards").clone()
            rewards[:, 0] += added
            batch["rewards"] = rewards
        else:
            batch["reward"] = tensor(batch, "reward") + added
        return self.inner.prepare(learner, dataclasses.replace(experience, batch=batch))

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        return self.inner.updates(experience, generator, clock)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        return self.inner.steps(learner)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return self.inner.counts(batch)

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        self.inner.after_update(learner, clock)


class Curious(Wrapped):
    """Rewards for what is new: random network distillation (Burda et al., 2019), beside any objective.

    What is added is the weight times the predictor's error at what each action led to, over its running deviation. One
    value holds both kinds of reward, so the bonus ends with the episode. The predictor learns from the observations of
    each update.
    """

    def __init__(self, options: CuriousOptions, signature: Signature) -> None:
        super().__init__(options.of, signature)
        self.options, self.signature = options, signature

    def build(self, model: nn.Module) -> nn.Module:
        """The inner objective's learner, with the curiosity in it."""
        learner = super().build(model)
        learner.add_module("curiosity", Curiosity(self.options.network, self.options.features, self.signature))
        return learner

    def rewards(self, learner: nn.Module, batch: Batch) -> Tensor:
        curiosity = _curiosity(learner)
        after = "final_observation" if "final_observation" in batch else "next_observation"
        valid = batch.get("valid")
        return self.options.weight * curiosity.bonus(parts(batch, after), valid if isinstance(valid, Tensor) else None)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        predictor = list(_curiosity(learner).predictor.parameters())
        return [*super().steps(learner), Step("curiosity", predictor, self._loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().counts(batch), "novelty": _valid(batch).sum()}

    def _loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        error = _curiosity(learner).error(parts(batch, "observation"))
        return Loss({"novelty": Term((error * _valid(batch)).sum())})


class Shaped(Wrapped):
    """Rewards shaped by a potential: gamma phi(s') - phi(s) is added, which changes no best policy (Ng et al., 1999).

    phi is a component of the kind "potential", one of yours say: from observations {name: (rows, ...)} to (rows,).
    What lies behind a terminal state has a potential of 0. Of n-step rows the sum is gamma^k phi(s_k) -
    phi(s), as the steps between cancel out.
    """

    def __init__(self, options: ShapedOptions, signature: Signature) -> None:
        super().__init__(options.of, signature)
        gamma = getattr(options.of, "gamma", None)
        if gamma is None:
            raise ComponentError(
                f"the objective {options.of.kind!r} has no gamma",  # type: ignore[attr-defined]
                where="objective.of", remedy="Shape an objective that discounts rewards: dqn, ppo, sac, ...",
            )  # fmt: skip
        self.gamma: float = gamma
        self.potential: Callable[[Mapping[str, Tensor]], Tensor] = REGISTRY.build("potential", options.potential)

    def rewards(self, learner: nn.Module, batch: Batch) -> Tensor:
        after = "final_observation" if "final_observation" in batch else "next_observation"
        terminated = tensor(batch, "terminated")
        before, then = (self._potential(parts(batch, name), terminated.shape) for name in ("observation", after))
        length = batch.get("length")
        discount = self.gamma ** length.to(before.dtype) if isinstance(length, Tensor) else self.gamma
        return discount * then * ~terminated - before

    def _potential(self, observation: Batch, shape: torch.Size) -> Tensor:
        given = {name: value for name, value in observation.items() if isinstance(value, Tensor)}
        flat = {name: value.flatten(0, len(shape) - 1) for name, value in given.items()}
        found = torch.as_tensor(self.potential(flat)).float()
        if found.shape != (shape.numel(),):
            raise ComponentError(
                f"the potential gives the shape {tuple(found.shape)} for {shape.numel()} rows", remedy="Give (rows,)."
            )
        return found.view(shape)


def _curiosity(learner: nn.Module) -> Curiosity:
    found = learner.get_submodule("curiosity")
    assert isinstance(found, Curiosity)
    return found


def _valid(batch: Batch) -> Tensor:
    """Which observations of an update count: (rows,) or (rows, time)."""
    valid = batch.get("valid")
    if isinstance(valid, Tensor):
        return valid
    return torch.ones(len(tensor(batch, "action")), dtype=torch.bool, device=tensor(batch, "action").device)


class LinearPotential:
    """phi(s) = w . s + v . s^2 + b: observations {name: (rows, ...)} to (rows,)."""

    def __init__(self, options: LinearPotentialOptions) -> None:
        # Key, part, weights and power of each.
        self.terms = [
            (f"{key}.{name}", name, torch.tensor(values), power)
            for power, key in enumerate(("weights", "squares"), 1)
            for name, values in getattr(options, key).items()
        ]
        self.bias = options.bias

    def __call__(self, observation: Mapping[str, Tensor]) -> Tensor:
        total = torch.tensor(self.bias)
        for key, name, weights, power in self.terms:
            where = f"objective.potential.{key}"
            if name not in observation:
                raise ComponentError(f"observations have no part {name!r}", where=where)
            value = observation[name].flatten(1).float()
            if value.shape[1] != len(weights):
                raise ComponentError(f"{len(weights)} weights for {value.shape[1]} numbers", where=where)
            total = total + value**power @ weights.to(value)
        return total
