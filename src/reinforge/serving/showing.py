"""A policy at work in its environment, as a stream of frames: what the page shows.

An episode is one request, so that nothing is kept between two and any replica can answer. The environment takes its
next step when the client has read the frames before, and ends with whoever hangs up.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import io
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.observation_form import ObservationForm
from reinforge.errors import EnvironmentFault, ReinforgeError
from reinforge.models.policy import Policy
from reinforge.serving.bodies import left
from reinforge.serving.events import event
from reinforge.serving.refusals import Refused, told
from reinforge.storage.strict_json import Json

# The longer side of a picture in pixels, frames of an episode, and how many are drawn before the client reads.
_SIZE, _MOST_FRAMES, _AHEAD = 480, 2000, 8
# So long a viewer waits for the one before to be gone, looking again and again, in seconds.
_TURN, _AGAIN = 2.0, 0.02
# A client that reads nothing for so long is left.
_PATIENCE = 30.0


def environment_of(bundle: Bundle) -> str | None:
    """The name of the environment that a policy was trained in, where the bundle says so."""
    if not isinstance(bundle.form, ObservationForm) or not isinstance(bundle.model, Policy):
        return None
    match bundle.provenance:
        case {"recipe": {"data": {"kind": "environment", "id": str(name)}}}:
            return name
    return None


class Stage:
    """Where policies are shown: one at a time, since environments draw with what the whole process has. Whoever comes
    waits until the one before is gone."""

    def __init__(self) -> None:
        self._taken = threading.Lock()

    async def show(self, bundle: Bundle, seed: int) -> Performance:
        """The episode that this seed gives. Raises Refused (404, 429)."""
        if environment_of(bundle) is None:
            raise Refused(404, "this model was trained in no environment that could be shown")
        end = time.monotonic() + _TURN
        while not self._taken.acquire(blocking=False):
            if time.monotonic() > end:
                raise Refused(429, "somebody else is watching", remedy="Try again later.", after=5)
            await asyncio.sleep(_AGAIN)
        return Performance(bundle, seed, self._taken.release)


class Performance(Response):
    """One episode as server-sent events: {"rate": frames in a second}; for each frame {"frame": PNG in base64, or
    "text", "step", "reward", "return"}; at last {"ended": true, "cut": whether it was too long} or {"error"}."""

    media_type = "text/event-stream"

    def __init__(self, bundle: Bundle, seed: int, over: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._bundle, self._seed, self._over = bundle, seed, over
        self._gone = threading.Event()
        self._room = threading.Semaphore(_AHEAD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop, self._frames = asyncio.get_running_loop(), asyncio.Queue[Json | None]()
        thread = threading.Thread(target=self._perform, name="environment", daemon=True)
        thread.start()
        leaving = asyncio.ensure_future(left(Request(scope, receive, send)))
        leaving.add_done_callback(lambda _done: self._leave())
        try:
            async with asyncio.timeout(_PATIENCE):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for frame in self._told():
                async with asyncio.timeout(_PATIENCE):
                    await send({"type": "http.response.body", "body": event(frame), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass
        finally:
            self._leave()
            leaving.cancel()

    def _leave(self) -> None:
        """Nobody watches any more: the thread need not wait for room."""
        self._gone.set()
        self._room.release()

    async def _told(self) -> AsyncIterator[Json]:
        while (frame := await self._frames.get()) is not None:
            yield frame
            if "step" in frame:
                self._room.release()

    def _put(self, frame: Json | None) -> None:
        # The loop is closed where the server ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._frames.put_nowait, frame)

    def _perform(self) -> None:
        """In a thread of its own: the episode from its beginning to its end."""
        try:
            film = _Film(self._put, self._room, self._gone)
            try:
                _play(self._bundle, self._seed, film)
                self._put({"ended": True, "cut": film.cut})
            except ReinforgeError as error:
                if not self._gone.is_set():
                    self._put({"ended": True, "cut": True} if film.cut else {"error": told(error)})
        except Exception as error:  # noqa: BLE001 (packages that draw raise what they like)
            self._put({"error": {"type": type(error).__name__, "problem": "the environment can't be shown"}})
        finally:
            self._put(None)
            self._over()


class _Film:
    """Turns what an environment shows into frames, as soon as there is room for one."""

    def __init__(self, put: Callable[[Json], None], room: threading.Semaphore, gone: threading.Event) -> None:
        self._put, self._room, self._gone = put, room, gone
        self._step, self._return, self._over, self.cut = 0, 0.0, False, False

    def begin(self, rate: float) -> None:
        """Say how many frames the environment has in a second."""
        self._put({"rate": rate})

    def show(self, draw: Callable[[], Any], reward: float | None, ends: bool) -> None:
        """A frame; what begins after the episode is none of it. Raises EnvironmentFault to end it."""
        if self._over:
            return
        while not self._room.acquire(timeout=0.5):
            if self._gone.is_set():
                break
        self.cut = self._step >= _MOST_FRAMES
        if self._gone.is_set() or self.cut:
            raise EnvironmentFault("nobody watches any more", where="environment")
        if reward is not None:
            self._step, self._return = self._step + 1, self._return + reward
        self._over = ends
        frame = {"step": self._step, "reward": reward, "return": self._return}
        self._put({**frame, **_picture(draw())})


def _picture(drawn: Any) -> dict[str, Json]:
    if drawn is None:
        return {}
    if isinstance(drawn, str):
        return {"text": drawn}
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(drawn, dtype=np.uint8))
    picture.thumbnail((_SIZE, _SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {"frame": base64.b64encode(buffer.getvalue()).decode()}


def _play(bundle: Bundle, seed: int, film: _Film) -> None:
    """One episode, shown as pictures or, where there are none, as texts. Raises what making and drawing it does."""
    from reinforge.core import seeds
    from reinforge.environments.film import Scene, drawing, modes, opengl
    from reinforge.environments.options import EnvironmentOptions
    from reinforge.evaluation.episodes import play
    from reinforge.workflow.evaluate import recipe_of

    options = recipe_of(bundle).data
    assert isinstance(options, EnvironmentOptions)
    with drawing(window=False):
        found = modes(options)
        film.begin(found.rate)
        mode = next((mode for mode in ("rgb_array", "ansi") if mode in found.offered), None)
        with opengl(found.opengl and mode == "rgb_array"):
            scene = Scene(options, film.show, mode=mode, seed=seeds.derive(seed, "play"))
            try:
                # A copy: what computes its answers meanwhile may keep buffers in it.
                model = copy.deepcopy(bundle.model)
                assert isinstance(model, Policy)
                play(model, scene, 1)
            finally:
                scene.close()
