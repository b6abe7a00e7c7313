"""A queue in JetStream, the part of NATS (2.9 or newer) that keeps messages.

By the queue's NAME (S: the same with its dots as underscores): the stream S of requests as JSON, whose subject is NAME;
the key-value bucket S-results, with a result by its id (`key`); the stream S-dead, subject NAME.dead, with what was put
aside, the reason in a header. The workers are one consumer. A worker says again and again what it works on; what nobody
works on is given to another. A result is stored before its request is acknowledged, and never over a prediction.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from contextlib import suppress
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, MaxPayloadError, NoServersError, TimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, KeyValueConfig, RetentionPolicy, StreamConfig
from nats.js.errors import (
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NoStreamResponseError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from reinforge.errors import ReinforgeError
from reinforge.messages import _
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand, lost, unreachable
from reinforge.serving.refusals import Refused, told

CONSUMER = "reinforge"
# Dead letters that are kept at most, and messages that all workers together may have in hand.
_LATEST, _IN_HAND = 100_000, 1_000_000
_SECONDS, _LEAVING = 5.0, 2.0
_PULL_SECONDS = 2.0
_PAUSES = (0.1, 0.5, 2.0, 5.0)
_KEY = re.compile(r"[-_a-zA-Z0-9]+")
# How an error is told in a result's place; a later prediction of the same id takes it.
_ERROR = b'{"error":'
# What the server says to a request for messages that has come to its end without one.
_NONE = frozenset({"404", "408"})
# Bytes of a header block without ours: where it begins and ends, and what nats-py says of a key's last revision.
_HEADERS = 128
# The bucket or a stream was deleted.
_MISSING = (NoStreamResponseError, NotFoundError)
# Codes of a NATS without JetStream: nobody answers, it is not for this account, it is not turned on.
_NO_JETSTREAM = (None, 10039, 10076)


def key(identity: str) -> str:
    """Under which the bucket has the result of an id: itself, or "=" and its base64 (of URLs, unpadded) where it has
    other characters than ASCII letters, digits, hyphens and underscores."""
    if _KEY.fullmatch(identity):
        return identity
    return "=" + base64.urlsafe_b64encode(identity.encode()).decode().rstrip("=")


class NatsQueue:
    """The stream, and this worker's connection to it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.stream = address.name.replace(".", "_")
        self.dead = f"{address.name}.dead"
        self.held: dict[str, Msg] = {}
        self.results: KeyValue
        self._client: Client | None = None
        self._mending, self._mended = asyncio.Lock(), 0.0
        self._beating: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raise ReinforgeError where NATS is not there, keeps no messages, or a stream of that name is another."""
        try:
            await self._open()
        except ServiceUnavailableError as error:
            if error.err_code not in _NO_JETSTREAM:
                raise unreachable(self.address, error) from None
            raise ReinforgeError(
                _("this NATS keeps no messages: it has no JetStream"), where=self.address.shown,
                remedy=_("Start it with JetStream (nats-server -js), and allow it to the account."),
            ) from None  # fmt: skip
        except (Error, OSError, ValueError) as error:
            raise unreachable(self.address, error) from None

    async def close(self) -> None:
        """Disconnect: what was taken and not acknowledged is given to others when nobody has spoken of it for long."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        if self._client is not None:
            with suppress(Error, OSError):
                # Acknowledgements may be on their way still.
                await self._client.flush(round(_LEAVING))
            with suppress(Error, OSError):
                await asyncio.wait_for(self._client.close(), _LEAVING)

    async def take(self, hand: InHand) -> None:
        """Ask for as many messages as there is room for, again and again."""
        failures = 0
        self._beating = asyncio.ensure_future(self._beat())
        while True:
            await hand.has_room()
            try:
                if failures or self._client is None or self._client.is_closed:
                    await self.mend(time.monotonic())
                await self._pull(hand)
            except (Error, OSError) as error:
                if not failures:
                    lost(self.address, error)
                await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
                continue
            failures = 0

    async def mend(self, since: float, missing: bool = True) -> None:
        """Open a connection that was closed; else declare what is missing: once for all who need it since then."""
        async with self._mending:
            closed = self._client is None or self._client.is_closed
            if self._mended > since or not (closed or missing):
                return
            self._mended = time.monotonic()
            await (self._open() if closed else self._declare())

    def check_size(self, body: bytes, headers: dict[str, str]) -> None:
        """Raise MaxPayloadError where that is too much: the server counts headers too, and ends the connection."""
        size = len(body) + _HEADERS + sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())
        if size > self._connected.max_payload:
            raise MaxPayloadError

    async def put_aside(self, body: bytes, headers: dict[str, str]) -> None:
        """Until the stream of dead letters has it, with these headers where they fit."""
        try:
            self.check_size(body, headers)
        except MaxPayloadError:
            # It fits without any, as it did when it came.
            await self._stored.publish(self.dead, body)
        else:
            await self._stored.publish(self.dead, body, headers=headers)

    async def say(self, message: Msg, what: bytes) -> None:
        """Tell the server what becomes of a message, over the connection that there is now."""
        await self._connected.publish(message.reply, what)

    @property
    def _connected(self) -> Client:
        if self._client is None:
            raise ConnectionClosedError
        return self._client

    async def _open(self) -> None:
        """Connect, and declare all that belongs to the queue."""
        fault: Exception | None = None

        async def failed(error: Exception) -> None:
            nonlocal fault
            fault = fault or error

        try:
            self._client = await nats.connect(
                self.address.url, connect_timeout=_SECONDS, max_reconnect_attempts=1, reconnect_time_wait=0.2,
                error_cb=failed,
            )  # fmt: skip
        except NoServersError as error:
            # What it says says why.
            raise (fault if isinstance(fault, (Error, OSError)) else error) from None
        # One that was there comes back.
        self._client.options["max_reconnect_attempts"] = -1
        self._stored = self._client.jetstream(timeout=_SECONDS)
        await self._declare()

    async def _declare(self) -> None:
        address, stored = self.address, self._stored
        await stored.add_stream(
            StreamConfig(name=self.stream, subjects=[address.name], retention=RetentionPolicy.WORK_QUEUE)
        )
        await stored.add_stream(
            StreamConfig(name=f"{self.stream}-dead", subjects=[self.dead], max_msgs=_LATEST, discard=DiscardPolicy.OLD)
        )
        self.results = await stored.create_key_value(KeyValueConfig(bucket=f"{self.stream}-results", ttl=address.kept))
        # How often it was taken is counted by us, who put aside what was taken too often.
        await stored.add_consumer(
            self.stream,
            ConsumerConfig(
                durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, ack_wait=address.taken, max_ack_pending=_IN_HAND
            ),
        )

    async def _pull(self, hand: InHand) -> None:
        """Ask once for as many as there is room for, and begin each as it comes, until all came or time is up."""
        client, wanted = self._connected, hand.room
        ended: asyncio.Future[Error | None] = asyncio.get_running_loop().create_future()

        async def given(message: Msg) -> None:
            nonlocal wanted
            status = (message.headers or {}).get("Status")
            if ended.done():
                if status is None:
                    await self.say(message, Msg.Ack.Nak)
            elif status is None:
                wanted -= 1
                self.held[message.reply] = message
                hand.start(NatsDelivery(self, message))
                if not wanted:
                    ended.set_result(None)
            elif status in _NONE:
                ended.set_result(None)
            else:
                ended.set_result(Error(f"{status} {(message.headers or {}).get('Description', '')}"))

        inbox = client.new_inbox()
        incoming = await client.subscribe(inbox, cb=given)
        asked = json.dumps({"batch": wanted, "expires": round(_PULL_SECONDS * 1e9)}).encode()
        try:
            await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{CONSUMER}", asked, reply=inbox)
            await asyncio.wait([ended], timeout=_PULL_SECONDS + _SECONDS)
            if not ended.done():
                raise TimeoutError
            if (fault := ended.result()) is not None:
                raise fault
        except asyncio.CancelledError:
            # What is on its way goes back.
            ended.cancel()
            with suppress(Error, OSError):
                await asyncio.wait_for(incoming.drain(), _LEAVING)  # type: ignore[no-untyped-call]
            raise
        finally:
            ended.cancel()
            # The server then gives this inbox nothing more.
            with suppress(Error):
                await incoming.unsubscribe()

    async def _beat(self) -> None:
        """Say what is worked on, until it is closed."""
        while True:
            await asyncio.sleep(self.address.taken / 3)
            for message in list(self.held.values()):
                # What goes wrong at the server is told where messages are taken.
                with suppress(Error, OSError):
                    await self.say(message, Msg.Ack.Progress)


