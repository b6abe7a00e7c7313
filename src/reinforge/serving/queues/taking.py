"""A worker of a queue: takes messages beside what else its process serves, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reinforge.serving.models import Models
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand
from reinforge.serving.queues.queue import queue_at
from reinforge.serving.queues.work import handler

_CANCELLED_SECONDS = 3.0


class Taking:
    """Messages are taken from when it is begun; `fault` is called where that ends by itself, and `stop` raises why."""

    def __init__(self, address: Address, models: Models, fault: Callable[[], None]) -> None:
        self._queue, self._hand = queue_at(address), InHand(handler(models, address.attempts), address.ahead)
        self._fault = fault
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take messages, in the event loop that runs."""
        self._task = asyncio.ensure_future(self._queue.take(self._hand))
        self._task.add_done_callback(lambda done: None if done.cancelled() else self._fault())

    async def stop(self, seconds: float) -> None:
        """Take no more, finish what is begun within so many seconds, and leave the broker."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        done, _late = await asyncio.wait([task], timeout=_CANCELLED_SECONDS)
        await self._hand.settle(seconds)
        await self._queue.close()
        for ended in done:
            if not ended.cancelled() and (error := ended.exception()) is not None:
                raise error
