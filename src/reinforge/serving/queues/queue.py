"""Which queue an address means. Free of torch."""

from __future__ import annotations

from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import Queue


def queue_at(address: Address) -> Queue:
    """The queue there. Raises MissingExtra."""
    address.check_installed()
    if address.kind == "redis":
        from reinforge.serving.queues.redis import RedisQueue

        return RedisQueue(address)
    if address.kind == "nats":
        from reinforge.serving.queues.nats import NatsQueue

        return NatsQueue(address)
    if address.kind == "kafka":
        from reinforge.serving.queues.kafka import KafkaQueue

        return KafkaQueue(address)
    from reinforge.serving.queues.rabbitmq import RabbitQueue

    return RabbitQueue(address)


async def check(address: Address) -> None:
    """Raise MissingExtra, or ReinforgeError where the queue can't be used."""
    queue = queue_at(address)
    try:
        await queue.check()
    finally:
        await queue.close()
