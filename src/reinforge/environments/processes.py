"""Copies of an environment in processes of their own, which write what they observe into shared memory."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from reinforge.core.contracts import State
from reinforge.environments.observations import Array, Observation, copied, put, rows
from reinforge.environments.spaces import Codec
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Transition
from reinforge.errors import CheckpointError, EnvironmentFault
from reinforge.schema.signature import Signature

# Makes the copies from `first` on, `count` of them. Called in the process that steps them.
Make = Callable[[int, int], SynchronousEnvironments]

# How often a worker looks whether its parent is still there.
_PATROL_SECONDS = 1.0
_CLOSING_SECONDS = 2.0
_ALIGNMENT = 64
_FLAGS = ("terminated", "truncated", "start")
_NUMBERS = ("reward", "success")


class ProcessEnvironments:
    """The copies of `SynchronousEnvironments`, shared out to processes: the same transitions to the bit.

    Copy i keeps the seeds that it has without processes, whatever their number. Observations, rewards and flags come
    through memory that all share and that has no name, so nothing of it stays behind, however a process ends; a worker
    whose parent is gone ends by itself. A fault in a worker is raised here with its traceback, and ends them all.
    """

    def __init__(self, make: Make, codec: Codec, count: int, where: str, processes: int | None = None) -> None:
        self.count, self.codec, self._where = count, codec, where
        workers = min(count, processes or _processors())
        bounds = [count * worker // workers for worker in range(workers + 1)]
        # A fork knows what the caller registered; elsewhere `make` must find it again.
        forks = sys.platform != "win32" and "fork" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork") if forks else multiprocessing.get_context("spawn")
        layout = _Layout.of(codec, count)
        shared = context.RawArray("B", layout.size)
        self._arrays = layout.arrays(shared)
        self._everything = np.ones(count, dtype=np.bool_)
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._closed = weakref.finalize(self, _close, self._workers, os.getpid())
        for first, last in pairwise(bounds):
            ours, theirs = context.Pipe()
            task = _Task(make, layout, shared, first, last - first, os.getpid())
            process = context.Process(target=_work, args=(task, theirs, forks), daemon=True)
            process.start()
            # Else the end of a worker would not be noticed: its side of the pipe would be open here.
            theirs.close()
            self._workers.append((process, ours))
        self.exact = all(self._ask("exact"))

    @property
    def signature(self) -> Signature:
        return self.codec.signature

    def reseed(self, seed: int) -> None:
        self._ask("reseed", seed)

    def reset(self) -> Observation:
        self._ask("reset")
        return copied(self._observation("observation"))

    def step(self, action: Array) -> Transition:
        self.begin(action)
        return self.finish()

    def begin(self, action: Array) -> None:
        """Let the processes take a step; nothing else may be asked of them before `finish`."""
        np.copyto(self._arrays["action"], action)
        self._send("step")

    def finish(self) -> Transition:
        """Wait for the step that has begun."""
        self._receive()
        flags = {name: self._arrays[name].copy() for name in (*_NUMBERS, *_FLAGS)}
        final = observation = copied(self._observation("observation"))
        ended = np.flatnonzero(flags["start"])
        if len(ended):
            final = copied(observation)
            put(final, ended, rows(self._observation("final"), ended))
        return Transition(
            observation, flags["reward"], flags["terminated"], flags["truncated"], final, self._everything,
            flags["start"], None if np.isnan(flags["success"]).all() else flags["success"],
        )  # fmt: skip

    def state_dict(self) -> State:
        """As without processes: per copy its episode, the actions taken in it, and the digest of what came back."""
        parts = self._ask("state")
        return {
            "seed": parts[0]["seed"],
            "episodes": np.concatenate([part["episodes"] for part in parts]),
            "actions": [actions for part in parts for actions in part["actions"]],
            "digests": [digest for part in parts for digest in part["digests"]],
        }

    def load_state_dict(self, state: State) -> None:
        """Play every unfinished episode again, in all processes at once."""
        if len(state["episodes"]) != self.count:
            raise CheckpointError(f"it holds {len(state['episodes'])} environments, not {self.count}")
        self._ask("load", {**state, "episodes": np.array(state["episodes"])})

    def close(self) -> None:
        """End the processes. Once."""
        self._closed()

    def _observation(self, when: str) -> Observation:
        return {name: self._arrays[f"{when}/{name}"] for name in self.codec.blocks}

    def _ask(self, question: str, argument: Any = None) -> list[Any]:
        """Every worker's answer, in the order of the copies. Raises EnvironmentFault where one failed or died."""
        self._send(question, argument)
        return self._receive()

    def _send(self, question: str, argument: Any = None) -> None:
        if not self._closed.alive:
            raise EnvironmentFault("its processes are closed", where=self._where)
        message = pickle.dumps((question, argument))
        try:
            for _, connection in self._workers:
                connection.send_bytes(message)
        except OSError:
            raise self._died() from None
        except KeyboardInterrupt:
            self.close()
            raise

    def _receive(self) -> list[Any]:
        if not self._closed.alive:
            raise EnvironmentFault("its processes are closed", where=self._where)
        answers: list[Any] = []
        try:
            for _, connection in self._workers:
                answers.append(pickle.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            raise self._died() from None
        except KeyboardInterrupt:
            # Answers are still on their way, and would be taken for those of the next question.
            self.close()
            raise
        for answer in answers:
            if isinstance(answer, EnvironmentFault | CheckpointError):
                self.close()
                raise answer
        return answers

    def _died(self) -> EnvironmentFault:
        # A broken pipe while sending names nobody: look who is gone.
        for process, _ in self._workers:
            process.join(_CLOSING_SECONDS / len(self._workers))
        codes = {process.exitcode for process, _ in self._workers if process.exitcode is not None}
        self.close()
        code = min(codes, default=None)
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with status {code}"
        return EnvironmentFault(
            f"one of its processes ended {how}, without a word",
            where=self._where,
            remedy="Look for a crash in its native code: run it with vectorization: synchronous to see it.",
        )


@dataclass(frozen=True)
class _Layout:
    """Where each array lies in the shared memory: name to (offset, shape, type)."""

    places: dict[str, tuple[int, tuple[int, ...], str]]
    size: int

    @classmethod
    def of(cls, codec: Codec, count: int) -> _Layout:
        wanted: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = [
            (f"{when}/{name}", (count, *block.shape), block.dtype)
            for when in ("observation", "final")
            for name, block in codec.blocks.items()
        ]
        wanted.append(("action", (count, *codec.action_shape), codec.action_dtype))
        wanted += [(name, (count,), np.dtype(np.float32)) for name in _NUMBERS]
        wanted += [(name, (count,), np.dtype(np.bool_)) for name in _FLAGS]
        places, size = {}, 0
        for name, shape, dtype in wanted:
            places[name] = (size, shape, dtype.str)
            # On lines of their own, so that two processes seldom write to one.
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        return cls(places, size)

    def arrays(self, shared: Any) -> dict[str, Array]:
        """Views of the shared memory."""
        return {
            name: np.frombuffer(shared, dtype, math.prod(shape), offset).reshape(shape)
            for name, (offset, shape, dtype) in self.places.items()
        }


@dataclass(frozen=True)
class _Task:
    """What a worker is told: the copies it steps, and where to write."""

    make: Make
    layout: _Layout
    shared: Any
    first: int
    count: int
    parent: int


def _work(task: _Task, connection: Connection, forked: bool) -> None:
    """Answer questions until the parent says "close" or is gone."""
    # Ctrl-C, and what `timeout` sends, go to the whole group: the parent decides what they mean. Its handlers are not
    # for here.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_patrol, args=(task.parent,), daemon=True).start()
    if forked:
        _let_go(connection.fileno())
    worker: _Worker | None = None
    while True:
        try:
            question, argument = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        if question == "close":
            break
        answer: Any
        try:
            worker = worker or _Worker(task)
            answer = getattr(worker, question)(argument)
        except (EnvironmentFault, CheckpointError) as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - a user's environment may raise anything, and it is told there
            answer = EnvironmentFault(f"it raised {type(error).__name__}: {error}", trace=traceback.format_exc())
        try:
            connection.send_bytes(pickle.dumps(answer))
        except OSError:
            return
    if worker is not None:
        worker.environments.close()


def _patrol(parent: int) -> None:
    """End with the parent, even in the midst of a step."""
    while os.getppid() == parent:
        time.sleep(_PATROL_SECONDS)
    os._exit(1)


def _let_go(kept: int) -> None:
    """Hold nothing of the parent's open: not its pipes to others, whose end would go unnoticed, nor its locks."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(name) for name in os.listdir("/dev/fd")]:
        if descriptor > 2 and descriptor not in (kept, nothing):
            # Not closed: whatever object has this number may yet close it, and then what else got the number.
            with contextlib.suppress(OSError):
                os.dup2(nothing, descriptor, inheritable=False)


class _Worker:
    """The copies of one process; every public method but the first answers a question."""

    def __init__(self, task: _Task) -> None:
        self.environments = task.make(task.first, task.count)
        mine = slice(task.first, task.first + task.count)
        self._mine, self._arrays = mine, {name: a[mine] for name, a in task.layout.arrays(task.shared).items()}

    def exact(self, _: None) -> bool:
        return self.environments.exact

    def reseed(self, seed: int) -> None:
        self.environments.reseed(seed)

    def reset(self, _: None) -> None:
        self._put("observation", self.environments.reset())

    def step(self, _: None) -> None:
        step = self.environments.step(self._arrays["action"].copy())
        self._put("observation", step.observation)
        if step.start.any():
            self._put("final", step.final_observation)
        for name in ("reward", *_FLAGS):
            self._arrays[name][:] = getattr(step, name)
        self._arrays["success"][:] = np.nan if step.success is None else step.success

    def state(self, _: None) -> State:
        return self.environments.state_dict()

    def load(self, state: State) -> None:
        mine = self._mine
        parts = {name: state[name][mine] for name in ("episodes", "actions", "digests")}
        self.environments.load_state_dict({"seed": state["seed"], **parts})

    def _put(self, when: str, observation: Observation) -> None:
        for name, value in observation.items():
            self._arrays[f"{when}/{name}"][:] = value


def _close(workers: list[tuple[BaseProcess, Connection]], owner: int) -> None:
    # A process that was forked later holds the same list, and has no business with it.
    if os.getpid() != owner:
        return
    for _, connection in workers:
        try:
            connection.send_bytes(pickle.dumps(("close", None)))
        except OSError:
            continue
    for process, connection in workers:
        process.join(_CLOSING_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        connection.close()
        process.close()
    workers.clear()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
