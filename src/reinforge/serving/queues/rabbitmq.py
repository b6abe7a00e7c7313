"""A queue of RabbitMQ (3.8 or newer), or what speaks AMQP 0-9-1 and has quorum queues.

By the queue's NAME, all durable: the quorum queue NAME of requests as JSON; NAME.results, where results go that name no
`reply_to`; NAME.dead, what was put aside, with the reason in a header. A result is confirmed by the broker before its
request is acknowledged, so none is lost; a worker that ends between the two has it delivered once more, with the same
`message_id`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection
from aio_pika.exceptions import AMQPError, DeliveryError

from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand, lost, unreachable

_SECONDS, _LEAVING, _PAUSE = 10.0, 2.0, 1.0
# Ids of results that this worker sent last, so that what comes again is not computed again.
_LATEST = 10_000
_COUNT = "x-delivery-count"


class RabbitQueue:
    """The queue, and this worker's channel to it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.results, self.dead = f"{address.name}.results", f"{address.name}.dead"
        # The broker tells by its id which message it could not place: of one id, one at a time.
        self.sending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.sent: OrderedDict[str, None] = OrderedDict()
        self._connection: AbstractRobustConnection | None = None

    async def check(self) -> None:
        """Raise ReinforgeError where RabbitMQ is not there, or a queue of that name is another."""
        try:
            await self._open()
        except (AMQPError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise unreachable(self.address, error) from None

    async def close(self) -> None:
        """Disconnect: what was taken and not acknowledged goes back."""
        if self._connection is not None:
            with suppress(AMQPError, OSError, TimeoutError, RuntimeError):
                await asyncio.wait_for(self._connection.close(), _LEAVING)

    async def take(self, hand: InHand) -> None:
        """Take messages as the broker gives them, never more than are ahead."""
        queue = await self._opened()

        async def given(message: AbstractIncomingMessage) -> None:
            hand.start(RabbitDelivery(self, message))

        tag = await queue.consume(given)
        try:
            await asyncio.Event().wait()
        finally:
            # Where the broker is away, the consumer went with it.
            with suppress(AMQPError, OSError, TimeoutError, RuntimeError):
                await queue.cancel(tag, timeout=_LEAVING)

    async def _opened(self) -> Any:
        """The same, though the broker is not there yet. What was open once comes back by itself."""
        told = False
        while True:
            try:
                return await self._open()
            except (AMQPError, OSError, TimeoutError, RuntimeError) as error:
                if not told:
                    lost(self.address, error)
                told = True
            await self.close()
            await asyncio.sleep(_PAUSE)

    async def _open(self) -> Any:
        """The queue, all that belongs to it declared."""
        self._connection = await aio_pika.connect_robust(self.address.url, timeout=_SECONDS)
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.set_qos(prefetch_count=self.address.ahead)
        self.exchange = channel.default_exchange
        name = self.address.name
        for other in (self.results, self.dead):
            await channel.declare_queue(other, durable=True)
        # One more than we take it: what we put aside has a reason.
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum", "x-delivery-limit": self.address.attempts + 1,
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.dead,
        }  # fmt: skip
        return await channel.declare_queue(name, durable=True, arguments=arguments)

    async def send(self, body: bytes, place: str, identity: str | None, **more: Any) -> None:
        """Until the broker has it. Raises DeliveryError where there is no such place."""
        message = aio_pika.Message(
            body, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=identity, **more,
        )  # fmt: skip
        async with self.sending.setdefault(identity or "", asyncio.Lock()):
            await self.exchange.publish(message, routing_key=place)

    def remember(self, identity: str) -> None:
        """That its result was sent."""
        self.sent[identity] = None
        if len(self.sent) > _LATEST:
            self.sent.popitem(last=False)


class RabbitDelivery:
    """A message that the broker gave."""

    def __init__(self, queue: RabbitQueue, message: AbstractIncomingMessage) -> None:
        count = message.headers.get(_COUNT, 0)
        self.fault: str | None = None
        self.body, self.attempts = message.body, 1 + (count if isinstance(count, int) else 0)
        self._queue, self._message = queue, message

    async def known(self, identity: str) -> bool:
        """Whether this worker sent its result lately."""
        return identity in self._queue.sent

    async def finish(self, identity: str, result: bytes) -> None:
        """Send, remember, acknowledge."""
        await self._reply(identity, result)
        self._queue.remember(identity)
        await self._message.ack()

    async def bury(self, identity: str | None, result: bytes, reason: str) -> None:
        """The same, with a dead letter."""
        told = {"reason": reason[:2000]}
        await self._queue.send(self.body, self._queue.dead, identity, headers=told)
        if identity is not None:
            await self._reply(identity, result)
        await self._message.ack()

    async def drop(self) -> None:
        """Acknowledge alone."""
        await self._message.ack()

    async def release(self) -> None:
        """Back into the queue."""
        await self._message.nack(requeue=True)

    async def _reply(self, identity: str, result: bytes) -> None:
        place = self._message.reply_to or self._queue.results
        told = self._message.correlation_id or identity
        try:
            await self._queue.send(result, place, identity, correlation_id=told)
        except DeliveryError:
            # Who asked is gone, and his queue with him.
            await self._queue.send(result, self._queue.results, identity, correlation_id=told)
