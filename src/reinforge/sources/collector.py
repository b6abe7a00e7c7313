"""Steps environments with the newest policy, and keeps where they are."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.contracts import State
from reinforge.core.seeds import derive
from reinforge.environments.observations import Array, Observation, copied, tensors
from reinforge.environments.options import RewardOptions
from reinforge.environments.processes import ProcessEnvironments
from reinforge.environments.rewards import RewardScaling
from reinforge.environments.vector import Environments, Transition
from reinforge.errors import EnvironmentFault
from reinforge.models.policy import Policy
from reinforge.models.quick import Quick
from reinforge.sources.options import EpsilonOptions

_RECENT = 100
# One over the deviation of what hardly changes.
_CONSTANT = 1e3


class Collector:
    """Vector environments, the observation each waits at, the memory of the policy in each, and a generator of its own.

    `steps` counts real transitions. Returns and lengths of the last 100 finished episodes are in `recent`, of the true
    rewards; what `step` gives has them as `rewards` says.
    """

    def __init__(self, environments: Environments, seed: int, rewards: RewardOptions = RewardOptions()) -> None:  # noqa: B008
        self.environments = environments
        self.rewards = RewardScaling(rewards, environments.count)
        self.count, self._seed = environments.count, seed
        self.generator = np.random.default_rng(derive(seed, "actions"))
        self.steps = 0
        self.broken = False
        self.observation: Observation = environments.reset()
        self.start: Array = np.ones(self.count, dtype=np.bool_)
        self.memory: dict[str, Tensor] = {}
        self._return = np.zeros(self.count)
        self._length = np.zeros(self.count, dtype=np.int64)
        self.recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        # The actions of a step that was begun and not finished, and what came of it where that was waited for.
        self.begun: Array | None = None
        self._arrived: Transition | None = None
        self._fault: EnvironmentFault | None = None

    @torch.no_grad()
    def outputs(self, policy: Policy) -> dict[str, Tensor]:
        """What the policy says of the present observations, carrying its memory on."""
        device = policy.low.device
        inputs = tensors(self.observation, device)
        if not self.memory and policy.remembers:
            self.memory = _tensors(policy.initial_state(self.count))
        if self.memory:
            inputs["start"] = torch.from_numpy(self.start).to(device)
        if policy.parameter_noise:
            drawn = self.generator.standard_normal((self.count, policy.parameter_noise), np.float32)
            inputs["noise"] = torch.from_numpy(drawn).to(device)
        outputs, state = policy.act(inputs, self.memory or None)
        if policy.remembers:
            self.memory = _tensors(state)
        return outputs

    def greedy(self, policy: Policy, epsilon: float) -> Array:
        """The best action, or with probability `epsilon`, drawn for each environment by itself, any: int64 (n,)."""
        chosen = self.generator.random(self.count) < epsilon
        action = self._any(policy)
        if policy.frames > 1 or not chosen.all():
            best = self.outputs(policy)["action"].argmax(-1).cpu().numpy()
            np.copyto(action, best, where=~chosen)
        return action

    def sample(self, policy: Policy, noise: Tensor | None = None, quick: Quick | None = None) -> Array:
        """Actions in learner space, drawn from the policy, with noise (n, size) where it was drawn before; or by what
        `policy.quick` gave since its weights last changed."""
        if noise is None:
            noise = policy.noise(self.generator, self.count)
        if quick is not None:
            return quick(self.observation, noise.numpy())
        with torch.no_grad():
            action: Array = policy.sample(self.outputs(policy), noise).cpu().numpy()
        return action

    def uniform(self, policy: Policy) -> Array:
        """Any action, in learner space."""
        if policy.frames > 1:
            # What it sees now, it will have seen before.
            self.outputs(policy)
        return self._any(policy)

    def _any(self, policy: Policy) -> Array:
        output = policy.output
        if output.form == "discrete":
            return self.generator.integers(output.size, size=self.count)
        if output.form == "multi-discrete":
            return self.generator.integers(output.sizes, size=(self.count, len(output.sizes)))
        return self.generator.uniform(-1, 1, (self.count, policy.output.size)).astype(np.float32)

    def step(self, policy: Policy, action: Array) -> Transition:
        """Take actions given in learner space."""
        try:
            transition = self.environments.step(self._scaled(policy, action))
        except EnvironmentFault:
            # Some copies are a step ahead of others: what is saved now begins new episodes.
            self.broken = True
            raise
        return self._take(transition)

    def begin(self, policy: Policy, action: Array) -> None:
        """Let processes take a step of actions given in learner space, while this one does something else."""
        assert isinstance(self.environments, ProcessEnvironments)
        try:
            self.environments.begin(self._scaled(policy, action))
        except EnvironmentFault:
            self.broken = True
            raise
        self.begun = action

    def finish(self) -> tuple[Array, Transition]:
        """The actions of the step that has begun, in learner space, and what came of them."""
        action, transition = self.begun, self._arrive()
        assert action is not None
        self.begun = self._arrived = None
        return action, self._take(transition)

    def _arrive(self) -> Transition:
        if self._fault is not None:
            raise self._fault
        if self._arrived is None:
            assert isinstance(self.environments, ProcessEnvironments)
            try:
                self._arrived = self.environments.finish()
            except EnvironmentFault as fault:
                # Whoever saves does not tell of it; it is told when the step is needed.
                self._fault, self.broken = fault, True
                raise
        return self._arrived

    def _scaled(self, policy: Policy, action: Array) -> Array:
        if not policy.continuous:
            return action
        with torch.no_grad():
            scaled: Array = policy.scale(torch.from_numpy(action).to(policy.low)).cpu().numpy()
        return scaled

    def _take(self, transition: Transition) -> Transition:
        self.observation, self.start = transition.observation, transition.start
        self.steps += int(np.count_nonzero(transition.valid))
        self._return += np.where(transition.valid, transition.reward, 0.0)
        self._length += transition.valid
        done = transition.terminated | transition.truncated
        if done.any():
            for index in np.flatnonzero(done).tolist():
                self.recent.append((float(self._return[index]), int(self._length[index])))
            self._return[done], self._length[done] = 0, 0
        if self.rewards.active:
            transition = transition._replace(reward=self.rewards(transition.reward, done, transition.valid))
        return transition

    def measures(self) -> dict[str, float]:
        """Of the last 100 episodes: mean return and its quartiles, and mean length. Nothing before the first one."""
        if not self.recent:
            return {}
        returns = sorted(value for value, _ in self.recent)
        quarter = len(returns) // 4
        return {
            "training/return": sum(returns) / len(returns),
            "training/return_low": returns[quarter],
            "training/return_high": returns[-1 - quarter],
            "training/length": sum(length for _, length in self.recent) / len(returns),
        }

    def state_dict(self) -> State:
        """Waits for a step that has begun: what came of it is part of the state."""
        arrived = None
        if self.begun is not None:
            with contextlib.suppress(EnvironmentFault):
                arrived = self._arrive()
        return {
            "begun": None if arrived is None else [self.begun, arrived._asdict()],
            "broken": self.broken,
            "environments": {} if self.broken else self.environments.state_dict(),
            "generator": self.generator.bit_generator.state,
            "steps": self.steps,
            "observation": copied(self.observation),
            "start": self.start.copy(),
            "memory": {name: value.clone() for name, value in self.memory.items()},
            "return": self._return.copy(),
            "length": self._length.copy(),
            "recent": [list(episode) for episode in self.recent],
            "rewards": self.rewards.state_dict(),
        }

    def load_state_dict(self, state: State) -> bool:
        """Whether every environment is where it was; if not, all begin new episodes."""
        if self.begun is not None:
            with contextlib.suppress(EnvironmentFault):
                self._arrive()
        self.begun = self._arrived = self._fault = None
        if not state["broken"]:
            self.environments.load_state_dict(state["environments"])
        self.generator.bit_generator.state = state["generator"]
        self.steps = state["steps"]
        self.observation = {name: np.array(value) for name, value in state["observation"].items()}
        self.start = np.array(state["start"])
        self.memory = {name: value.clone() for name, value in state["memory"].items()}
        self._return, self._length = np.array(state["return"]), np.array(state["length"])
        self.rewards.load_state_dict(state["rewards"])
        self.recent = deque([(value, length) for value, length in state["recent"]], maxlen=_RECENT)
        if self.environments.exact and not state["broken"]:
            if state["begun"] is not None:
                self.begun, arrived = np.array(state["begun"][0]), state["begun"][1]
                self._arrived = Transition(**{name: _arrays(value) for name, value in arrived.items()})
            return True
        # They could not be put back where they were: what was observed there leads nowhere.
        self.environments.reseed(derive(self._seed, "resumed", self.steps))
        self.observation, self.start[:] = self.environments.reset(), True
        self._return[:], self._length[:] = 0, 0
        self.rewards.begin()
        return False


def as_batch(columns: Mapping[str, Any]) -> Batch:
    """Arrays, and dictionaries of them, as tensors that share their memory."""
    return {
        name: as_batch(value) if isinstance(value, Mapping) else torch.as_tensor(value)
        for name, value in columns.items()
    }


def epsilon_at(options: EpsilonOptions, steps: int) -> float:
    """The probability of a random action after so many environment steps."""
    return options.start + (options.end - options.start) * min(steps / options.steps, 1.0)


def moments(observations: Array) -> dict[str, Tensor]:
    """Count, mean and sum of squared differences of one part of observations (n, *shape), for a normaliser."""
    values = observations.astype(np.float64)
    mean = values.mean(0) if len(values) else np.zeros(values.shape[1:])
    return {
        "count": torch.tensor(float(len(values)), dtype=torch.float64),
        "mean": torch.from_numpy(mean),
        "squares": torch.from_numpy(np.square(values - mean).sum(0)),
    }


def moments_of(policy: Policy, observation: Observation) -> dict[str, dict[str, Tensor]]:
    """The moments of every part that the policy normalises: (rows, ...) or (rows, time, ...), for `policy.observe`."""
    found = {}
    for name, normaliser in policy.normalisers.items():
        found[name] = moments(observation[name].reshape(-1, *normaliser.mean.shape))
    return found


def shift(policy: Policy, seen: Mapping[str, Mapping[str, Tensor]]) -> float:
    """How far new observations, given by their moments, lie from those that the policy's normalisers know: the largest
    distance of a mean, in deviations. Below 1 where observations come from one distribution; constants don't count."""
    largest = 0.0
    for name, normaliser in policy.normalisers.items():
        if float(normaliser.count) == 0:
            continue
        moved = ((seen[name]["mean"] - normaliser.mean.cpu()) * normaliser.factor.cpu()).abs()
        moved = moved[normaliser.factor.cpu() < _CONSTANT]
        largest = max(largest, float(moved.max())) if moved.numel() else largest
    return largest


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: np.array(each) for name, each in value.items()}
    return None if value is None else np.array(value)


def _tensors(state: object) -> dict[str, Tensor]:
    return (
        {name: value for name, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    )
