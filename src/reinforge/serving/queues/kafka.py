"""A queue in Kafka (2.4 or newer), or what speaks like it.

By the queue's NAME: the topic NAME of requests as JSON; NAME.results, compacted, with results under their ids, of which
the last stands; NAME.dead, what was put aside, the reason in a header. The workers are the group NAME. All replicas
that are in sync have a result before its request is committed, so a worker that ends between the two has it stored once
more.

Kafka counts no deliveries and keeps one offset a partition, before which all is finished. Messages are finished in any
order, so what is not is told in the offset's metadata with how often it was taken (`offsets.py`), and before it is
worked on: the next owner of the partition leaves out what is finished, and puts aside what was taken too often.
Transactions would store each result once for readers who ask for committed ones alone; but what a killed worker left
open holds up those readers and the partition's next owner, and a result that comes again is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from reinforge.errors import ReinforgeError
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand, lost, unreachable
from reinforge.serving.queues.kafka_cluster import declare, plain, settings
from reinforge.serving.queues.offsets import Partition
from reinforge.serving.refusals import Refused, told

_SECONDS, _LEAVING, _HANDING = 5.0, 3.0, 1.0
_IDLE, _BUSY, _PAUSE = 0.2, 0.01, 0.2
_PAUSES = (0.1, 0.5, 2.0, 5.0)
# Brokers refuse shorter ones.
_SESSION = 6.0
# Ids of results that this worker stored last, so that what is sent again is not computed again.
_LATEST = 10_000
# What is fetched before it is asked for; what is sent together, so that what is larger is one message; and what we
# refuse, since the broker does of its own accord.
_FETCHED_KIB, _BATCH, _LARGEST = 16_384, 65_536, 1 << 26
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)
# A topic, a key, a value, headers.
Output = tuple[str, bytes | None, bytes, dict[str, str | bytes | None]]


class TooLarge(Exception):
    """More than the broker takes."""


@dataclass(eq=False)
class Ending:
    """What is to be stored before a message is finished; `done` says whether it was: another may have the message."""

    delivery: KafkaDelivery
    outputs: tuple[Output, ...]
    done: asyncio.Future[bool]
    left: int = 0
    error: KafkaError | None = None


class KafkaQueue:
    """The topics, and this worker's place in the group."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.results, self.dead = f"{address.name}.results", f"{address.name}.dead"
        # When each was stored.
        self.sent: OrderedDict[str, float] = OrderedDict()
        # What the event loop tells the thread: how a message ends, or that it is given back.
        self.said: SimpleQueue[Ending | KafkaDelivery] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._taking = self._closing = self._told = False

    async def check(self) -> None:
        """Raise ReinforgeError where Kafka is not there, or a topic is missing and can't be created."""
        try:
            await asyncio.to_thread(declare, self.address, self.results, self.dead)
        except KafkaException as error:
            raise unreachable(self.address, plain(error)) from None

    async def take(self, hand: InHand) -> None:
        """Take messages as there is room for them: in a thread, which goes on until all is closed."""
        self._hand, self._loop = hand, asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._taking = True
        self._thread = threading.Thread(target=self._run, name="kafka", daemon=True)
        self._thread.start()
        try:
            await asyncio.shield(self._ended)
        finally:
            self._taking = False

    async def close(self) -> None:
        """Leave the group: what is not finished goes to others, as if it had not been taken."""
        self._closing = True
        if self._thread is not None:
            await asyncio.wait([self._ended], timeout=_LEAVING)

    def remember(self, identity: str) -> None:
        """That its result was stored."""
        self.sent.pop(identity, None)
        self.sent[identity] = time.monotonic()
        if len(self.sent) > _LATEST:
            self.sent.popitem(last=False)

    # What follows runs in the thread, which alone speaks to the consumer and knows the partitions.

    def _run(self) -> None:
        failures = 0
        ended: BaseException | None = None
        try:
            while not self._closing:
                try:
                    self._session()
                except (KafkaException, ReinforgeError) as error:
                    self._tell(plain(error))
                    failures = 0 if self._reached else failures + 1
                    self._rest(_PAUSES[min(failures, len(_PAUSES) - 1)])
        except BaseException as error:  # noqa: BLE001 (it is raised where messages are taken)
            ended = error
        self._call(_settle, self._ended, ended)

    def _session(self) -> None:
        """From joining the group until all is closed, or until something that waiting does not mend."""
        self._partitions: dict[int, Partition] = {}
        # What was taken and what was stored since the last commit; what is being stored.
        self._fresh: list[KafkaDelivery] = []
        self._stored: list[Ending] = []
        self._sending: set[Ending] = set()
        self._fault: KafkaException | None = None
        self._failing: float | None = None
        self._again = self._asked = 0.0
        self._reached = False
        self._paused: bool | None = None
        declare(self.address, self.results, self.dead)
        cluster, session = settings(self.address), max(self.address.taken, _SESSION)
        self._producer = Producer(
            {**cluster, "acks": "all", "enable.idempotence": True, "batch.size": _BATCH, "message.max.bytes": _LARGEST}
        )
        self._consumer = Consumer({
            **cluster, "group.id": self.address.name, "enable.auto.commit": False, "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": round(session * 1000),
            "heartbeat.interval.ms": round(min(3.0, session / 4) * 1000),
            "queued.max.messages.kbytes": _FETCHED_KIB, "error_cb": self._failed,
        })  # fmt: skip
        try:
            self._consumer.subscribe(
                [self.address.name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            while not self._closing:
                self._hear()
                self._read()
                self._commit()
                if self._fault is not None:
                    raise self._fault
        finally:
            for partition in self._partitions.values():
                partition.ours = False
            for ending in (*self._sending, *self._stored):
                self._call(_settle, ending.done, False)
            self._producer.purge(blocking=False)
            self._consumer.close()

    def _hear(self) -> None:
        """What becomes of messages; some time for it where nothing else is to be done."""
        if self._sending:
            self._producer.poll(_BUSY)
        wait = not self._sending and self._room < self.address.ahead
        with contextlib.suppress(Empty):
            while True:
                said = self.said.get(wait, _BUSY)
                wait = False
                partition = said.partition if isinstance(said, KafkaDelivery) else said.delivery.partition
                if isinstance(said, KafkaDelivery):
                    if self._taking and partition.ours and said.offset in partition.open:
                        partition.open[said.offset] += 1
                        self._fresh.append(KafkaDelivery(self, partition, said.offset, said.body))
                elif partition.ours:
                    self._send(said)
                else:
                    self._call(_settle, said.done, False)

    @property
    def _room(self) -> int:
        return self._hand.room - len(self._fresh) if self._taking else 0

    def _read(self) -> None:
        """Ask for messages; where there is no room, for news of the group now and then, with all partitions paused."""
        room, now = self._room, time.monotonic()
        if room <= 0 and not self._paused and now < self._asked + 1.0:
            return
        if self._paused != (room <= 0):
            self._paused = room <= 0
            (self._consumer.pause if self._paused else self._consumer.resume)(self._consumer.assignment())
        self._asked = now
        first = self._consumer.poll(_IDLE if room >= self.address.ahead else 0)
        if first is not None:
            for message in (first, *(self._consumer.consume(room - 1, 0) if room > 1 else ())):
                self._came(message)

    def _came(self, message: Message) -> None:
        if (fault := message.error()) is not None:
            raise KafkaException(fault)
        number, offset = message.partition() or 0, message.offset() or 0
        if (partition := self._partitions.get(number)) is None:
            return
        if offset <= partition.read:
            # The topic was deleted, and begins anew.
            partition.ours = False
            partition = self._partitions[number] = Partition(number)
        if partition.take(offset):
            self._fresh.append(KafkaDelivery(self, partition, offset, message.value() or b""))

    def _send(self, ending: Ending) -> None:
        if not ending.outputs:
            self._end(ending)
            return
        ending.left = len(ending.outputs)
        self._sending.add(ending)
        for topic, key, value, headers in ending.outputs:
            sent = partial(self._sent, ending)
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=sent)
            except KafkaException as error:
                sent(error.args[0], None)
            except BufferError as error:
                # It comes again with all that is in hand.
                sent(KafkaError(KafkaError._QUEUE_FULL, str(error)), None)

    def _sent(self, ending: Ending, error: KafkaError | None, _message: Message | None) -> None:
        if error is not None and (ending.error is None or ending.error.code() in _TOO_LARGE):
            ending.error = error
        ending.left -= 1
        if ending.left:
            return
        if ending.error is None:
            self._end(ending)
        elif ending.error.code() in _TOO_LARGE:
            self._call(_settle, ending.done, TooLarge())
        else:
            self._fault = KafkaException(ending.error)
            return
        self._sending.discard(ending)

    def _end(self, ending: Ending) -> None:
        ending.delivery.partition.open.pop(ending.delivery.offset, None)
        self._stored.append(ending)

    def _commit(self) -> None:
        """What is new, and go on with what waited for that; later, while the group changes or its broker is away."""
        if not (self._fresh or self._stored) or time.monotonic() < self._again:
            return
        changed = {each.partition for each in (*self._fresh, *(ending.delivery for ending in self._stored))}
        try:
            self._note({partition for partition in changed if partition.ours})
        except KafkaException as error:
            now = time.monotonic()
            self._failing, self._again = self._failing or now, now + _PAUSE
            if now > self._failing + self.address.taken:
                raise error
            return
        self._failing, self._reached, self._told = None, True, False
        for ending in self._stored:
            self._call(_settle, ending.done, True)
        beginning = [each for each in self._fresh if each.partition.ours]
        self._stored, self._fresh = [], []

        async def begin() -> None:
            for each in beginning:
                if self._taking:
                    self._hand.start(each)

        if beginning:
            with contextlib.suppress(RuntimeError):
                asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    def _note(self, partitions: set[Partition]) -> None:
        offsets = [TopicPartition(self.address.name, each.number, each.offset, each.note) for each in partitions]
        if offsets:
            for done in self._consumer.commit(offsets=offsets, asynchronous=False):
                if done.error is not None:
                    raise KafkaException(done.error)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = consumer.committed(partitions, timeout=_SECONDS) if partitions else []
        for each in committed:
            if each.error is not None:
                raise KafkaException(each.error)
            self._partitions[each.partition] = Partition.noted(each.partition, each.offset, each.metadata)
        consumer.incremental_assign(committed)
        # They are not paused as the others are.
        self._paused = None

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leaving = {self._partitions[each.partition] for each in partitions if each.partition in self._partitions}
        for partition in leaving:
            partition.leave()
        # Where it can't be told, it was taken once more, and what was stored is again.
        end = time.monotonic() + _HANDING
        while time.monotonic() < end:
            with contextlib.suppress(KafkaException):
                self._note({partition for partition in leaving if partition.next})
                break
            time.sleep(_PAUSE)
        self._lost(consumer, partitions)

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            if (partition := self._partitions.pop(each.partition, None)) is not None:
                partition.ours = False

    def _failed(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._tell(RuntimeError(error.str()))

    def _tell(self, reason: Exception) -> None:
        if not self._told and not self._closing:
            lost(self.address, reason)
        self._told = True

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._closing:
            time.sleep(_BUSY)

    def _call(self, what: Callable[..., None], *given: Any) -> None:
        """In the event loop, which may be gone."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *given)


class KafkaDelivery:
    """A message of the topic."""

    def __init__(self, queue: KafkaQueue, partition: Partition, offset: int, body: bytes) -> None:
        self.fault: str | None = None
        self.body, self.attempts = body, partition.open[offset]
        self.partition, self.offset = partition, offset
        self._queue = queue

    async def known(self, identity: str) -> bool:
        """Whether this worker stored its result lately, so that it is there still."""
        stored = self._queue.sent.get(identity)
        return stored is not None and time.monotonic() < stored + self._queue.address.kept

    async def finish(self, identity: str, result: bytes) -> None:
        """Store, remember, commit."""
        try:
            if await self._end((self._queue.results, identity.encode(), result, {})):
                self._queue.remember(identity)
        except TooLarge:
            problem = f"its result has {len(result):,} bytes, more than the broker takes"
            remedy = "Ask for fewer rows, or raise the topic's max.message.bytes."
            error = Refused(413, problem, where="message", remedy=remedy)
            answer = {"error": told(error), "id": identity}
            await self.bury(identity, json.dumps(answer, separators=(",", ":")).encode(), str(error))

    async def bury(self, identity: str | None, result: bytes, reason: str) -> None:
        """The same, with a dead letter: where that is too large, its headers alone, which say where the message is."""
        place = f"{self._queue.address.name} {self.partition.number} {self.offset}"
        key = None if identity is None else identity.encode()
        # In bytes: a text would end with its first NUL.
        headers: dict[str, str | bytes | None] = {
            "reason": reason[:2000].encode(errors="replace"), "id": key or b"", "place": place.encode(),
        }  # fmt: skip
        answer: list[Output] = [] if identity is None else [(self._queue.results, key, result, {})]
        try:
            await self._end((self._queue.dead, key, self.body, headers), *answer)
        except TooLarge:
            await self._end((self._queue.dead, key, b"", headers))

    async def drop(self) -> None:
        """Commit alone."""
        await self._end()

    async def release(self) -> None:
        """To be taken again, here or by who has the partition next."""
        self._queue.said.put(self)

    async def _end(self, *outputs: Output) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.said.put(Ending(self, outputs, done))
        return await done


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
