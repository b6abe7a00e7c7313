"""A queue in a stream of Redis, or what speaks like it (6.2 or newer, no cluster).

By the queue's NAME: the stream NAME, whose entries have a field `message`, a request as JSON; the string
NAME:result:ID, a result by its id; the streams NAME:results, with the ids of results as they come, and NAME:dead, what
was put aside. The workers are one group. A worker says again and again what it works on; what nobody works on is
claimed by another. Result, note and acknowledgement are one script, so that none is there without the others.
"""

from __future__ import annotations

import asyncio
import json
import time
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
_BLOCK_SECONDS = 1.0
_CONNECTIONS = 16
_PAUSES = (0.1, 0.5, 2.0, 5.0)
# How an error is told in a result's place; a later prediction of the same id takes it.
_ERROR = b'{"error":'

# Keys: queue, result, results, dead. Values: group, entry, seconds, id, result, latest, reason, body, how errors begin.
# Whoever acknowledges the entry writes; an entry that was acknowledged already has been written for.
_END = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
if ARGV[4] ~= '' then
  local old = redis.call('GET', KEYS[2])
  if not old or string.sub(old, 1, #ARGV[9]) == ARGV[9] then
    redis.call('SET', KEYS[2], ARGV[5], 'EX', ARGV[3])
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'id', ARGV[4])
  end
end
if ARGV[7] ~= '' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[6], '*', 'id', ARGV[4], 'reason', ARGV[7], 'message', ARGV[8])
end
return redis.call('XDEL', KEYS[1], ARGV[2])
"""
# Keys: queue. Values: group, worker. A worker that leaves takes what it has with it, so it must have nothing.
_LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""


class RedisQueue:
    """The stream, and this worker's place in its group. Raises ReinforgeError for an address that can't be read."""

    def __init__(self, address: Address) -> None:
        self.address, self.worker = address, uuid.uuid4().hex
        # Reading waits at the server, so it has a connection of its own; the others wait for one another.
        self._reading = self._client(2)
        self.client = self._client(_CONNECTIONS)
        self.end = self.client.register_script(_END)
        self.held: set[bytes] = set()
        self._beating: asyncio.Task[None] | None = None
        self._cursor: Any = "0-0"

    def _client(self, connections: int) -> Any:
        more: dict[str, Any] = {} if self.address.url.startswith("unix:") else {"socket_keepalive": True}
        try:
            pool = aioredis.BlockingConnectionPool.from_url(
                self.address.url, max_connections=connections, timeout=None, socket_connect_timeout=5,
                health_check_interval=15, protocol=2, decode_responses=False, **more,
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise unreachable(self.address, error) from None
        return aioredis.Redis.from_pool(pool)

    async def check(self) -> None:
        """Raise ReinforgeError where Redis is not there, or what has one of the queue's names is no stream."""
        name = self.address.name
        try:
            for key in (name, f"{name}:results", f"{name}:dead"):
                kind = (await self.client.type(key)).decode()
                if kind not in ("none", "stream"):
                    raise ResponseError(f"{key} is a {kind}, no stream")
            await self._join()
        except (RedisError, OSError, ValueError, TypeError) as error:
            raise unreachable(self.address, error) from None

    async def close(self) -> None:
        """Leave the group, unless something is left in hand, which others take later; disconnect."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        with suppress(RedisError, OSError):
            await self.client.eval(_LEAVE, 1, self.address.name, GROUP, self.worker)
        for client in (self.client, self._reading):
            with suppress(RedisError, OSError):
                await client.aclose()
                await client.connection_pool.disconnect()

    async def take(self, hand: InHand) -> None:
        """Take new messages as there is room for them, and before them, now and then, what nobody works on."""
        self._beating = asyncio.ensure_future(self._beat())
        failures, due = 0, time.monotonic() + self.address.taken / 3
        while True:
            await hand.has_room()
            if self._beating.done():
                await self._beating
            try:
                if failures:
                    await self._join()
                if time.monotonic() >= due:
                    await self._claim(hand)
                    due = time.monotonic() + self.address.taken / 3
                    continue
                wait = min(_BLOCK_SECONDS, max(0.01, due - time.monotonic()))
                found = await self._reading.xreadgroup(
                    GROUP, self.worker, {self.address.name: ">"}, count=hand.room, block=round(wait * 1000)
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

    async def _join(self) -> None:
        try:
            await self.client.xgroup_create(self.address.name, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _claim(self, hand: InHand) -> None:
        """Take what nobody works on any more, as far as there is room; the next time goes on from there."""
        name, idle = self.address.name, int(self.address.taken * 1000)
        self._cursor, entries, *_gone = await self._reading.xautoclaim(
            name, GROUP, self.worker, idle, start_id=self._cursor, count=hand.room
        )
        for entry, fields in entries:
            if entry is None or entry in self.held:
                continue
            told = await self._reading.xpending_range(name, GROUP, entry, entry, 1)
            if told:
                self._start(hand, entry, fields, told[0]["times_delivered"])

    async def _beat(self) -> None:
        """Say what is worked on, until it is closed."""
        while True:
            await asyncio.sleep(self.address.taken / 3)
            if self.held:
                # What goes wrong at the server is told where messages are read.
                with suppress(RedisError, OSError):
                    await self.client.xclaim(self.address.name, GROUP, self.worker, 0, list(self.held), justid=True)

    def _start(self, hand: InHand, entry: bytes, fields: dict[bytes, bytes], attempts: int) -> None:
        self.held.add(entry)
        hand.start(RedisDelivery(self, entry, fields, attempts))


class RedisDelivery:
    """An entry of the stream."""

    def __init__(self, queue: RedisQueue, entry: bytes, fields: dict[bytes, bytes], attempts: int) -> None:
        self.attempts, self.fault = attempts, None if FIELD in fields else "the entry has no field `message`"
        shown = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in fields.items()}
        self.body = fields[FIELD] if FIELD in fields else json.dumps(shown).encode()
        self._queue, self._entry = queue, entry

    async def known(self, identity: str) -> bool:
        """Whether there are predictions of this id."""
        beginning = cast(bytes, await self._queue.client.getrange(self._key(identity), 0, len(_ERROR) - 1))
        return beginning not in (b"", _ERROR)

    async def finish(self, identity: str, result: bytes) -> None:
        """Acknowledge, store, note."""
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
        told: list[bytes | str | int] = [
            GROUP, self._entry, max(1, round(address.kept)), identity, result, _LATEST, reason, body, _ERROR
        ]  # fmt: skip
        end = time.monotonic() + address.taken
        while True:
            try:
                await self._queue.end(keys=keys, args=told)
                break
            except (Disconnected, TooLate):
                # The result is there, and the server comes back.
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(_PAUSES[1])
        self._queue.held.discard(self._entry)

    def _key(self, identity: str) -> str:
        return f"{self._queue.address.name}:result:{identity}"
