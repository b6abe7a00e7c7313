"""Any single environment, n copies stepped in turn, each episode from its own derived seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from reinforge.core.contracts import State
from reinforge.core.seeds import derive
from reinforge.environments.observations import Array, Observation, content, copied, joined, put
from reinforge.environments.options import ImageOptions
from reinforge.environments.spaces import Codec
from reinforge.environments.vector import Transition, succeeded
from reinforge.errors import CheckpointError, EnvironmentFault
from reinforge.schema.signature import Signature

# Steps from which to tell whether episodes follow from their seeds.
_PROBED = 3
REMEDY = "Let the environment draw everything from self.np_random, seeded by super().reset(seed=seed)."


class SynchronousEnvironments:
    """n copies of a Gymnasium environment, begun anew in the step that ends an episode.

    Episode e of copy i resets with the seed derived from (seed, i, e), so an unfinished episode is stated by its seed
    and its actions: they are played again on loading and compared by a digest of every observation and reward. An
    environment that ignores its seed is not `exact`: after loading, its episodes begin anew. `first` is the number of
    the first copy, where these are some of more.
    """

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        count: int,
        seed: int,
        where: str,
        only: Sequence[str] | None = None,
        images: ImageOptions = ImageOptions(),  # noqa: B008
        first: int = 0,
    ) -> None:
        self.count = count
        self._where, self._seed, self._first = where, seed, first
        self._environments: Sequence[gym.Env[Any, Any]] = [make() for _ in range(count)]
        one = self._environments[0]
        self.codec = Codec(one.observation_space, one.action_space, where, only, images)
        self._episodes = np.full(count, -1, dtype=np.int64)
        self._actions: list[list[Array]] = [[] for _ in range(count)]
        self._digests = [hashlib.blake2b(digest_size=16) for _ in range(count)]
        self._everything = np.ones(count, dtype=np.bool_)
        self.exact = self._probe() == self._probe()

    @property
    def signature(self) -> Signature:
        return self.codec.signature

    def reseed(self, seed: int) -> None:
        self._seed = seed

    def reset(self) -> Observation:
        return joined([self._begin(index, episode=0) for index in range(self.count)])

    def step(self, action: Array) -> Transition:
        actions = self.codec.actions(action)
        results = [self._advance(index, actions[index]) for index in range(self.count)]
        observation = self._observations([result[0] for result in results])
        reward = self._rewards([result[1] for result in results])
        terminated = self.codec.flags([result[2] for result in results], self.count, "terminated", "in step")
        truncated = (
            self.codec.flags([result[3] for result in results], self.count, "truncated", "in step") & ~terminated
        )
        for index in range(self.count):
            self._digests[index].update(content(observation, index) + reward[index].tobytes())
        done = terminated | truncated
        final = observation
        if done.any():
            observation = copied(final)
            for index in np.flatnonzero(done).tolist():
                put(observation, [index], self._begin(index, int(self._episodes[index]) + 1))
        success = succeeded([result[4] for result in results])
        return Transition(observation, reward, terminated, truncated, final, self._everything, done, success)

    def state_dict(self) -> State:
        """Per copy: its episode, the actions taken in it, and the digest of what came back."""
        return {
            "seed": self._seed,
            "episodes": self._episodes.copy(),
            "actions": [np.array(taken) for taken in self._actions],
            "digests": [digest.hexdigest() for digest in self._digests],
        }

    def load_state_dict(self, state: State) -> None:
        """Play every unfinished episode again. Raises EnvironmentFault where it does not come out as before."""
        if len(state["episodes"]) != self.count:
            raise CheckpointError(f"it holds {len(state['episodes'])} environments, not {self.count}")
        self._seed = state["seed"]
        for index, episode in enumerate(np.asarray(state["episodes"]).tolist()):
            self._begin(index, episode)
            if not self.exact:
                continue
            for action in np.asarray(state["actions"][index]):
                observation, reward, *_ = self._advance(index, action)
                checked = content(self._observation(observation, index), 0) + self._reward(reward, index).tobytes()
                self._digests[index].update(checked)
            if self._digests[index].hexdigest() != state["digests"][index]:
                raise EnvironmentFault(
                    f"copy {self._first + index} played the same seed and actions again and came out differently",
                    where=self._where,
                    remedy=REMEDY,
                )

    def close(self) -> None:
        for environment in self._environments:
            environment.close()

    def _probe(self) -> str:
        """A digest of the first steps of an episode; as far as they go, for a fault belongs where it is met."""
        self._begin(0, episode=0)
        learner = np.zeros((1, *self.codec.action_shape), self.codec.action_dtype)
        try:
            for _ in range(_PROBED):
                observation, reward, terminated, truncated, _ = self._advance(0, self.codec.actions(learner)[0])
                seen = content(self._observation(observation, 0), 0) + self._reward(reward, 0).tobytes()
                self._digests[0].update(seen)
                if terminated or truncated:
                    break
        except EnvironmentFault:
            pass
        return self._digests[0].hexdigest()

    def _begin(self, index: int, episode: int) -> Observation:
        self._episodes[index] = episode
        self._actions[index] = []
        try:
            observation, _ = self._environments[index].reset(
                seed=derive(self._seed, self._first + index, episode) % 2**32
            )
        except Exception as error:  # a user's environment may raise anything
            raise self.codec.raised(error, self._moment(index)) from error
        checked = self._observation(observation, index)
        self._digests[index] = hashlib.blake2b(content(checked, 0), digest_size=16)
        return checked

    def _advance(self, index: int, action: Array) -> tuple[object, object, object, object, object]:
        self._actions[index].append(action)
        try:
            observation, reward, terminated, truncated, info = self._environments[index].step(action)
        except Exception as error:  # a user's environment may raise anything
            raise self.codec.raised(error, self._moment(index)) from error
        return observation, reward, terminated, truncated, info

    def _observations(self, values: list[object]) -> Observation:
        # All at once is several times faster; one by one only to say which copy is at fault.
        try:
            return self.codec.gathered(values, "in step")
        except (ValueError, EnvironmentFault):
            return joined([self._observation(value, index) for index, value in enumerate(values)])

    def _rewards(self, values: list[object]) -> Array:
        try:
            return self.codec.rewards(values, self.count, "in step")
        except EnvironmentFault:
            return np.stack([self._reward(value, index) for index, value in enumerate(values)])

    def _observation(self, value: object, index: int) -> Observation:
        return self.codec.gathered([value], self._moment(index))

    def _reward(self, value: object, index: int) -> Array:
        return self.codec.rewards([value], 1, self._moment(index))[0]  # type: ignore[no-any-return]

    def _moment(self, index: int) -> str:
        taken = len(self._actions[index])
        place = f"in step {taken}" if taken else "in reset"
        return f"{place} of episode {int(self._episodes[index])}, copy {self._first + index}"
