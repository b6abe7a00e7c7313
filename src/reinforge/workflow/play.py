"""`play`: watch a policy, in the terminal or in a window, or record it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.observation_form import ObservationForm
from reinforge.core import seeds
from reinforge.environments.film import Scene, drawing, has_screen, modes, opengl
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import DataError, EnvironmentFault
from reinforge.evaluation import clips
from reinforge.evaluation.episodes import play as act
from reinforge.messages import _
from reinforge.models.policy import Policy
from reinforge.workflow.evaluate import recipe_of
from reinforge.workflow.opened import opened
from reinforge.workflow.progress import Progress, Silent
from reinforge.workflow.run import Run

# A recording's longer side in pixels, and how many frames are kept at most.
_SIZE, _MOST_FRAMES = 400, 5000


class Screen(Protocol):
    """Where frames are drawn."""

    def draw(self, picture: Any, status: str, rate: float) -> None:
        """A picture, uint8 (height, width, 3), or a text; `status` says how far the episode is. Waits until the next
        one is due, of `rate` in a second."""
        ...


def play(
    bundle: str | Path | Bundle | Run,
    episodes: int = 1,
    *,
    seed: int | None = None,
    stochastic: bool = False,
    record: str | Path | None = None,
    window: bool = False,
    speed: float = 1.0,
    screen: Screen | None = None,
    use: Iterable[str | Path] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Play whole episodes in the recipe's environment, and return their returns and lengths.

    `record`: a file .gif, .webp or .mp4. `window`: as the environment shows itself to people. `screen`: draws frames,
    texts where the environment offers them and nothing is recorded. `speed` multiplies the environment's own frames in
    a second. Without any of them nothing is drawn. Raises DataError for what is no policy, or can't be recorded, and
    EnvironmentFault where the environment doesn't draw itself in the way that is asked for.
    """
    shown = progress or Silent()
    target = Path(record) if record is not None else None
    if target is not None:
        clips.check(target)
    made = bundle.bundle if isinstance(bundle, Run) else opened(bundle, use)
    model, environment = made.model, recipe_of(made).data
    if not isinstance(made.form, ObservationForm) or not isinstance(model, Policy):
        raise DataError(_("only a policy can play"), where=str(made.path))
    if not isinstance(environment, EnvironmentOptions):
        raise DataError(_("it was trained in no environment that could be played"), where=str(made.path))
    chosen = recipe_of(made).evaluate.seed if seed is None else seed
    with drawing(window):
        found = modes(environment)
        rate = found.rate * speed
        mode = _mode(environment, found.offered, record=target is not None, window=window, screen=screen is not None)
        film = _Film(episodes, rate, screen, keep=target is not None)
        generator = np.random.default_rng(seeds.derive(chosen, "play", "actions")) if stochastic else None
        shown.update(0.0, None, _("playing"))
        with opengl(found.opengl and mode == "rgb_array"):
            scene = Scene(environment, film.show, mode=mode, seed=seeds.derive(chosen, "play"), rate=rate)
            try:
                played = act(model, scene, episodes, generator)
            finally:
                scene.close()
    told: dict[str, Any] = {
        "on": environment.id, "seed": chosen, "actions": "stochastic" if stochastic else "deterministic",
        "return": float(played.returns.mean()), "returns": played.returns.tolist(), "lengths": played.lengths.tolist(),
    }  # fmt: skip
    if target is not None:
        clips.write(target, film.frames, rate)
        told |= {"record": str(target), "frames": len(film.frames)}
    notes = []
    if film.cut:
        notes.append(_("the recording was cut after {n} frames").format(n=_MOST_FRAMES))
    if mode is None and screen is not None:
        notes.append(_("the environment doesn't draw itself; it was played unseen"))
    return {**told, **({"notes": notes} if notes else {})}


def _mode(
    environment: EnvironmentOptions, offered: Sequence[str], *, record: bool, window: bool, screen: bool
) -> str | None:
    if record and window:
        raise DataError(_("--window and --record exclude each other"))
    if window and not has_screen():
        raise DataError(
            _("there is no screen to open a window on"),
            remedy=_("Record it: {option}").format(option="--record clip.gif"),
        )
    wanted = ["human"] if window else ["rgb_array"] if record else ["ansi", "rgb_array"] if screen else []
    found = next((mode for mode in wanted if mode in offered), None)
    if found is None and (record or window):
        raise EnvironmentFault(
            _("it doesn't draw itself as {mode!r}").format(mode=wanted[0]), where=f"environment {environment.id!r}",
            remedy=_("It offers: {modes}.").format(modes=", ".join(offered) or _("nothing")),
        )  # fmt: skip
    return found


class _Film:
    """Shows frames with how far the episode is, and keeps them where they are recorded."""

    def __init__(self, episodes: int, rate: float, screen: Screen | None, *, keep: bool) -> None:
        self.frames: list[clips.Frame] = []
        self.cut = False
        self._episodes, self._rate, self._screen, self._keep = episodes, rate, screen, keep
        self._episode, self._step, self._return = 0, 0, 0.0

    def show(self, draw: Callable[[], Any], reward: float | None, ends: bool) -> None:
        """Take in a frame; what begins after the last episode is none of it."""
        if reward is None:
            self._episode, self._step, self._return = self._episode + 1, 0, 0.0
        else:
            self._step, self._return = self._step + 1, self._return + reward
        if self._episode > self._episodes or not (self._keep or self._screen):
            return
        picture = draw()
        if picture is None:
            return
        if self._keep:
            self.cut = len(self.frames) >= _MOST_FRAMES
            if not self.cut:
                self.frames.append(clips.fitted(picture, _SIZE))
        if self._screen is not None:
            status = _("episode {n} of {total} · step {step} · return {value}")
            told = status.format(n=self._episode, total=self._episodes, step=self._step, value=f"{self._return:.4g}")
            self._screen.draw(picture, told, self._rate)
