"""Replicas kept alive: as many processes as are wanted take connections from one socket; one that ends or hangs is
replaced, and all of them change to new bundles, or none does.

Nothing here computes, so that this process is small and nothing in a bundle can bring it down.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client.multiprocess import mark_process_dead

from reinforge.errors import BundleError, ReinforgeError
from reinforge.messages import _
from reinforge.serving import board as states
from reinforge.serving.board import Board
from reinforge.serving.channel import line, receive, streams
from reinforge.serving.metrics import FOLDER
from reinforge.serving.task import GRACE_SECONDS, Task
from reinforge.serving.trials import Change
from reinforge.storage.strict_json import Json

# A replica that was ready and has not beaten for so long is ended.
WEDGED_SECONDS = 10.0
# One that ended is replaced at once, and so is the next; later each time that it had not been ready for `_SETTLED`
# seconds: what ends again and again soon after it began would otherwise take all of a core. Who has answered for a
# while is waited for less long than who never could.
_SETTLED, _PAUSES, _PAUSES_UNREADY = 5.0, (0.0, 0.0, 0.2, 1.0), (0.0, 0.0, 0.2, 1.0, 5.0)


@dataclass
class _Running:
    """A replica that runs, and how it is spoken to."""

    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    ready: float = math.inf
    digests: dict[str, str] | None = None
    outdated: bool = False
    replies: dict[int, asyncio.Future[Json]] = field(default_factory=dict)

    def say(self, message: Json) -> None:
        if not self.writer.is_closing():
            self.writer.write(line(message))

    def ask(self, number: int, message: Json) -> asyncio.Future[Json]:
        """What it answers to this number; an error where it ends before."""
        reply: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self.replies[number] = reply
        self.say(message)
        return reply


class Supervisor:
    """Serves the folders of bundles with `task.replicas` replicas until SIGINT or SIGTERM; SIGHUP loads them anew."""

    def __init__(self, task: Task, listener: socket.socket) -> None:
        self._task, self._listener = task, listener
        self._digests: dict[str, str] | None = None
        self._running: dict[int, _Running] = {}
        self._numbers = itertools.count()
        self._fault: ReinforgeError | None = None

    def run(self, ready: Callable[[], None]) -> None:
        """Until it is stopped. `ready` is called once, when every replica answers. Raises BundleError and what else
        replicas could not begin with."""
        with tempfile.TemporaryDirectory(prefix="reinforge-metrics-") as folder:
            asyncio.run(self._run(ready, folder))
        if self._fault is not None:
            raise self._fault

    async def _run(self, ready: Callable[[], None], folder: str) -> None:
        self._folder = folder
        self._board = Board(self._task.replicas)
        self._stopping = asyncio.Event()
        self._swapping = asyncio.Lock()
        self._ready = [asyncio.Event() for _replica in range(self._task.replicas)]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        renewed: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(signal.SIGHUP, lambda: renewed.add(asyncio.ensure_future(self._renew())))
        keeping = [asyncio.ensure_future(self._keep(replica)) for replica in range(self._task.replicas)]
        watching = asyncio.ensure_future(self._watch())
        started = asyncio.ensure_future(self._all_ready())
        stopping = asyncio.ensure_future(self._stopped())
        await asyncio.wait((started, stopping), return_when=asyncio.FIRST_COMPLETED)
        if started.done() and not self._stopping.is_set():
            ready()
        await stopping
        started.cancel()
        watching.cancel()
        self._listener.close()
        for running in self._running.values():
            running.say({"stop": True})
        _done, late = await asyncio.wait(keeping, timeout=GRACE_SECONDS + 2)
        for running in list(self._running.values()):
            running.process.kill()
        if late:
            await asyncio.wait(late)
        self._board.close()

    async def _all_ready(self) -> None:
        for event in self._ready:
            await event.wait()

    async def _stopped(self) -> None:
        await self._stopping.wait()

    async def _keep(self, replica: int) -> None:
        """Replace this replica as often as it ends."""
        failures = 0
        while not self._stopping.is_set():
            ready = await self._live(replica)
            self._board.put(replica, states.ABSENT)
            self._board.count(replica, 0)
            if self._stopping.is_set():
                return
            failures = 0 if ready > _SETTLED else failures + 1
            pauses = _PAUSES if ready > 0 else _PAUSES_UNREADY
            pause = pauses[min(failures, len(pauses) - 1)]
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _live(self, replica: int) -> float:
        """One process, from its start to its end; for how many seconds it was ready."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        inherited = (theirs.fileno(), self._listener.fileno(), self._board.descriptor)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "reinforge.serving.worker", str(theirs.fileno()),
            pass_fds=inherited, env={**os.environ, FOLDER: self._folder}, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        reader, writer = await streams(ours)
        running = self._running[replica] = _Running(process, writer)
        running.say(self._task.of(replica, self._listener.fileno(), self._board.descriptor).to_json())
        while (message := await receive(reader)) is not None:
            self._heard(replica, running, message)
        status = await process.wait()
        ready = max(0.0, time.monotonic() - running.ready)
        self._running.pop(replica, None)
        writer.close()
        mark_process_dead(process.pid, path=self._folder)  # type: ignore[no-untyped-call]
        for reply in running.replies.values():
            if not reply.done():
                reply.set_result({"refused": {"problem": "a replica ended", "where": None, "remedy": None}})
        if not self._ready[replica].is_set() and not self._stopping.is_set() and not running.outdated:
            # It never began, so another try would not either.
            self._fault = self._fault or ReinforgeError(
                _("a replica ended before it was ready (status {status})").format(status=status)
            )
            self._stopping.set()
        return ready

    def _heard(self, replica: int, running: _Running, message: Json) -> None:
        match message:
            case {"ready": digests}:
                if self._digests is None:
                    self._digests = digests
                if digests != self._digests:
                    # Its folders changed, or bundles were swapped, while it began.
                    self._differs(running, digests)
                    return
                running.digests = digests
                running.ready = time.monotonic()
                self._ready[replica].set()
            case {"failed": told, "trial": trial}:
                if not self._ready[replica].is_set():
                    self._fault = BundleError(told["problem"], where=told["where"], remedy=told["remedy"])
                    self._stopping.set()
                    return
                print(f"{told['where']}: {told['problem']}", file=sys.stderr, flush=True)
                if trial is not None:
                    self._later = asyncio.ensure_future(self._end_trial(trial))
            case {"swap": change, "asked": number}:
                self._later = asyncio.ensure_future(self._asked(running, Change.from_json(change), number))
            case {"number": number, **reply}:
                waiting = running.replies.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)

    def _differs(self, running: _Running, digests: dict[str, str]) -> None:
        assert self._digests is not None
        running.outdated = True
        changed = ", ".join(sorted({name for name, _digest in self._digests.items() ^ digests.items()}))
        told = _(
            "a replica loaded another bundle than the others ({changed}), so it is started again; where a folder was "
            "changed, SIGHUP lets all serve what it holds now"
        ).format(changed=changed)
        print(told, file=sys.stderr, flush=True)
        running.process.kill()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(states.BEAT_SECONDS)
            for replica, running in list(self._running.items()):
                since, state = self._board.get(replica)
                if state == states.READY and since > WEDGED_SECONDS:
                    running.process.kill()

    async def _end_trial(self, name: str) -> None:
        """Where its candidate can't be loaded any more: whatever else is served goes on."""
        if name in self._task.trials:
            try:
                await self.swap(Change({}, {name: None}))
            except ReinforgeError as error:
                # A replica ended meanwhile; the next one that can't load it tries again.
                print(f"{_('Error: ')}{error}", file=sys.stderr, flush=True)
            else:
                print(_("the trial beside {name!r} has ended").format(name=name), file=sys.stderr, flush=True)

    async def _renew(self) -> None:
        try:
            await self.swap(Change(self._task.bundles, {}))
        except ReinforgeError as error:
            print(f"{_('Error: ')}{error}", file=sys.stderr, flush=True)

    async def _asked(self, running: _Running, change: Change, number: int) -> None:
        try:
            running.say({"answer": number, "digests": await self.swap(change)})
        except ReinforgeError as error:
            told = {"problem": error.problem, "where": error.where, "remedy": error.remedy}
            running.say({"answer": number, "refused": told})

    async def swap(self, change: Change) -> dict[str, str]:
        """Serve other folders from now on, in all replicas, once all have loaded them: their digests. Raises
        BundleError where one could not, and then all stay as they were. One that is just beginning is not asked: where
        it has loaded what was served before, it begins again."""
        async with self._swapping:
            number = next(self._numbers)
            replicas = [running for running in self._running.values() if running.digests is not None]
            asked = [running.ask(number, {"prepare": change.to_json(), "number": number}) for running in replicas]
            replies = await asyncio.gather(*asked)
            refused = next((reply["refused"] for reply in replies if "refused" in reply), None)
            found = [reply["prepared"] for reply in replies if "prepared" in reply]
            if not replies and change.folders:
                refused = {"problem": _("no replica is ready"), "where": None, "remedy": None}
            if refused is None and any(digests != found[0] for digests in found):
                refused = {"problem": _("the folder changed while it was read"), "where": None, "remedy": None}
            verdict = "commit" if refused is None else "abandon"
            for running in replicas:
                running.say({verdict: number})
            if refused is not None:
                raise BundleError(refused["problem"], where=refused["where"], remedy=refused["remedy"])
            self._task = self._task.changed(change)
            prepared = found[0] if found else {}
            digests = {**(self._digests or {}), **prepared}
            self._digests = {name: digest for name, digest in digests.items() if name in self._task.bundles}
            for running in replicas:
                running.digests = self._digests
            for running in self._running.values():
                # It became ready meanwhile, with what was served before.
                if running.digests is not None and running.digests != self._digests:
                    self._differs(running, running.digests)
            return dict(prepared)
