"""Hindsight experience replay: what was achieved, taken for what was desired."""

from __future__ import annotations

import numpy as np

from reinforge.environments.goals import ACHIEVED, DESIRED, Goals
from reinforge.environments.observations import Array, Observation
from reinforge.models.frames import PAST
from reinforge.sources.buffer import TransitionBuffer
from reinforge.sources.options import HindsightOptions


class Hindsight:
    """Replayed rows, of which k in k + 1 get a goal that their own episode achieved, at that step or a later one.

    `future` draws the step uniformly, up to the episode's end or its newest row; `final` takes that. The rewards of all
    summed steps are computed anew for the goal, and their end, where the environment says what ends an episode; then no
    step after it counts. Source: Andrychowicz et al., "Hindsight Experience Replay" (2017), arXiv:1707.01495.
    """

    def __init__(self, options: HindsightOptions, buffer: TransitionBuffer, goals: Goals) -> None:
        self.options, self.buffer, self.goals = options, buffer, goals
        count, length = buffer.count, buffer.length
        # Each row's place among those of its environment, which gives a row at least in every second step.
        self._order = np.full((count, 2 * length // count + 2), -1, np.int64)
        self._position = np.zeros(length, np.int64)
        self._counts = np.zeros(count, np.int64)
        # Episodes by number, modulo more than can be in the ring: the place of the newest row of each.
        self._episode = np.zeros(length, np.int64)
        self._newest = np.zeros(length + count, np.int64)
        self._present = np.zeros(count, np.int64)
        self._episodes = 0

    def add(self, numbers: Array) -> None:
        """Rows that were just added, one of an environment at most."""
        places = numbers % self.buffer.length
        environments = self.buffer.environment(places)
        begins = self.buffer.begins(places)
        self._present[environments[begins]] = self._episodes + np.arange(begins.sum())
        self._episodes += int(begins.sum())
        self._write(places, environments, self._counts[environments], self._present[environments])
        self._counts[environments] += 1

    def rebuild(self) -> None:
        """Take in all that is in a buffer that was restored."""
        self._episodes = 0
        self._counts[:] = 0
        numbers = self.buffer.kept
        environments = self.buffer.environment(numbers % self.buffer.length)
        for environment in range(self.buffer.count):
            places = numbers[environments == environment] % self.buffer.length
            if len(places) == 0:
                continue
            episodes = self._episodes - 1 + np.cumsum(self.buffer.begins(places))
            self._write(places, np.full(len(places), environment), np.arange(len(places)), episodes)
            self._counts[environment], self._present[environment] = len(places), episodes[-1]
            self._episodes = int(episodes[-1]) + 1

    def _write(self, places: Array, environments: Array, positions: Array, episodes: Array) -> None:
        self._order[environments, positions % self._order.shape[1]] = places
        self._position[places], self._episode[places] = positions, episodes
        self._newest[episodes % len(self._newest)] = positions

    def gather(
        self, numbers: Array, n_step: int, frames: int, generator: np.random.Generator
    ) -> dict[str, Array | Observation]:
        """As `TransitionBuffer.gather`, with other goals for those rows that the generator chooses."""
        buffer = self.buffer
        places, length = buffer.chain(numbers, n_step)
        chosen = np.flatnonzero(generator.random(len(numbers)) < self.options.goals / (self.options.goals + 1))
        goal = self._goals(places[chosen, 0], generator)
        steps, ends = places[chosen], length[chosen]
        paid, terminated = self.goals.judge(buffer.led_to(ACHIEVED, steps.ravel()), np.repeat(goal, n_step, axis=0))
        if terminated is not None:
            terminated = np.logical_and(terminated.reshape(steps.shape), np.arange(n_step) < ends[:, None])
            length[chosen] = ends = np.where(terminated.any(1), terminated.argmax(1) + 1, ends)
        rewards = buffer.reward(places)
        rewards[chosen] = paid.reshape(steps.shape)
        rewards[np.arange(n_step) >= length[:, None]] = 0
        columns = buffer.columns(places, length, frames)
        if terminated is not None:
            ended = columns["terminated"]
            assert not isinstance(ended, dict)
            ended[chosen] = terminated.any(1)
        for when in ("observation", "next_observation"):
            seen = columns[when]
            assert isinstance(seen, dict)
            seen[DESIRED][chosen] = goal
            if frames > 1:
                seen[f"{PAST}{DESIRED}"][chosen] = goal[:, None]
        return columns | {"rewards": rewards}

    def _goals(self, places: Array, generator: np.random.Generator) -> Array:
        """What the episodes of rows at places (m,) achieved by a step of theirs that is not before: (m, ...)."""
        first, newest = self._position[places], self._newest[self._episode[places] % len(self._newest)]
        draws = generator.random(len(places))
        ahead = newest - first
        steps = ahead if self.options.strategy == "final" else (draws * (ahead + 1)).astype(np.int64)
        order = (first + steps) % self._order.shape[1]
        return self.buffer.led_to(ACHIEVED, self._order[self.buffer.environment(places), order])
