"""A queue in a stream of Redis, or what speaks like it (6.2 or newer, no cluster).

By the queue's NAME: the stream NAME, whose entries have a field `message`, a request as JSON; the string
NAME:result:ID, a result by its id; the streams NAME:results, with the ids of results as they come, and NAME:dead, what
was put aside. The workers are one group. A worker says again and again what it works on; what nobody works on is
claimed by another. Result, note and acknowledgement are one script, so that none is there without the others.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import Any, cast

import redis.asyncio as aioredis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TooLate

from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand, lost, unreachable

GROUP, FIELD = "reinforge", b"message"
# Ids of results, and dead letters, that are kept at most, about.
_LATEST = 100_000
_BLOCK_MS = 1000
_PAUSES = (0.1, 0.5, 2.0, 5.0)

# Keys: queue, result, results, dead. Values: group, entry, seconds, id, result, latest, reason, body.
_FINISH = """
if ARGV[4] ~= '' and redis.call('SET', KEYS[2], ARGV[5], 'NX', 'EX', ARGV[3]) then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'id', ARGV[4])
end
if ARGV[7] ~= '' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[6], '*', 'id', ARGV[4], 'reason', ARGV[7], 'message', ARGV[8])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
"""


class RedisQueue:
    """The stream, and this worker's place in its group."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.worker = uuid.uuid4().hex
        self.client: Any = aioredis.from_url(
            address.url, socket_connect_timeout=5, socket_keepalive=True, health_check_interval=15
        )
        self.finish = self.client.register_script(_FINISH)
        self.held: set[bytes] = set()

    async def check(self) -> None:
        """Raise ReinforgeError where Redis is not there, or the queue is no stream."""
        try:
            await self._join()
        except RedisError as error:
            raise unreachable(self.address, error) from None

    async def close(self) -> None:
        """Leave the group, unless something is left in hand, which others take later; disconnect."""
        with suppress(RedisError):
            if not await self.client.xpending_range(self.address.name, GROUP, "-", "+", 1, self.worker):
                await self.client.xgroup_delconsumer(self.address.name, GROUP, self.worker)
        with suppress(RedisError):
            await self.client.aclose()

    async def take(self, hand: InHand) -> None:
        """Take new messages as there is room for them, and now and then what nobody works on any more."""
        keeping = asyncio.ensure_future(self._keep(hand))
        try:
            failures = 0
            while True:
                await hand.has_room()
                try:
                    if failures:
                        await self._join()
                    found = await self.client.xreadgroup(
                        GROUP, self.worker, {self.address.name: ">"}, count=hand.room, block=_BLOCK_MS
                    )
                except (Disconnected, TooLate, ResponseError) as error:
                    if not failures:
                        lost(self.address, error)
                    await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                    failures += 1
                    continue
                failures = 0
                for _stream, entries in found or []:
                    for entry, fields in entries:
                        self._start(hand, entry, fields, 1)
        finally:
            keeping.cancel()

    async def _join(self) -> None:
        try:
            await self.client.xgroup_create(self.address.name, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _keep(self, hand: InHand) -> None:
        """Say what is worked on, and claim what is not."""
        name, idle = self.address.name, int(self.address.taken * 1000)
        while True:
            await asyncio.sleep(self.address.taken / 3)
            # What goes wrong here is told where messages are read.
            with suppress(RedisError):
                if self.held:
                    await self.client.xclaim(name, GROUP, self.worker, 0, list(self.held), justid=True)
                if hand.room <= 0:
                    continue
                _next, entries, *_gone = await self.client.xautoclaim(
                    name, GROUP, self.worker, idle, count=hand.room
                )  # fmt: skip
                for entry, fields in entries:
                    told = await self.client.xpending_range(name, GROUP, entry, entry, 1)
                    if told and entry not in self.held:
                        self._start(hand, entry, fields, told[0]["times_delivered"])

    def _start(self, hand: InHand, entry: bytes, fields: dict[bytes, bytes], attempts: int) -> None:
        self.held.add(entry)
        hand.start(RedisDelivery(self, entry, fields.get(FIELD, b""), attempts))


class RedisDelivery:
    """An entry of the stream."""

    def __init__(self, queue: RedisQueue, entry: bytes, body: bytes, attempts: int) -> None:
        self.body, self.attempts = body, attempts
        self._queue, self._entry = queue, entry

    async def known(self, identity: str) -> bool:
        """Whether there is a result of this id."""
        return cast(int, await self._queue.client.exists(self._key(identity))) > 0

    async def finish(self, identity: str, result: bytes) -> None:
        """Store, note, acknowledge."""
        await self._end(identity, result)

    async def bury(self, identity: str | None, result: bytes, reason: str) -> None:
        """The same, with a dead letter."""
        await self._end(identity or "", result, reason, self.body)

    async def drop(self) -> None:
        """Acknowledge alone."""
        await self._end("", b"")

    async def release(self) -> None:
        """Stop saying that it is worked on."""
        self._queue.held.discard(self._entry)

    async def _end(self, identity: str, result: bytes, reason: str = "", body: bytes = b"") -> None:
        address = self._queue.address
        keys = [address.name, self._key(identity), f"{address.name}:results", f"{address.name}:dead"]
        seconds = max(1, round(address.kept))
        told: list[bytes | str | int] = [GROUP, self._entry, seconds, identity, result, _LATEST, reason, body]
        await self._queue.finish(keys=keys, args=told)
        self._queue.held.discard(self._entry)

    def _key(self, identity: str) -> str:
        return f"{self._queue.address.name}:result:{identity}"
