"""The grid world against a plain one, written cell by cell, and its oracle against a plain search."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.core.tree import pack, unpack
from reinforge.environments.build import build, signature
from reinforge.environments.catalogue import register_own
from reinforge.environments.grid_world import GridWorld, GridWorldVector
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.vector import NativeEnvironments
from reinforge.errors import EnvironmentFault

MOVES = {0: (-1, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1)}


class Plain:
    """One grid in sets of cells, read off the planes that an episode begins with."""

    def __init__(self, planes: Any, limit: int, cost: float, view: int | None) -> None:
        self.shape, self.limit, self.cost, self.view = planes.shape[1:], limit, cost, view
        self.walls, self.goals, self.keys, agents = ({tuple(c) for c in np.argwhere(p).tolist()} for p in planes)
        (self.agent,) = agents
        self.time = 0

    def step(self, action: int) -> tuple[Any, float, bool, bool]:
        there = self.moved(self.agent, action)
        self.agent, self.time = there, self.time + 1
        self.keys.discard(there)
        terminated = there in self.goals and not self.keys
        return self.observe(), float(terminated) - self.cost, terminated, not terminated and self.time >= self.limit

    def moved(self, cell: tuple[int, int], action: int) -> tuple[int, int]:
        there = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
        inside = 0 <= there[0] < self.shape[0] and 0 <= there[1] < self.shape[1]
        return there if inside and there not in self.walls else cell

    def observe(self) -> Any:
        whole = np.zeros((4, *self.shape), np.float32)
        for plane, cells in enumerate((self.walls, self.goals, self.keys, {self.agent})):
            for cell in cells:
                whole[plane, cell[0], cell[1]] = 1
        if self.view is None:
            return whole
        seen, reach = np.zeros((4, self.view, self.view), np.float32), self.view // 2
        for i in range(self.view):
            for j in range(self.view):
                y, x = self.agent[0] + i - reach, self.agent[1] + j - reach
                if 0 <= y < self.shape[0] and 0 <= x < self.shape[1]:
                    seen[:, i, j] = whole[:, y, x]
                else:
                    seen[0, i, j] = 1
        return seen

    def distance(self) -> int | None:
        """Breadth first over (cell, keys left)."""
        first = self.agent, frozenset(self.keys)
        seen, queue = {first}, deque([(first, 0)])
        while queue:
            (cell, keys), steps = queue.popleft()
            for action in MOVES:
                there = self.moved(cell, action)
                left = keys - {there}
                if there != cell and there in self.goals and not left:
                    return steps + 1
                if (there, left) not in seen:
                    seen.add((there, left))
                    queue.append(((there, left), steps + 1))
        return None


worlds = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(2, 7), st.integers(3, 6)), "walls": st.sampled_from([0.0, 0.2, 0.5, 0.95]),
        "goals": st.integers(1, 2), "keys": st.integers(0, 3), "view": st.sampled_from([None, None, 1, 3, 5]),
    }
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(worlds, st.integers(0, 10**6))
def test_it_does_what_a_plain_grid_does(options: dict[str, Any], seed: int) -> None:
    """Observations, rewards, flags, what each episode ended with, and distances, over several episodes of 4 grids."""
    world = GridWorldVector(4, **options, max_episode_steps=15)
    whole = GridWorldVector(4, **{**options, "view": None}, max_episode_steps=15)
    observation, _ = world.reset(seed=seed)
    begun, _ = whole.reset(seed=seed)
    plain = [Plain(planes, 15, 0.01, options["view"]) for planes in begun]
    generator = np.random.default_rng(seed)
    for _ in range(45):
        assert np.array_equal(observation, [one.observe() for one in plain])
        assert world.distances().tolist() == [one.distance() for one in plain]
        actions = generator.integers(4, size=4)
        observation, reward, terminated, truncated, info = world.step(actions)
        begun = whole.step(actions)[0]
        for index, one in enumerate(plain):
            end, paid, *flags = one.step(int(actions[index]))
            assert reward[index] == pytest.approx(paid)
            assert [terminated[index], truncated[index]] == flags
            if any(flags):
                assert info["_final_obs"][index]
                assert np.array_equal(info["final_obs"][index], end)
                plain[index] = Plain(begun[index], 15, 0.01, options["view"])


@settings(max_examples=60, deadline=None)
@given(worlds, st.integers(0, 10**6))
def test_every_grid_can_be_solved_and_has_what_it_should(options: dict[str, Any], seed: int) -> None:
    world = GridWorldVector(32, **{**options, "view": None})
    planes, _ = world.reset(seed=seed)
    assert (world.distances() > 0).all()
    assert (planes[:, 1].sum((1, 2)) == options["goals"]).all()
    assert (planes[:, 2].sum((1, 2)) == options["keys"]).all()
    assert (planes[:, 3].sum((1, 2)) == 1).all()
    assert planes.sum(1).max() <= 1, "two things in one cell"


def test_walls_are_as_dense_as_asked_where_no_way_has_to_be_free() -> None:
    planes, _ = GridWorldVector(400, size=20, walls=0.3).reset(seed=0)
    share = float(planes[:, 0].mean())
    assert 0.25 < share < 0.3


def test_who_follows_the_distance_down_gets_the_best_return() -> None:
    """Tried by playing every action in a copy of the state: 1 - cost * distance, and no more steps than that."""
    world = GridWorldVector(16, size=7, walls=0.4, keys=2, goals=2, max_episode_steps=1000)
    world.reset(seed=5)
    left = world.distances()
    returns, over = np.zeros(16), np.zeros(16, np.bool_)
    best = 1 - 0.01 * left
    for _ in range(int(left.max())):
        action = np.zeros(16, np.int64)
        for index in range(16):
            plain = Plain(_planes(world, index), 1000, 0.01, None)
            if plain.distance() is None or over[index]:
                continue
            options = []
            for move in MOVES:
                one = Plain(_planes(world, index), 1000, 0.01, None)
                ended = one.step(move)[2]
                options.append(0 if ended else (one.distance() or 99))
            action[index] = int(np.argmin(options))
        _, reward, terminated, _, _ = world.step(action)
        returns += np.where(over, 0, reward)
        over |= terminated
    assert over.all()
    np.testing.assert_allclose(returns, best, atol=1e-5)


def _planes(world: GridWorldVector, index: int) -> Any:
    codes = world.codes[index, :-1].reshape(world.height, world.width)
    return np.stack([codes >> plane & 1 for plane in range(4)])


def test_one_level_is_the_same_in_every_episode_and_cells_number_it_for_tables() -> None:
    world = GridWorldVector(3, size=(3, 4), level=7, observe="cell", keys=1, max_episode_steps=5)
    first, _ = world.reset(seed=0)
    assert world.single_observation_space == gym.spaces.Discrete(24)
    assert len(set(first.tolist())) == 1
    seen = set()
    for time in range(200):
        observation, _, terminated, truncated, info = world.step(np.random.default_rng(time).integers(4, size=3))
        for index in np.flatnonzero(terminated | truncated):
            assert observation[index] == first[0]
            seen.add(int(info["final_obs"][index]) >= 12)
        held = world.held[:, 0]
        assert np.array_equal(observation // 12, held)
        assert np.array_equal(observation % 12, world.agent)
    assert seen == {True, False}
    other, _ = GridWorldVector(3, size=(3, 4), level=7, observe="cell", keys=1).reset(seed=99)
    assert np.array_equal(first, other)


def test_seeds_make_grids_and_episodes_differ() -> None:
    def grids(seed: int) -> Any:
        return GridWorldVector(8).reset(seed=seed)[0]

    assert np.array_equal(grids(1), grids(1))
    assert len({grid.tobytes() for grid in [*grids(1), *grids(2)]}) == 16


@pytest.mark.parametrize("options", [{}, {"view": 3, "keys": 2}, {"observe": "cell", "level": 3}], ids=str)
def test_its_state_goes_on_to_the_bit(options: dict[str, Any]) -> None:
    asked = EnvironmentOptions(id="reinforge/GridWorld-v0", count=6, options={"size": 4, **options}, time_limit=7)
    first, second = build(asked, seed=1), build(asked, seed=2)
    assert isinstance(first, NativeEnvironments)
    first.reset()
    assert first.exact
    generator = np.random.default_rng(0)
    actions = generator.integers(4, size=(60, 6))
    for action in actions[:31]:
        first.step(action)
    packed = pack(first.state_dict())
    second.load_state_dict(unpack(packed.skeleton, packed.tensors))
    for action in actions[31:]:
        for one, other in zip(first.step(action), second.step(action), strict=True):
            if isinstance(one, dict):
                one, other = one["observation"], other["observation"]
            assert np.array_equal(one, other)


def test_it_is_gymnasiums_own_kind_of_environment() -> None:
    register_own()
    register_own()
    single = gym.make("reinforge/GridWorld-v0", size=4, render_mode="rgb_array")
    check_env(single.unwrapped, skip_render_check=True)
    first, _ = single.reset(seed=3)
    assert single.unwrapped.distance() > 0
    assert single.render().shape == (96, 96, 3)
    again, _ = single.reset(seed=3)
    assert np.array_equal(first, again)
    follows, _ = single.reset()
    assert not np.array_equal(again, follows)
    steps = 0
    truncated = False
    while not truncated:
        _, _, terminated, truncated, _ = single.step(0)
        assert not terminated or steps < 4
        steps += 1
        if terminated:
            break
    assert steps <= 100
    vector = gym.make_vec("reinforge/GridWorld-v0", num_envs=3, size=4)
    assert isinstance(vector.unwrapped, GridWorldVector)
    assert signature(EnvironmentOptions(id="reinforge/GridWorld-v0")).inputs["observation"].shape == (4, 8, 8)


def test_one_copy_and_many_are_the_same_environment() -> None:
    """Single ones, begun from the same level, pay and end as the vector's."""
    vector, single = GridWorldVector(1, level=4, size=5), GridWorld(level=4, size=5)
    observation, _ = vector.reset(seed=0)
    alone, _ = single.reset(seed=1)
    assert np.array_equal(observation[0], alone)
    for action in np.random.default_rng(1).integers(4, size=60):
        observation, reward, terminated, _, info = vector.step(np.array([action]))
        alone, paid, ended, _, _ = single.step(int(action))
        assert (reward[0], terminated[0]) == (np.float32(paid), ended)
        assert np.array_equal(info["final_obs"][0] if ended else observation[0], alone)
        if ended:
            single.reset(seed=0)


@pytest.mark.parametrize(
    "options",
    [{"size": 1}, {"size": 2, "keys": 3}, {"walls": 1.0}, {"goals": 0}, {"view": 4}, {"observe": "pixels"}],
    ids=str,
)
def test_options_that_can_not_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentFault, match="can't be made"):
        build(EnvironmentOptions(id="reinforge/GridWorld-v0", options=options), seed=0)