class NatsDelivery:
    """A message of the stream."""

    def __init__(self, queue: NatsQueue, message: Msg) -> None:
        self.fault: str | None = None
        self.body, self.attempts = message.data, message.metadata.num_delivered or 1
        self._queue, self._message = queue, message

    async def known(self, identity: str) -> bool:
        """Whether there are predictions of this id."""
        return _predicts(await self._lasting(self._stored, identity))

    async def finish(self, identity: str, result: bytes) -> None:
        """Store, acknowledge."""
        try:
            await self._lasting(self._put, identity, result)
        except MaxPayloadError:
            problem = f"its result has {len(result):,} bytes, more than the broker takes"
            error = Refused(413, problem, where="message", remedy="Ask for fewer rows, or raise its max_payload.")
            answer = {"error": told(error), "id": identity}
            await self.bury(identity, json.dumps(answer, separators=(",", ":")).encode(), str(error))
            return
        await self.drop()

    async def bury(self, identity: str | None, result: bytes, reason: str) -> None:
        """The same, with a dead letter."""
        place = self._message.metadata
        headers = {
            # A header is one line.
            "reason": " ".join(reason[:2000].split()), "id": key(identity) if identity is not None else "",
            # Tried again, it is one letter.
            "Nats-Msg-Id": f"{place.sequence.stream}-{place.timestamp.timestamp()}",
        }  # fmt: skip
        await self._lasting(self._queue.put_aside, self.body, headers)
        if identity is not None:
            await self._lasting(self._put, identity, result)
        await self.drop()

    async def drop(self) -> None:
        """Acknowledge alone."""
        await self._lasting(self._queue.say, self._message, Msg.Ack.Ack)
        self._queue.held.pop(self._message.reply, None)

    async def release(self) -> None:
        """Back into the queue."""
        self._queue.held.pop(self._message.reply, None)
        await self._queue.say(self._message, Msg.Ack.Nak)

    async def _put(self, identity: str, result: bytes) -> None:
        """Unless there are predictions."""
        self._queue.check_size(result, {})
        place, results = key(identity), self._queue.results
        stored: KeyValue.Entry | None = None
        while not _predicts(stored):
            # Another worker's may come between, or one that was there expire.
            with suppress(KeyWrongLastSequenceError):
                if stored is None:
                    await results.create(place, result)
                else:
                    await results.update(place, result, last=stored.revision)
                return
            stored = await self._stored(identity)

    async def _stored(self, identity: str) -> KeyValue.Entry | None:
        try:
            return await self._queue.results.get(key(identity))
        except KeyNotFoundError:
            return None

    async def _lasting(self, work: Any, *given: Any) -> Any:
        """What it gives, though the broker goes away for a while, since it comes back."""
        end = time.monotonic() + self._queue.address.taken
        while True:
            began = time.monotonic()
            try:
                return await work(*given)
            except MaxPayloadError:
                raise
            except (Error, OSError) as error:
                if began > end:
                    raise
                missing = isinstance(error, _MISSING)
            await asyncio.sleep(_PAUSES[1])
            with suppress(Error, OSError):
                await self._queue.mend(began, missing)


def _predicts(stored: KeyValue.Entry | None) -> bool:
    """Whether there is a result, and no error."""
    return stored is not None and not (stored.value or b"").startswith(_ERROR)
