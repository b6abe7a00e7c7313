"""Episodes to look at: one environment that shows a picture after every step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from reinforge.environments.build import single
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.synchronous import SynchronousEnvironments

# Without a screen. SDL is what Gymnasium's own environments draw by.
_HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
_QUIET = {"PYGAME_HIDE_SUPPORT_PROMPT": "1"}

# A picture (uint8 (height, width, 3), or a text; None where the environment shows itself), and the reward that came
# with it; None at the beginning of an episode.
Show = Callable[[Any, float | None], None]


class Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Renders after every reset and step, while `on`."""

    def __init__(self, environment: gym.Env[Any, Any], show: Show) -> None:
        super().__init__(environment)
        self.on, self._show = False, show

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        self._take(None)
        return result

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self._take(float(result[1]))
        return result

    def _take(self, reward: float | None) -> None:
        if self.on:
            self._show(None if self.env.render_mode in (None, "human") else self.env.render(), reward)


class Scene(SynchronousEnvironments):
    """One copy of an environment, each of whose frames goes to `show`; nothing is shown while it is made.

    `rate`: frames in a second, where it shows itself in a window. Raises EnvironmentFault where it can't be made or
    drawn. Its episodes come from `seed` like those of any copy.
    """

    def __init__(
        self, options: EnvironmentOptions, show: Show, *, mode: str | None, seed: int, rate: float | None = None
    ) -> None:
        made: list[Filmed] = []

        def make() -> gym.Env[Any, Any]:
            filmed = Filmed(single(options, mode), show)
            if rate is not None:
                filmed.unwrapped.metadata = {**filmed.unwrapped.metadata, "render_fps": rate}
            made.append(filmed)
            return filmed

        super().__init__(make, 1, seed, f"environment {options.id!r}", options.inputs, options.images)
        self.film = made[0]
        self.film.on = True


def modes(options: EnvironmentOptions) -> tuple[list[str], float]:
    """How an environment can draw itself ("human", "rgb_array", "ansi"), and its frames in a second."""
    environment = single(options)
    try:
        offered = environment.metadata.get("render_modes") or []
        rate = environment.metadata.get("render_fps")
        return [str(mode) for mode in offered], float(rate) if isinstance(rate, int | float) and rate > 0 else 30.0
    finally:
        environment.close()


@contextmanager
def drawing(window: bool) -> Iterator[None]:
    """Let environments draw where there is no screen, without a word; with `window` leave them theirs."""
    wanted = _QUIET if window else {**_HEADLESS, **_QUIET}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if name not in os.environ})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
