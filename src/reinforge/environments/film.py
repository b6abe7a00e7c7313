"""Episodes to look at: one environment that shows a picture after every step."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym

from reinforge.environments.build import single
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.errors import EnvironmentFault
from reinforge.messages import _

# Without a screen. SDL is what Gymnasium's own environments draw by.
_HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
_QUIET = {"PYGAME_HIDE_SUPPORT_PROMPT": "1"}
# Draws one picture, and how many seconds that may take.
_PICTURE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""
_PATIENCE = 30.0

# Is given what draws a picture when it is called (uint8 (height, width, 3), or a text; None where the environment shows
# itself), the reward that came before it (None at the beginning of an episode), and whether the episode ends with it.
Show = Callable[[Callable[[], Any], float | None, bool], None]


class Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Offers a picture after every reset and step, while `on`."""

    def __init__(self, environment: gym.Env[Any, Any], show: Show) -> None:
        super().__init__(environment)
        self.on, self._show = False, show

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        self._take(None, False)
        return result

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self._take(float(result[1]), bool(result[2] or result[3]))
        return result

    def _take(self, reward: float | None, ends: bool) -> None:
        if self.on:
            self._show(_nothing if self.env.render_mode in (None, "human") else self.env.render, reward, ends)


def _nothing() -> None:
    """The environment shows itself, or not at all."""


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
            if hasattr(filmed.unwrapped, "mujoco_renderer"):
                # Without a screen OpenGL is a program, which takes five times as long for soft edges.
                quality = filmed.unwrapped.model.vis.quality  # type: ignore[attr-defined]
                quality.shadowsize, quality.offsamples = 1024, 0
            if rate is not None:
                filmed.unwrapped.metadata = {**filmed.unwrapped.metadata, "render_fps": rate}
            made.append(filmed)
            return filmed

        super().__init__(make, 1, seed, f"environment {options.id!r}", options.inputs, options.images)
        self.film = made[0]
        self.film.on = True


@dataclass(frozen=True)
class Modes:
    """How an environment can draw itself ("human", "rgb_array", "ansi"), its frames in a second, and whether pictures
    need OpenGL."""

    offered: tuple[str, ...]
    rate: float
    opengl: bool


def modes(options: EnvironmentOptions) -> Modes:
    """What an environment says of itself."""
    environment = single(options)
    try:
        offered = environment.metadata.get("render_modes") or []
        rate = environment.metadata.get("render_fps")
        rate = float(rate) if isinstance(rate, int | float) and rate > 0 else 30.0
        return Modes(tuple(map(str, offered)), rate, hasattr(environment.unwrapped, "mujoco_renderer"))
    finally:
        environment.close()


@contextmanager
def opengl(needed: bool) -> Iterator[None]:
    """OpenGL without a screen where that is needed. Raises EnvironmentFault where there is none.

    MuJoCo that finds none may end the process, so another process tries first.
    """
    if not needed:
        yield
        return
    backend = _backend()
    if backend is None:
        raise EnvironmentFault(
            _("MuJoCo finds no OpenGL to draw with"),
            remedy=_("Install EGL or OSMesa (Debian: libegl1 or libosmesa6), or give it a screen."),
        )
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = backend
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("MUJOCO_GL")
        else:
            os.environ["MUJOCO_GL"] = before


@cache
def _backend() -> str | None:
    """The first way to OpenGL by which MuJoCo draws a picture here."""
    stated: str | None = os.environ.get("MUJOCO_GL")
    names = [stated] if stated else ["egl", "osmesa", *(["glfw"] if "DISPLAY" in os.environ else [])]
    for name in names:
        environment = {**os.environ, "MUJOCO_GL": name}
        with suppress(subprocess.TimeoutExpired):
            command = [sys.executable, "-c", _PICTURE]
            done = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE, check=False)
            if done.returncode == 0:
                return name
    return None


def has_screen() -> bool:
    """Whether there is one to open a window on."""
    if sys.platform != "linux" or "SDL_VIDEODRIVER" in os.environ:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


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
