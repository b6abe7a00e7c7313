"""Proximal policy optimisation, with or without a memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core import batch as batches
from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Clock, Experience, Loss, Number, Numbers, Outcome, Pull, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.actor_critic import ActorCritic
from reinforge.objectives import by_hand
from reinforge.objectives.by_hand import Rows
from reinforge.objectives.options import PPOOptions
from reinforge.objectives.returns import at, generalised_advantages, parts, picked, tensor
from reinforge.objectives.surrogate import surrogate
from reinforge.schema.signature import Signature


class PPOLearner(nn.Module):
    """The actor-critic, and nothing beside it."""

    def __init__(self, model: ActorCritic) -> None:
        super().__init__()
        self.model = model


class PPO:
    """The clipped surrogate, a value loss and an entropy bonus, over several epochs (Schulman et al., 2017).

    A row is a sequence. Old log-probs come from the training forward, so the first ratio is 1. Advantages are
    normalised over each update, across microbatches and ranks; not where it has one step only.
    """

    # The epsilon of the original implementation: with 1e-8 the first steps of a value that is nearly right are large.
    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam", "eps": 1e-5}

    def __init__(self, options: PPOOptions, signature: Signature) -> None:
        self.options = options
        self._weights = {
            "policy": 1.0, "value": options.value_weight, "entropy": -options.entropy_weight, "kl": 0.0, "clipped": 0.0,
            "explained": 0.0,
        }  # fmt: skip
        # Of the batch that was seen last: without minibatches every epoch brings it again.
        self._counted: tuple[Batch, dict[str, Tensor]] | None = None
        self._known: tuple[Batch, tuple[float, ...], Rows] | None = None

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, ActorCritic):
            raise ComponentError(f"PPO can't train a {type(model).__name__}", remedy="Use the model actor-critic.")
        return PPOLearner(model)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Old log-probs, values and advantages of a rollout with a row per environment; rows become sequences."""
        assert isinstance(learner, PPOLearner)
        model, rollout = learner.model, experience.batch
        length = int(experience.extra["sequence"])
        memory = _memory(rollout)
        observation, start = parts(rollout, "observation"), tensor(rollout, "start")
        time = start.shape[1]
        value, log_prob, memories = [], [], []
        state = memory
        for begin in range(0, time, length if memory is not None else time):
            stretch = slice(begin, begin + length) if memory is not None else slice(None)
            if state is not None:
                memories.append({name: tensor(state, name).unsqueeze(1) for name in state})
            seen = {**at(observation, stretch), "start": start[:, stretch]}
            outputs, state = (_traced(model, observation), None) if model.traceable else model(seen, state)
            value.append(outputs["value"])
            log_prob.append(model.log_prob(outputs, tensor(rollout, "action")[:, stretch]))
        values = torch.cat(value, 1)
        advantage = generalised_advantages(
            tensor(rollout, "reward"),
            values,
            _next_values(model, rollout, values, memory),
            tensor(rollout, "terminated"),
            tensor(rollout, "truncated"),
            tensor(rollout, "valid"),
            self.options.gamma,
            self.options.gae_lambda,
        )
        columns: dict[str, Leaf | Batch] = {
            "observation": observation,
            "start": start,
            "valid": tensor(rollout, "valid"),
            "action": tensor(rollout, "action"),
            "log_prob": torch.cat(log_prob, 1),
            "advantage": advantage,
            "return": advantage + values,
            "explained": _explained(advantage, values, tensor(rollout, "valid")).expand_as(values),
        }
        rows = _sequences(columns, length)
        if memories:
            # (n, sequences, width) to one row per sequence, in the order of the columns above.
            names = memories[0]
            rows["memory"] = {name: torch.cat([tensor(m, name) for m in memories], 1).flatten(0, 1) for name in names}
        return dataclasses.replace(experience, batch=rows, extra={})

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """Epochs of shuffled minibatches of whole sequences; ends early where the policy has moved too far."""
        options, rows = self.options, batches.rows(experience.batch)
        clip = options.clip
        if options.clip_horizon is not None:
            clip *= max(1.0 - clock.steps / options.clip_horizon, 0.0)
        batch = {**experience.batch, "clip": torch.full((rows,), clip)}
        for _ in range(options.epochs):
            if options.minibatches == 1:
                # All at once: in whatever order, it is the same sum.
                outcome = yield batch
                if options.kl_limit is not None and float(outcome.means["ppo/kl"]) > options.kl_limit:
                    return
                continue
            order = torch.randperm(rows, generator=generator)
            for chosen in order.tensor_split(min(options.minibatches, rows)):
                outcome = yield batches.select(batch, chosen)
                if options.kl_limit is not None and float(outcome.means["ppo/kl"]) > options.kl_limit:
                    return

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, PPOLearner)
        by_hand = self._by_hand if learner.model.traceable else None
        return [Step("ppo", list(learner.model.parameters()), self._loss, by_hand=by_hand)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Valid steps, and the sum and sum of squares of their advantages (double, since their difference is small)."""
        if self._counted is None or self._counted[0] is not batch:
            valid = tensor(batch, "valid")
            advantage = tensor(batch, "advantage").double() * valid
            counts = dict.fromkeys(("policy", "value", "entropy", "kl", "clipped", "explained"), valid.sum())
            counts |= {"advantage_sum": advantage.sum(), "advantage_squares": advantage.square().sum()}
            self._counted = batch, counts
        return dict(self._counted[1])

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing follows an update."""

    def _loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, PPOLearner)
        model, action = learner.model, tensor(batch, "action")
        outputs, _ = model({**parts(batch, "observation"), "start": batch["start"]}, _memory(batch))
        found = surrogate(
            model.log_prob(outputs, action), outputs["value"], old_log_prob=tensor(batch, "log_prob"),
            advantage=self._advantage(tensor(batch, "advantage"), counts), goal=tensor(batch, "return"),
            clip=tensor(batch, "clip").unsqueeze(-1), old_value=tensor(batch, "return") - tensor(batch, "advantage"),
            value_clip=self.options.value_clip,
        )  # fmt: skip
        each = torch.stack([found.policy, found.value, model.entropy(outputs), found.kl, found.clipped,
                            tensor(batch, "explained")])  # fmt: skip
        sums = (each * tensor(batch, "valid")).flatten(1).sum(1).unbind()
        return Loss({name: Term(of, weight) for of, (name, weight) in zip(sums, self._weights.items())})

    def _by_hand(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> tuple[Numbers, Pull]:
        assert isinstance(learner, PPOLearner)
        model, rows = learner.model, self._rows(learner.model, batch, counts)
        outputs, pull = model.trace(rows.features)
        if model.continuous:
            log_prob, entropy, slopes = by_hand.normal(outputs["mean"], outputs["log_std"], rows)
        else:
            log_prob, entropy, slopes = by_hand.categorical(outputs["action"], rows)
        found = by_hand.surrogate(log_prob, outputs["value"].numpy(), rows, self.options.value_clip)
        spread = float(entropy @ rows.weight)
        sums = found.policy, found.value, spread, found.kl, found.clipped, rows.explained

        def back(scales: Mapping[str, float]) -> None:
            value, entropy = scales.get("value"), scales.get("entropy")
            chosen, judged = found.slopes(scales["policy"], value)
            scores, *widths = slopes(chosen, None if entropy is None else rows.weight * entropy)
            pull(scores, None if judged is None else torch.from_numpy(judged), widths[0] if widths else None)

        return Numbers({name: Number(of, weight) for of, (name, weight) in zip(sums, self._weights.items())}), back

    def _rows(self, model: ActorCritic, batch: Batch, counts: Mapping[str, Tensor]) -> Rows:
        """The same for each update of one batch, which comes back every epoch where it is not cut."""
        measured = tuple(counts[name].item() for name in ("policy", "advantage_sum", "advantage_squares"))
        if self._known is None or self._known[0] is not batch or self._known[1] != measured:
            self._known = batch, measured, self._rows_of(model, batch, counts)
        return self._known[2]

    def _rows_of(self, model: ActorCritic, batch: Batch, counts: Mapping[str, Tensor]) -> Rows:
        names = ("advantage", "return", "action", "valid", "log_prob", "explained")
        advantage, goal, action, valid, log_prob, explained = (tensor(batch, name).flatten(0, 1) for name in names)
        places = chosen = None
        if not model.continuous:
            chosen = np.ascontiguousarray(functional.one_hot(action, model.output.size).float().t().numpy())
            places = (action * len(action) + torch.arange(len(action))).numpy()
        return Rows(
            features=model.perception(batches.apply(parts(batch, "observation"), _steps)),
            action=action,
            old_log_prob=log_prob.numpy(),
            old_value=(goal - advantage).numpy(),
            advantage=self._advantage(advantage, counts).numpy(),
            goal=goal.numpy(),
            valid=valid.numpy(),
            weight=valid.float().numpy(),
            clip=tensor(batch, "clip")[0].item(),
            explained=float((explained * valid).sum()),
            places=places,
            chosen=chosen,
        )

    def _advantage(self, advantage: Tensor, counts: Mapping[str, Tensor]) -> Tensor:
        return _normalised(advantage, counts) if self.options.normalise_advantages else advantage


def _normalised(advantage: Tensor, counts: Mapping[str, Tensor]) -> Tensor:
    total, squares = counts["advantage_sum"], counts["advantage_squares"]
    n = counts["policy"].double()
    average = total / n.clamp(min=1)
    variance = (squares - n * average.square()).clamp(min=0) / (n - 1).clamp(min=1)
    normalised = (advantage - average.to(advantage.dtype)) / (variance.sqrt().to(advantage.dtype) + 1e-8)
    return torch.where(n > 1, normalised, advantage)


def _explained(advantage: Tensor, values: Tensor, valid: Tensor) -> Tensor:
    """The part of the returns' variance that the values of a rollout explain, 0-d: below 0 where the returns' mean
    alone would be nearer; 0 where all returns are the same."""
    errors, returns = advantage[valid].double(), (advantage + values)[valid].double()
    variance = (returns - returns.mean()).square().mean()
    explained = 1 - errors.square().mean() / variance.clamp(min=1e-12)
    return torch.where(variance > 1e-12, explained, 0.0).to(values.dtype)


def _steps(column: Leaf) -> Leaf:
    """(rows, time, ...) as (n, ...)."""
    assert isinstance(column, Tensor)
    return column.flatten(0, 1)


def _traced(model: ActorCritic, observation: Batch) -> dict[str, Tensor]:
    """What the model says of observations (n, time, ...), as the updates by hand compute it."""
    leading = next(iter(batches.leaves(observation)))
    assert isinstance(leading, Tensor)
    outputs, _ = model.trace(model.perception(batches.apply(observation, _steps)))
    return {name: value.reshape(*leading.shape[:2], *value.shape[1:]) for name, value in outputs.items()}


def _next_values(model: ActorCritic, rollout: Batch, values: Tensor, memory: Batch | None) -> Tensor:
    """The value of each step's true next observation: (n, time). The next row's value but where an episode was cut, or
    the rollout ends; nothing is needed after a terminal state."""
    final, start = parts(rollout, "final_observation"), tensor(rollout, "start")
    cut = tensor(rollout, "truncated").clone()
    cut[:, -1] = True
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    if memory is None:
        following[cut] = model(picked(final, cut))[0]["value"]
        return following
    observation = parts(rollout, "observation")
    state: Batch | None = memory
    for time in range(values.shape[1]):
        _, state = model({**at(observation, time), "start": start[:, time]}, state)
        if cut[:, time].any():
            ended = cut[:, time]
            after, _ = model(at(final, time), state)
            following[ended, time] = after["value"][ended]
    return following


def _sequences(columns: Batch, length: int) -> dict[str, Leaf | Batch]:
    """Columns (n, time, ...) as rows of `length` steps each."""

    def cut(column: Leaf) -> Leaf:
        assert isinstance(column, Tensor)
        return column.reshape(-1, length, *column.shape[2:])

    return batches.apply(columns, cut)


def _memory(batch: Batch) -> Batch | None:
    memory = batch.get("memory")
    return memory if isinstance(memory, Mapping) else None
