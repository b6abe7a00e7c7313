"""A few seconds of a policy at work, for its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reinforge.core import seeds
from reinforge.core.modes import evaluating
from reinforge.environments.film import Filmed, Scene, drawing, modes, opengl
from reinforge.environments.options import EnvironmentOptions
from reinforge.evaluation import clips
from reinforge.evaluation.episodes import play
from reinforge.models.policy import Policy

# Seconds, frames in a second, pixels of the longer side, episodes at most, seconds that an episode's end stays.
_SECONDS, _RATE, _SIZE, _EPISODES, _STAY = 8.0, 12.5, 300, 3, 0.6


def clip(policy: Policy, environment: EnvironmentOptions, seed: int) -> bytes | None:
    """A few seconds of the policy as an animated WebP for a report: the beginning of an episode, or several short ones.

    None where the environment draws no pictures. Raises EnvironmentFault where it fails to."""
    with evaluating(policy):
        with seeds.undisturbed(), drawing(window=False):
            found = modes(environment)
            rate = found.rate
            if "rgb_array" not in found.offered:
                return None
            every = max(1, round(rate / _RATE))
            film = _Excerpt(every, int(_SECONDS * rate / every), stay=round(_STAY * rate / every))
            with opengl(found.opengl):
                scene = Scene(environment, film.show, mode="rgb_array", seed=seeds.derive(seed, "clip"))
                film.film = scene.film
                try:
                    for number in range(_EPISODES):
                        scene.reseed(seeds.derive(seed, "clip", number))
                        play(policy, scene, 1)
                        if len(film.frames) > film.most / 2:
                            break
                finally:
                    scene.close()
        return clips.animated(film.frames, rate / every, "webp")


class _Excerpt:
    """Keeps every so many frames until there are enough; then nothing is rendered any more. An episode's last frame
    stays for a moment."""

    def __init__(self, every: int, most: int, stay: int) -> None:
        self.every, self.most, self.stay = every, max(2, most), stay
        self.frames: list[clips.Frame] = []
        self.film: Filmed | None = None
        self._step, self._ended = 0, False

    def show(self, draw: Callable[[], Any], reward: float | None, ends: bool) -> None:
        """Take in a frame, where it is wanted."""
        self._step = 0 if reward is None else self._step + 1
        # The observation after an episode's end begins another one, which is not played.
        wanted = ends or (self._step % self.every == 0 and not self._ended)
        self._ended = ends
        if wanted:
            self.frames += [clips.fitted(draw(), _SIZE)] * (self.stay if ends else 1)
        if len(self.frames) >= self.most and self.film is not None:
            self.film.on = False
