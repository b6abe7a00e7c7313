"""A queue at a broker, as a worker sees it. Free of torch."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Protocol

from reinforge.errors import ReinforgeError
from reinforge.messages import _
from reinforge.serving.queues.address import Address


class Delivery(Protocol):
    """A message that was taken: its bytes, and how often it was taken, this time included; `fault` says
    what is wrong with how it was put there. Until `finish`, `bury`,
    `drop` or `release` it is this worker's."""

    body: bytes
    attempts: int
    fault: str | None

    async def known(self, identity: str) -> bool:
        """Whether a result of this id is stored already; False where the broker can't tell."""

    async def finish(self, identity: str, result: bytes) -> None:
        """Store the result under its id, if none is there, and let go of the message."""

    async def bury(self, identity: str | None, result: bytes, reason: str) -> None:
        """Put the message aside with the reason; store what its sender is told, where it has an id; let go of it."""

    async def drop(self) -> None:
        """Let go of the message: its result is stored already."""

    async def release(self) -> None:
        """Give it back, to be taken again."""


Handler = Callable[[Delivery], Awaitable[None]]


class InHand:
    """Messages that are worked on, `most` at the most."""

    def __init__(self, handle: Handler, most: int) -> None:
        self._handle, self._most = handle, most
        self._tasks: set[asyncio.Task[None]] = set()
        self._fewer = asyncio.Event()

    @property
    def room(self) -> int:
        """How many more may be taken now."""
        return self._most - len(self._tasks)

    def start(self, delivery: Delivery) -> None:
        """Work on it, beside the others."""
        task = asyncio.ensure_future(self._end(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def has_room(self) -> None:
        """Wait until another may be taken."""
        while self.room <= 0:
            self._fewer.clear()
            await self._fewer.wait()

    async def settle(self, seconds: float) -> None:
        """Wait for what is begun, so long at most; the rest is given up, and taken by others."""
        if self._tasks:
            _done, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _end(self, delivery: Delivery) -> None:
        try:
            await self._handle(delivery)
        except Exception:  # noqa: BLE001 (a fault of ours: it is told, and the message is tried again)
            traceback.print_exc(file=sys.stderr)
            with contextlib.suppress(Exception):
                await delivery.release()
        except BaseException:
            with contextlib.suppress(Exception):
                await delivery.release()
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._fewer.set()


class Queue(Protocol):
    """A queue at a broker."""

    async def check(self) -> None:
        """Raise ReinforgeError where it can't be reached, or is not as it must be."""

    async def take(self, hand: InHand) -> None:
        """Take messages into the hand until cancelled; where the broker goes away, wait for it."""

    async def close(self) -> None:
        """Let go of the connection."""


def lost(address: Address, error: Exception) -> None:
    """Say that the broker is gone for now."""
    reason = str(error) or type(error).__name__
    print(f"{address.shown}: the queue can't be reached ({reason}); trying again", file=sys.stderr, flush=True)


def unreachable(address: Address, error: Exception) -> ReinforgeError:
    """That a queue can't be used, as an error."""
    return ReinforgeError(
        _("the queue can't be reached: {reason}").format(reason=str(error)[:200] or type(error).__name__),
        where=address.shown,
        remedy=_("Start the broker, or mend the address or credentials; what else has a name of the queue's must go."),
    )  # fmt: skip
