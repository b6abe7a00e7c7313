"""A worker of a queue: takes messages beside what else its process serves, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator

from reinforge.serving.models import Models
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand
from reinforge.serving.queues.queue import queue_at
from reinforge.serving.queues.work import handler
from reinforge.serving.task import GRACE_SECONDS


@contextlib.asynccontextmanager
async def taking(address: Address, models: Models) -> AsyncIterator[None]:
    """Messages are taken within the block; after it, what is begun is finished."""
    queue, hand = queue_at(address), InHand(handler(models, address.attempts), address.ahead)
    task = asyncio.ensure_future(queue.take(hand))
    task.add_done_callback(_told)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await hand.settle(GRACE_SECONDS)
        await queue.close()


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error, file=sys.stderr)
