"""A replica: a process of its own that serves all bundles on the socket that it was given.

    python -m reinforge.serving.worker CHANNEL

CHANNEL is the number of an inherited socket, whose first line says what to serve (`task.Task`). It ends when that
socket is closed at the other end, so that no replica outlives its supervisor.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from pathlib import Path

import torch

from reinforge.bundle.bundle import Bundle
from reinforge.errors import ReinforgeError
from reinforge.recipe.user_code import load_user_code
from reinforge.serving import board as states
from reinforge.serving.app import Control
from reinforge.serving.board import BEAT_SECONDS, Board
from reinforge.serving.changing import check_trial, loaded
from reinforge.serving.channel import line, receive, streams
from reinforge.serving.refusals import Refused
from reinforge.serving.server import Server
from reinforge.serving.task import Task
from reinforge.serving.trials import Change, candidate
from reinforge.serving.trust import trusted
from reinforge.storage.strict_json import Json


class Replica:
    """One replica's life: load, serve, beat, and replace bundles in two steps, so that all replicas do or none."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: Task) -> None:
        self._reader, self._writer, self._task = reader, writer, task
        self._board = Board(task.replicas, task.board)
        self._loaded: dict[str, Bundle] = {}
        self._change = Change({}, {})
        self._asked: dict[int, asyncio.Future[dict[str, str]]] = {}
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Until it is told to stop, or nobody is left to tell it."""
        task = self._task
        self._board.put(task.replica, states.STARTING)
        try:
            load_user_code(Path(path) for path in task.use)
            tried = {candidate(name) for name in task.trials}
            bundles = {name: await self._trusted(path) for name, path in task.bundles.items() if name not in tried}
        except ReinforgeError as error:
            self._say({"failed": _told(error), "trial": None})
            return
        for name, trial in task.trials.items():
            try:
                bundles[candidate(name)] = await self._trusted(task.bundles[candidate(name)])
                check_trial(name, bundles[name], bundles[candidate(name)], trial)
            except ReinforgeError as error:
                # The others can be served without it.
                self._say({"failed": _told(error), "trial": name})
                return
        control = Control(lambda: self._board.ready, self._swap)
        listener = socket.socket(fileno=task.listener)
        self._server = Server(
            bundles, listener, task.access, task.limits, control, 1 / task.replicas, task.queue,
            board=self._board, replica=task.replica,
        )  # fmt: skip
        self._server.models.previous = dict(task.previous)
        for name, trial in task.trials.items():
            self._server.models.put_trial(name, trial)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._server.stop)
        serving = asyncio.ensure_future(self._server.serve())
        others = [asyncio.ensure_future(self._beat()), asyncio.ensure_future(self._listen())]
        self._say({"ready": {name: bundle.digest for name, bundle in bundles.items()}})
        await serving
        for other in others:
            other.cancel()
        self._board.put(task.replica, states.ABSENT)
        self._server.close()

    async def _beat(self) -> None:
        while True:
            # A replica whose computation hangs is not alive, though its loop turns.
            if not self._server.models.stuck:
                self._board.put(self._task.replica, states.READY)
            await asyncio.sleep(BEAT_SECONDS)

    async def _listen(self) -> None:
        while (message := await receive(self._reader)) is not None:
            match message:
                case {"prepare": change, "number": number}:
                    self._change = Change.from_json(change)
                    self._say({"number": number, **await self._prepare(self._change)})
                case {"commit": _number}:
                    self._server.models.change(self._loaded, self._change.trials)
                    self._loaded = {}
                case {"abandon": _number}:
                    self._loaded = {}
                case {"answer": number, **answer}:
                    self._answered(number, answer)
                case {"stop": True}:
                    self._server.stop()
        self._server.stop()

    async def _trusted(self, folder: str) -> Bundle:
        return await asyncio.to_thread(trusted, folder, self._task.keys)

    async def _prepare(self, change: Change) -> Json:
        try:
            self._loaded = await loaded(self._server.models, change, self._task.keys)
        except ReinforgeError as error:
            return {"refused": _told(error)}
        return {"prepared": {name: bundle.digest for name, bundle in self._loaded.items()}}

    async def _swap(self, change: Change) -> dict[str, str]:
        """Ask the supervisor to have every replica serve these."""
        number = next(self._numbers)
        asked: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self._say({"swap": change.to_json(), "asked": number})
        return await asked

    def _answered(self, number: int, answer: Json) -> None:
        asked = self._asked.pop(number, None)
        if asked is None or asked.done():
            return
        if "digests" in answer:
            asked.set_result(answer["digests"])
        else:
            told = answer["refused"]
            asked.set_exception(Refused(409, told["problem"], where=told["where"], remedy=told["remedy"]))

    def _say(self, message: Json) -> None:
        self._writer.write(line(message))


def _told(error: ReinforgeError) -> Json:
    return {"problem": error.problem, "where": error.where, "remedy": error.remedy}


async def main(descriptor: int) -> None:
    """Serve as the channel's first line says."""
    reader, writer = await streams(socket.socket(fileno=descriptor))
    task = await receive(reader)
    if task is not None:
        known = Task.from_json(task)
        torch.set_num_threads(known.threads)
        await Replica(reader, writer, known).run()
        await writer.drain()
    writer.close()


if __name__ == "__main__":
    # Ctrl-C reaches the whole group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main(int(sys.argv[1])))
    # Threads of a computation that never ends must not keep it alive.
    os._exit(0)
