"""A grid of walls, keys and goals, all copies at once: navigation with a known best answer."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from reinforge.environments.observations import Array

# Up, right, down, left.
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)], dtype=np.int64)
# Planes of an observation.
WALL, GOAL, KEY, AGENT = range(4)
_COLOURS = np.array([(60, 60, 66), (64, 160, 92), (214, 168, 60), (66, 110, 200)], dtype=np.uint8)
_FLOOR = np.array((236, 236, 240), dtype=np.uint8)
_TILE = 24
_FORMS = ("planes", "cell")


class GridWorldVector(gym.vector.VectorEnv[Any, Any, Any]):
    """n grids. Actions move up, right, down or left; walls and the edge stop. Once all keys are held, a goal ends the
    episode and pays 1; every step costs `cost`.

    `size`: height and width. `walls`: the part of cells that are walls, but for a way to every key and goal that is
    kept free, so that every grid can be solved. `goals` and `keys`: how many, each elsewhere; any goal will do. `view`:
    an odd number of cells, of which the agent stands in the middle, all that it sees; beyond the edge is wall. `level`:
    the grid of every episode is the same, made from this number; anew in each where None.

    Observes float32 (4, height, width), or (4, view, view): planes of walls, goals, keys that are left, and the agent.
    With `observe` "cell" it is the agent's cell and which keys it holds, one number, for tables of values.
    Its whole state is in arrays and one generator. Episodes begin anew in the step that ends them.
    """

    metadata = {  # noqa: RUF012 - as Gymnasium has it
        "autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"], "render_fps": 8,
    }  # fmt: skip

    def __init__(
        self,
        num_envs: int = 1,
        *,
        size: tuple[int, int] | int = (8, 8),
        walls: float = 0.2,
        goals: int = 1,
        keys: int = 0,
        view: int | None = None,
        level: int | None = None,
        cost: float = 0.01,
        observe: str = "planes",
        max_episode_steps: int = 100,
        render_mode: str | None = None,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if not 0 <= walls < 1 or goals < 1 or keys < 0 or height < 1 or width < 1:
            raise gym.error.Error("walls must be at least 0 and less than 1, goals at least 1, keys at least 0")
        if 1 + goals + keys > height * width:
            raise gym.error.Error(f"{height} x {width} cells have no room for an agent, {goals} goals and {keys} keys")
        if view is not None and (view < 1 or view % 2 == 0):
            raise gym.error.Error("view must be an odd number of cells")
        if observe not in _FORMS:
            raise gym.error.Error(f"observe must be one of {_FORMS}")
        self.num_envs, self.height, self.width = num_envs, height, width
        self.density, self.goal_count, self.key_count = float(walls), goals, keys
        self.view, self.level, self.cost, self.form = view, level, float(cost), observe
        self.max_episode_steps, self.render_mode = max_episode_steps, render_mode
        if observe == "cell":
            space: gym.Space[Any] = gym.spaces.Discrete(height * width * 2**keys)
        else:
            seen = (view, view) if view else (height, width)
            space = gym.spaces.Box(0.0, 1.0, (4, *seen), np.float32)
        self.single_observation_space, self.single_action_space = space, gym.spaces.Discrete(4)
        self.observation_space = batch_space(space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        cells = height * width
        self.following, self.window = _following(height, width), _window(height, width, view or 1)
        self.rows = np.arange(num_envs)
        # What lies in each cell, a bit for each plane; one more cell is all that is beyond the edge.
        self.codes = np.zeros((num_envs, cells + 1), np.uint8)
        # The same as planes, where it is observed whole: kept up with every step, for it is most of the work.
        self.planes = np.zeros((num_envs, 4, height, width), np.float32)
        self.agent = np.zeros(num_envs, np.int64)
        self.goals = np.zeros((num_envs, goals), np.int64)
        self.keys = np.zeros((num_envs, keys), np.int64)
        self.held = np.zeros((num_envs, keys), np.bool_)
        self.time = np.zeros(num_envs, np.int64)
        # Grids made ahead, as many as there are copies at once, and how many of them are used.
        self.made, self.made_marks, self.used = self.codes.copy(), np.zeros((num_envs, 1 + goals + keys), np.int64), 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every grid."""
        if isinstance(seed, list):
            seed = seed[0]
        super().reset(seed=seed)
        self._make()
        self._begin(self.rows)
        return self._observe(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Move everywhere. Where an episode ends, the observation begins the next; info["final_obs"] has its end."""
        rows, codes, agent = self.rows, self.codes, self.agent
        there = self.following[actions, agent]
        there = np.where(codes[rows, there] & 1 << WALL, agent, there)
        codes[rows, agent] ^= 1 << AGENT
        codes[rows, there] |= 1 << AGENT
        if self.whole:
            planes = self.planes.reshape(len(rows), 4, -1)
            planes[rows, AGENT, agent] = 0
            planes[rows, AGENT, there] = 1
        self.agent = there
        self.time += 1
        terminated: Array = (self.goals == there[:, None]).any(1)
        if self.key_count:
            self.held |= self.keys == there[:, None]
            codes[rows, there] &= 0xFF ^ 1 << KEY
            if self.whole:
                self.planes.reshape(len(rows), 4, -1)[rows, KEY, there] = 0
            terminated &= self.held.all(1)
        truncated = (self.time >= self.max_episode_steps) & ~terminated
        reward = terminated.astype(np.float32) - np.float32(self.cost)
        ended, info = np.flatnonzero(terminated | truncated), dict[str, Any]()
        if len(ended):
            final = self._observe(ended)
            self._begin(ended)
        observation = self._observe()
        if len(ended):
            every = np.zeros_like(observation)
            every[ended] = final
            info = {"final_obs": every, "_final_obs": terminated | truncated}
        return observation, reward, terminated, truncated, info

    def distances(self) -> Array:
        """The least number of steps from where every agent stands to the end of its episode, int64 (n,): breadth-first
        search over cells and the keys held, in all grids at once."""
        n, sets, shape = self.num_envs, 2**self.key_count, (self.height, self.width)
        free = (self.codes[:, :-1] & 1 << WALL == 0).reshape(n, 1, *shape)
        bits = 1 << np.arange(self.key_count)
        ends = np.zeros((n, shape[0] * shape[1]), np.bool_)
        np.put_along_axis(ends, self.goals, True, 1)
        frontier = np.zeros((n, sets, shape[0] * shape[1]), np.bool_)
        frontier[self.rows, self.held @ bits, self.agent] = True
        reached, found, steps = frontier.copy(), np.full(n, -1, np.int64), 0
        while frontier.any() and (found < 0).any():
            steps += 1
            here = frontier.reshape(n, sets, *shape)
            spread = np.zeros_like(here)
            spread[:, :, 1:] |= here[:, :, :-1]
            spread[:, :, :-1] |= here[:, :, 1:]
            spread[..., 1:] |= here[..., :-1]
            spread[..., :-1] |= here[..., 1:]
            frontier = (spread & free).reshape(n, sets, -1)
            for index, bit in enumerate(bits.tolist()):
                place = self.keys[:, index]
                for held in range(sets):
                    if not held & bit:
                        frontier[self.rows, held | bit, place] |= frontier[self.rows, held, place]
                        frontier[self.rows, held, place] = False
            frontier &= ~reached
            reached |= frontier
            found[(found < 0) & (frontier[:, -1] & ends).any(1)] = steps
        return found

    def render(self) -> tuple[Array, ...]:
        """A picture of every grid: uint8 (height, width, 3)."""
        codes = self.codes[:, :-1].reshape(self.num_envs, self.height, self.width)
        pictures = np.broadcast_to(_FLOOR, (*codes.shape, 3)).copy()
        for plane, colour in enumerate(_COLOURS):
            pictures[codes & 1 << plane > 0] = colour
        return tuple(np.kron(picture, np.ones((_TILE, _TILE, 1), np.uint8)) for picture in pictures)

    @property
    def whole(self) -> bool:
        """Whether all planes are observed as they are."""
        return self.view is None and self.form == "planes"

    def _begin(self, rows: Array) -> None:
        """The next grids for these copies."""
        while len(rows):
            if self.used == self.num_envs:
                self._make()
            taken = slice(self.used, self.used + len(rows))
            codes, marks = self.made[taken], self.made_marks[taken]
            now, rows = rows[: len(codes)], rows[len(codes) :]
            self.used += len(codes)
            self.codes[now], self.agent[now] = codes, marks[:, 0]
            self.keys[now], self.goals[now] = marks[:, 1 : 1 + self.key_count], marks[:, 1 + self.key_count :]
            self.held[now], self.time[now] = False, 0
            if self.whole:
                self.planes[now] = _planes(codes[:, :-1]).reshape(-1, 4, self.height, self.width)

    def _make(self) -> None:
        """New grids: random walls, then a way with one bend from the agent to each key and goal in turn, kept free."""
        generator = self.np_random if self.level is None else np.random.default_rng(self.level)
        count = self.num_envs if self.level is None else 1
        drawn = generator.random((count, 2, self.height * self.width))
        marks = np.argsort(drawn[:, 1], 1)[:, : self.made_marks.shape[1]]
        y, x = np.divmod(marks, self.width)
        bends = generator.random((count, marks.shape[1] - 1)) < 0.5
        wall = (drawn[:, 0] < self.density).reshape(count, self.height, self.width)
        for index in range(marks.shape[1] - 1):
            wall &= ~_way(y[:, index : index + 2], x[:, index : index + 2], bends[:, index], wall.shape[1:])
        codes = np.full((count, self.made.shape[1]), 1 << WALL, np.uint8)
        codes[:, :-1] = wall.reshape(count, -1).astype(np.uint8) << WALL
        kinds = np.repeat([1 << AGENT, 1 << KEY, 1 << GOAL], [1, self.key_count, self.goal_count]).astype(np.uint8)
        np.put_along_axis(codes, marks, np.broadcast_to(kinds, marks.shape), 1)
        self.made[:], self.made_marks[:], self.used = codes, marks, 0

    def _observe(self, rows: Array | None = None) -> Array:
        """What is seen in these grids, or in all: an array of its own."""
        chosen: Any = slice(None) if rows is None else rows
        if self.form == "cell":
            held = self.held[chosen] @ (1 << np.arange(self.key_count))
            return np.asarray(self.agent[chosen] + held * (self.height * self.width), dtype=np.int64)
        if self.whole:
            return self.planes.copy() if rows is None else self.planes[rows]
        codes = np.take_along_axis(self.codes[chosen], self.window[self.agent[chosen]], 1)
        return _planes(codes).reshape(len(codes), 4, self.view or 1, self.view or 1)


class GridWorld(gym.Env[Any, Any]):
    """One of them, with the same options."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        # Whoever registered it sets the limit around it.
        self.vector = GridWorldVector(1, max_episode_steps=np.iinfo(np.int64).max, **options)
        self.render_mode = render_mode
        self.observation_space, self.action_space = (
            self.vector.single_observation_space,
            self.vector.single_action_space,
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        # Without a seed the next episode follows from the last, as Gymnasium promises.
        observation, _ = self.vector.reset(seed=seed if seed is not None else int(self.np_random.integers(2**31)))
        return self._plain(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move."""
        observation, reward, terminated, _, info = self.vector.step(np.array([action]))
        return self._plain(info.get("final_obs", observation)), float(reward[0]), bool(terminated[0]), False, {}

    def distance(self) -> int:
        """The least number of steps to the end."""
        return int(self.vector.distances()[0])

    def render(self) -> Any:
        """A picture: uint8 (height, width, 3)."""
        return self.vector.render()[0]

    def _plain(self, observation: Array) -> Any:
        return int(observation[0]) if self.vector.form == "cell" else observation[0]


def _planes(codes: Array) -> Array:
    """Codes (n, cells) as float32 (n, 4, cells)."""
    found: Array = ((codes[:, None] >> np.arange(4, dtype=np.uint8)[:, None]) & 1).astype(np.float32)
    return found


def _following(height: int, width: int) -> Array:
    """The cell that each move leads to from each cell, (4, cells): the same one at the edge."""
    y, x = np.divmod(np.arange(height * width), width)
    lines, columns = y + MOVES[:, :1], x + MOVES[:, 1:]
    found: Array = np.clip(lines, 0, height - 1) * width + np.clip(columns, 0, width - 1)
    return found


def _window(height: int, width: int, view: int) -> Array:
    """The cells around each cell, (cells, view * view); one number beyond the last is beyond the edge."""
    y, x = np.divmod(np.arange(height * width), width)
    reach = np.arange(view) - view // 2
    lines, columns = y[:, None, None] + reach[:, None], x[:, None, None] + reach
    inside = (lines >= 0) & (lines < height) & (columns >= 0) & (columns < width)
    return np.where(inside, lines * width + columns, height * width).reshape(height * width, -1)


def _way(y: Array, x: Array, first_down: Array, shape: tuple[int, ...]) -> Array:
    """The cells of ways with one bend between two cells each: y and x (n, 2), bool (n, height, width)."""
    lines, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    low, high = np.minimum(y[:, 0], y[:, 1])[:, None, None], np.maximum(y[:, 0], y[:, 1])[:, None, None]
    left, right = np.minimum(x[:, 0], x[:, 1])[:, None, None], np.maximum(x[:, 0], x[:, 1])[:, None, None]
    # Down the first one's column and along the second one's line, or the other way round.
    column = np.where(first_down, x[:, 0], x[:, 1])[:, None, None]
    line = np.where(first_down, y[:, 1], y[:, 0])[:, None, None]
    down = (lines >= low) & (lines <= high) & (columns == column)
    along = (columns >= left) & (columns <= right) & (lines == line)
    found: Array = down | along
    return found
