"""Off-policy experience: a replay buffer that the newest policy fills."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from reinforge.core.contracts import Clock, Experience, Outcome, Signal, State
from reinforge.core.seeds import derive
from reinforge.environments.build import build
from reinforge.environments.goals import Goals
from reinforge.environments.observations import Array
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ComponentError
from reinforge.models.policy import Policy
from reinforge.sources.buffer import TransitionBuffer
from reinforge.sources.collector import Collector, as_batch, epsilon_at, moments_of, shift
from reinforge.sources.hindsight import Hindsight
from reinforge.sources.options import PrioritiesOptions, ReplayOptions
from reinforge.sources.priorities import SumTree

# Transitions that are compared with all that were seen.
_NEWEST = 256


class ReplaySource:
    """Collects with the newest policy until `updates_per_step` allows a round of updates, then samples their batches.

    An experience has the rows of all its updates, `extra["updates"]` of them, each of `batch` rows: observation,
    action, rewards (rows, n_step), length, next_observation, terminated, and with priorities the weight of each row;
    with hindsight, most of them with a goal that their episode achieved.
    A policy that is not stochastic (action values) explores by epsilon-greedy, drawn for each environment by itself;
    others by their own noise, and at random until learning starts. With `overlap` the next step has begun when an
    experience is handed over.
    """

    sharded = False

    def __init__(self, options: ReplayOptions, *, environment: EnvironmentOptions, seed: int, batch: int) -> None:
        self.options, self.batch = options, batch
        if options.overlap and environment.vectorization != "processes":
            raise ComponentError(
                "only environments in processes take a step while updates run", where="source.overlap",
                remedy="Set data.vectorization: processes, or leave out source.overlap.",
            )  # fmt: skip
        own = derive(seed, "collect")
        self.collector = Collector(build(environment, seed=own), own, environment.reward)
        codec = self.collector.environments.codec
        # Before the buffer takes its room: an environment without goals is refused.
        goals = Goals(environment) if options.hindsight else None
        self.exact = self.collector.environments.exact
        self.buffer = TransitionBuffer(options.capacity, codec, self.collector.count)
        self.priorities = Priorities(options.priorities, self.buffer) if options.priorities else None
        self.hindsight = Hindsight(options.hindsight, self.buffer, goals) if options.hindsight and goals else None
        self.generator = np.random.default_rng(derive(seed, "replay"))
        self._policy: Policy | None = None
        self._allowance = 0.0

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """Act with this learner's model from now on."""
        model = learner.model
        if not isinstance(model, Policy):
            raise ComponentError(f"a {type(model).__name__} can't act", remedy="Use a policy as model, q-network say.")
        self._policy = model

    def next(self, clock: Clock) -> Experience | Signal:
        policy = self._policy
        if policy is None:
            raise ComponentError("no policy was published before the first experience")
        steps = self.collector.steps
        self._collect(policy)
        rows = self.batch * self.options.updates_per_round
        weight: dict[str, Array] = {}
        if self.priorities is None:
            numbers = self.generator.integers(self.buffer.oldest, self.buffer.total, size=rows)
        else:
            numbers, weight["weight"] = self.priorities.sample(rows, self.generator, self.collector.steps)
        if self.hindsight is None:
            columns = self.buffer.gather(numbers, self.options.n_step, policy.frames)
        else:
            columns = self.hindsight.gather(numbers, self.options.n_step, policy.frames, self.generator)
        if self.options.overlap:
            self.collector.begin(policy, self._action(policy))
        return Experience(
            as_batch(columns | weight),
            samples=rows,
            steps=self.collector.steps - steps,
            extra={"updates": torch.tensor(self.options.updates_per_round)},
        )

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Take in the errors of the update before this one."""
        if self.priorities is not None:
            self.priorities.feedback(outcome)

    def _collect(self, policy: Policy) -> None:
        options, collector = self.options, self.collector
        before = self.buffer.total
        while self._allowance < options.updates_per_round or collector.steps < options.learning_starts:
            observation = collector.observation
            if collector.begun is not None:
                action, transition = collector.finish()
            else:
                action = self._action(policy)
                transition = collector.step(policy, action)
            warm = collector.steps <= options.learning_starts
            numbers = self.buffer.add(observation, action, transition)
            if self.priorities is not None:
                self.priorities.add(numbers)
            if self.hindsight is not None:
                self.hindsight.add(numbers)
            if not warm:
                self._allowance += len(numbers) * options.updates_per_step
        self._allowance -= options.updates_per_round
        if policy.normalises and self.buffer.total > before:
            policy.observe(moments_of(policy, self.buffer.newest(self.buffer.total - before)))

    def _action(self, policy: Policy) -> Array:
        if not policy.stochastic:
            return self.collector.greedy(policy, epsilon_at(self.options.epsilon, self.collector.steps))
        if self.collector.steps < self.options.learning_starts:
            return self.collector.uniform(policy)
        return self.collector.sample(policy)

    def measures(self) -> dict[str, float]:
        """What a line of the log says of the latest episodes, exploration and normalisers."""
        found, policy = self.collector.measures(), self._policy
        if policy is not None and not policy.stochastic:
            found["training/epsilon"] = epsilon_at(self.options.epsilon, self.collector.steps)
        if policy is not None and policy.normalises and len(self.buffer):
            found["training/shift"] = shift(policy, moments_of(policy, self.buffer.newest(_NEWEST)))
        return found

    def state_dict(self) -> State:
        return {
            "collector": self.collector.state_dict(),
            "buffer": self.buffer.state_dict(),
            "priorities": self.priorities.state_dict() if self.priorities else None,
            "generator": self.generator.bit_generator.state,
            "allowance": self._allowance,
        }

    def load_state_dict(self, state: State) -> None:
        there = self.collector.load_state_dict(state["collector"])
        self.buffer.load_state_dict(state["buffer"])
        if not there:
            self.buffer.cut()
        if self.hindsight is not None:
            self.hindsight.rebuild()
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        self.generator.bit_generator.state = state["generator"]
        self._allowance = state["allowance"]


class Priorities:
    """Which transitions to sample: p_i^alpha, with weights (N P(i))^-beta over their batch's greatest.

    New transitions get the highest priority so far. Errors of an update are applied one update later, always, so that
    nothing waits for the device. Source: Schaul et al., "Prioritized Experience Replay" (2016).
    """

    def __init__(self, options: PrioritiesOptions, buffer: TransitionBuffer) -> None:
        self.options, self.buffer = options, buffer
        self.tree = SumTree(buffer.length)
        self.highest = 1.0
        self._sampled = np.empty(0, np.int64)
        self._pending: tuple[Array, torch.Tensor] | None = None

    def add(self, numbers: Array) -> None:
        """Transitions that were just added; what they pushed out can't be drawn any more."""
        self.tree.set(numbers % self.buffer.length, self.highest**self.options.alpha)
        dead = np.arange(max(self.buffer.oldest - len(numbers), 0), self.buffer.oldest)
        self.tree.set(dead % self.buffer.length, 0.0)

    def sample(self, rows: int, generator: np.random.Generator, steps: int) -> tuple[Array, Array]:
        """Numbers int64 (rows,), one from each of `rows` equal parts of the mass, and weights float32 (rows,)."""
        total = self.tree.total
        places = self.tree.find((np.arange(rows) + generator.random(rows)) * (total / rows))
        beta = self.options.beta + (1 - self.options.beta) * min(steps / self.options.beta_steps, 1.0)
        weight = (len(self.buffer) * self.tree.leaves[places] / total) ** -beta
        ages = (self.buffer.total - 1 - places) % self.buffer.length
        self._sampled = self.buffer.total - 1 - ages
        return self._sampled, (weight / weight.max()).astype(np.float32)

    def feedback(self, outcome: Outcome) -> None:
        """Apply the errors that came before, and keep these ("td", (rows,)) for the next time."""
        pending, self._pending = self._pending, None
        if not outcome.skipped:
            self._pending = (self._sampled, outcome.items["td"])
        if pending is None:
            return
        numbers, errors = pending
        alive = numbers >= self.buffer.oldest
        priority = errors.abs().cpu().numpy().astype(np.float64) + self.options.epsilon
        # One infinite error, which Huber's gradient does not show, would spoil every sum of the tree for good.
        alive &= np.isfinite(priority)
        numbers, priority = numbers[alive], priority[alive]
        if len(priority):
            self.highest = max(self.highest, float(priority.max()))
            self.tree.set(numbers % self.buffer.length, priority**self.options.alpha)

    def state_dict(self) -> State:
        return {
            "leaves": self.tree.leaves.copy(),
            "highest": self.highest,
            "sampled": self._sampled.copy(),
            "pending": None if self._pending is None else [self._pending[0].copy(), self._pending[1].clone()],
        }

    def load_state_dict(self, state: State) -> None:
        self.tree.load(state["leaves"])
        self.highest = state["highest"]
        self._sampled = np.array(state["sampled"])
        pending = state["pending"]
        self._pending = None if pending is None else (np.array(pending[0]), pending[1])
