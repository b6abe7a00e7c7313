"""Requests from a queue: real brokers, workers killed, and what can't be answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import nats
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from reinforge.bundle.loading import load
from reinforge.errors import MissingExtra, ReinforgeError
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand
from reinforge.serving.queues.nats import key
from reinforge.serving.queues.queue import check, queue_at
from reinforge.serving.server import Server
from tests.near import near
from tests.serving.brokers import (
    free_port,
    kafka_server,
    nats_server,
    rabbitmq_server,
    redis_server,
    with_nats,
    with_rabbitmq,
    with_redis,
)

GOOD = {"size": 1.0, "mass": 2, "island": "Dream"}
SECONDS = 60.0


class Redis:
    """A client of the queue, as anybody would write one."""

    def __init__(self, url: str, name: str = "reinforge") -> None:
        self.client, self.name, self.url = redis.Redis.from_url(url), name, url

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.client.xadd(self.name, {"message": body})

    def results(self, count: int, seconds: float = SECONDS) -> dict[str, list[Any]]:
        """By id, each result that was stored, once `count` ids have one."""

        def found() -> dict[str, list[Any]]:
            prefix = f"{self.name}:result:"
            keys = [key.decode() for key in self.client.scan_iter(f"{prefix}*", count=1000)]
            return {key[len(prefix) :]: [json.loads(self.client.get(key))] for key in keys}

        _until(lambda: len(found()) >= count, seconds)
        return found()

    def dead(self, count: int) -> list[tuple[bytes, str]]:
        """Messages that were put aside, and why."""
        _until(lambda: self.client.xlen(f"{self.name}:dead") >= count)
        return [(f[b"message"], f[b"reason"].decode()) for _id, f in self.client.xrange(f"{self.name}:dead")]

    def left(self) -> int:
        """Messages that are in the queue still, taken or not."""
        return int(self.client.xlen(self.name))


class Rabbit:
    """The same at RabbitMQ."""

    def __init__(self, url: str, name: str = "reinforge") -> None:
        self.url, self.name = url, name
        self._results: dict[str, list[Any]] = {}
        self._dead: list[tuple[bytes, str]] = []

    def put(self, *bodies: bytes) -> None:
        async def put(channel: Any) -> None:
            for body in bodies:
                await channel.default_exchange.publish(aio_pika.Message(body), self.name)

        self._in(put)

    def results(self, count: int, seconds: float = SECONDS) -> dict[str, list[Any]]:
        async def take(channel: Any) -> None:
            queue = await channel.get_queue(f"{self.name}.results")
            while (message := await queue.get(fail=False)) is not None:
                self._results.setdefault(message.message_id, []).append(json.loads(message.body))
                await message.ack()

        def enough() -> bool:
            self._in(take)
            return len(self._results) >= count

        _until(enough, seconds)
        return self._results

    def dead(self, count: int) -> list[tuple[bytes, str]]:
        async def take(channel: Any) -> None:
            queue = await channel.get_queue(f"{self.name}.dead")
            while (message := await queue.get(fail=False)) is not None:
                self._dead.append((message.body, str(message.headers.get("reason"))))
                await message.ack()

        def enough() -> bool:
            self._in(take)
            return len(self._dead) >= count

        _until(enough)
        return self._dead

    def left(self) -> int:
        async def count(channel: Any) -> int:
            return int((await channel.declare_queue(self.name, passive=True)).declaration_result.message_count)

        return int(self._in(count))

    def _in(self, work: Any) -> Any:
        async def run() -> Any:
            connection = await aio_pika.connect(self.url)
            async with connection:
                return await work(await connection.channel())

        return asyncio.run(run())


class Nats:
    """The same at NATS."""

    def __init__(self, url: str, name: str = "reinforge") -> None:
        self.url, self.name = url, name

    def put(self, *bodies: bytes) -> None:
        async def put(stored: Any) -> None:
            for body in bodies:
                await stored.publish(self.name, body)

        self._in(put)

    def results(self, count: int, seconds: float = SECONDS) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}

        async def read(stored: Any) -> None:
            results = await stored.key_value(f"{self.name}-results")
            keys: list[str] = []
            # So it says of a bucket that is empty, and where the server is slow.
            with contextlib.suppress(nats.js.errors.NoKeysError):
                keys = await results.keys()
            if len(keys) >= count:
                for each in keys:
                    value = json.loads((await results.get(each)).value)
                    assert key(value["id"]) == each
                    found[value["id"]] = [value]

        def enough() -> bool:
            self._in(read)
            return len(found) >= count

        _until(enough, seconds)
        return found

    def dead(self, count: int) -> list[tuple[bytes, str]]:
        async def read(stored: Any) -> list[tuple[bytes, str]]:
            state = (await stored.stream_info(f"{self.name}-dead")).state
            letters = [await stored.get_msg(f"{self.name}-dead", seq) for seq in range(1, state.messages + 1)]
            return [(letter.data or b"", letter.headers["reason"]) for letter in letters]

        _until(lambda: len(self._in(read)) >= count)
        return list(self._in(read))

    def left(self) -> int:
        async def count(stored: Any) -> int:
            return int((await stored.stream_info(self.name)).state.messages)

        return int(self._in(count))

    def _in(self, work: Any) -> Any:
        async def run() -> Any:
            client = await nats.connect(self.url)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(run())


class Kafka:
    """The same at Kafka."""

    def __init__(self, url: str, name: str = "reinforge") -> None:
        self.url, self.name = url, name
        self._settings = {"bootstrap.servers": url.partition("://")[2], "log_level": 0}
        self._producer = Producer(self._settings)
        for topic in (name, f"{name}.results", f"{name}.dead"):
            # A mock of Kafka makes what is asked for.
            self._producer.list_topics(topic, timeout=10)

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            found = re.search(rb'"id": "([^"]+)"', body)
            while len(self._producer) > 10_000:
                self._producer.poll(0.1)
            self._producer.produce(self.name, body, found and found[1])
        assert self._producer.flush(30) == 0

    def results(self, count: int, seconds: float = SECONDS) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}

        def enough() -> bool:
            found.clear()
            for message in self.read(f"{self.name}.results"):
                found.setdefault(message.key().decode(), []).append(json.loads(message.value()))
            return len(found) >= count

        _until(enough, seconds)
        return found

    def dead(self, count: int) -> list[tuple[bytes, str]]:
        found: list[Any] = []

        def enough() -> bool:
            found[:] = self.read(f"{self.name}.dead")
            return len(found) >= count

        _until(enough)
        return [(message.value() or b"", dict(message.headers())["reason"].decode()) for message in found]

    def left(self) -> int:
        with self._consumer(self.name) as (consumer, there):
            committed = {each.partition: max(each.offset, 0) for each in consumer.committed(there, timeout=10)}
            return sum(consumer.get_watermark_offsets(each)[1] - committed[each.partition] for each in there)

    def read(self, topic: str) -> list[Any]:
        """All that there is."""
        with self._consumer(topic) as (consumer, there):
            wanted = 0
            for each in there:
                each.offset, end = consumer.get_watermark_offsets(each)
                wanted += end - each.offset
            consumer.assign(there)
            found: list[Any] = []
            end_by = time.monotonic() + 10
            while len(found) < wanted and time.monotonic() < end_by:
                found += consumer.consume(wanted - len(found), 0.1)
            assert all(message.error() is None for message in found)
            return found

    @contextlib.contextmanager
    def _consumer(self, topic: str) -> Iterator[tuple[Any, list[TopicPartition]]]:
        consumer = Consumer({**self._settings, "group.id": self.name, "enable.auto.commit": False})
        try:
            numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            yield consumer, [TopicPartition(topic, number) for number in numbers]
        finally:
            consumer.close()


AnyQueue = Redis | Rabbit | Nats | Kafka
CLIENTS: dict[str, type[Redis] | type[Rabbit] | type[Nats] | type[Kafka]] = {
    "redis": Redis, "rabbitmq": Rabbit, "nats": Nats, "kafka": Kafka,
}  # fmt: skip


def _until(condition: Any, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


async def _comes_about(condition: Any) -> None:
    """The same in an event loop."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _taking(own: Any, hand: InHand) -> AsyncIterator[asyncio.Task[None]]:
    """Messages are taken, until the block ends."""
    task = asyncio.ensure_future(own.take(hand))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await hand.settle(5)
        await own.close()


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs, each begun when it is first asked for."""
    with contextlib.ExitStack() as stack:

        class Begun(dict[str, str]):
            def __missing__(self, kind: str) -> str:
                begin = {
                    "redis": redis_server, "rabbitmq": rabbitmq_server, "nats": nats_server, "kafka": kafka_server,
                }[kind]  # fmt: skip
                self[kind] = stack.enter_context(begin(tmp_path_factory.mktemp(kind)))
                return self[kind]

        yield Begun()


KINDS = [
    pytest.param("redis", marks=with_redis),
    pytest.param("rabbitmq", marks=with_rabbitmq),
    pytest.param("nats", marks=with_nats),
    pytest.param("kafka"),
]


@pytest.fixture(params=KINDS)
def queue(request: pytest.FixtureRequest, brokers: dict[str, str]) -> AnyQueue:
    """An empty queue of its own."""
    kind = request.param
    name = re.sub(r"\W+", "-", request.node.name)[:90]
    return CLIENTS[kind](brokers[kind], name)


def _message(identity: str, *rows: Any, **more: Any) -> bytes:
    return json.dumps({"id": identity, "rows": list(rows) or [GOOD], **more}).encode()


@contextlib.contextmanager
def _served(bundles: Any, queue: AnyQueue, **more: Any) -> Iterator[str]:
    address = Address(queue.url, queue.name, **more)
    asyncio.run(check(address))
    with Server(bundles, listen("127.0.0.1", 0), limits=Limits(body=100_000), queue=address).background() as url:
        yield url


def test_answers_are_those_of_predict(bundles: Any, queue: AnyQueue) -> None:
    """What waited before anybody took it, and what comes later, of each kind of bundle."""
    table, policy = load(bundles["table"].path), load(bundles["policy"].path)
    observation = {"observation": [0.1] * 4}
    queue_rows = [{**GOOD, "mass": mass} for mass in range(20)]
    asyncio.run(check(Address(queue.url, queue.name)))
    queue.put(*(_message(f"t{i}", row, model="table") for i, row in enumerate(queue_rows[:10])))
    with _served(bundles, queue):
        queue.put(*(_message(f"t{i + 10}", row, model="table") for i, row in enumerate(queue_rows[10:])))
        queue.put(_message("p", observation, model="policy"))
        found = queue.results(21)
    assert all(len(stored) == 1 for stored in found.values())
    for i, row in enumerate(queue_rows):
        (stored,) = found[f"t{i}"]
        assert (stored["id"], stored["model"]) == (f"t{i}", "table")
        assert near(stored["predictions"], json.loads(json.dumps(table.predict([row]))))
    assert near(found["p"][0]["predictions"], json.loads(json.dumps(policy.predict([observation]))))
    assert queue.left() == 0


def test_the_same_id_again(bundles: Any, queue: AnyQueue) -> None:
    """Sent twice, it has one result, and the queue is empty."""
    with _served({"table": bundles["table"]}, queue):
        queue.put(_message("one"))
        queue.results(1)
        queue.put(_message("one"), _message("two"))
        found = queue.results(2)
        _until(lambda: queue.left() == 0)
    assert {identity: len(stored) for identity, stored in found.items()} == {"one": 1, "two": 1}


BAD = {
    b"\xff\xfe": "message", b"{": "message", b"[]": "id", b"{}": "id", b'{"id": ""}': "id",
    b'{"id": 3, "rows": [1]}': "id",
    b'{"id": "' + b"x" * 201 + b'", "rows": [1]}': "id", _message("a", model="none"): "no model",
    b'{"id": "b", "rows": []}': "rows", b'{"id": "c"}': "rows", _message("d", more=1): "rows",
    _message("e", {**GOOD, "mass": "heavy"}): "mass", _message("f", 7): "row", b"[" * 50_000: "deep",
    json.dumps({"id": "é" * 150, "rows": [1]}, ensure_ascii=False).encode(): "id",
    b'{"id": "g", "rows": [' + b" " * 200_000 + b"1]}": "bytes", b'{"id": "h", "rows": [NaN]}': "message",
}  # fmt: skip


def test_dead_letters(bundles: Any, queue: AnyQueue) -> None:
    """What can't be answered is put aside with its reason, its sender is told where he gave an id, and the next one is
    answered."""
    with _served({"table": bundles["table"]}, queue):
        queue.put(*BAD, _message("good"))
        dead = queue.dead(len(BAD))
        found = queue.results(6)
        _until(lambda: queue.left() == 0)
    assert {body for body, _reason in dead} == set(BAD)
    for body, reason in dead:
        assert BAD[body] in reason, reason
    assert "predictions" in found["good"][0]
    assert "mass" in found["e"][0]["error"]["where"]
    assert {"a", "b", "c", "d", "e", "f", "good"} <= set(found)
    assert all("error" in found[identity][0] for identity in "abcdef")


def test_a_bad_row_alone(bundles: Any, queue: AnyQueue) -> None:
    with _served({"table": bundles["table"]}, queue):
        queue.put(_message("mixed", GOOD, {**GOOD, "mass": "heavy"}, partial=True))
        (found,) = queue.results(1)["mixed"]
    good, bad = found["predictions"]
    assert "species" in good
    assert bad["error"]["row"] == 1


def test_a_language_bundle_writes(bundles: Any, queue: AnyQueue) -> None:
    row = {"text": "ab"}
    expected = load(bundles["text"].path).predict([row])
    with _served({"text": bundles["text"]}, queue):
        queue.put(_message("w", row))
        (found,) = queue.results(1)["w"]
    assert found["predictions"] == json.loads(json.dumps(expected))


def test_what_ends_every_worker_is_put_aside(bundles: Any, queue: AnyQueue, monkeypatch: Any) -> None:
    """A fault of ours is tried again, and given up after `attempts`; others are answered meanwhile."""
    table = load(bundles["table"].path)
    real = type(table).predict

    def predict(self: Any, rows: Any, *more: Any) -> Any:
        if any(row["mass"] == 13 for row in rows):
            raise RuntimeError("it breaks")
        return real(self, rows, *more)

    monkeypatch.setattr(type(table), "predict", predict)
    with _served({"table": table}, queue, attempts=2, taken=0.3):
        queue.put(_message("bad", {**GOOD, "mass": 13}))
        queue.put(_message("good"))
        (body, reason), *others = queue.dead(1)
        found = queue.results(2)
    assert not others
    assert body == _message("bad", {**GOOD, "mass": 13})
    assert "taken 2 times" in reason
    assert "predictions" in found["good"][0]
    assert "taken 2 times" in found["bad"][0]["error"]["problem"]


def test_a_dead_letter_sent_again_is_answered(bundles: Any, queue: AnyQueue) -> None:
    """Mended under the same id, it has predictions in the place of its error; then they stay."""
    with _served({"table": bundles["table"]}, queue):
        queue.put(_message("o", {**GOOD, "mass": "heavy"}))
        queue.dead(1)
        assert "error" in queue.results(1)["o"][-1]
        queue.put(_message("o"))
        _until(lambda: "predictions" in queue.results(1)["o"][-1])
        queue.put(_message("o", {**GOOD, "mass": "heavy"}))
        _until(lambda: queue.left() == 0)


@with_redis
def test_many_at_once(bundles: Any, brokers: dict[str, str], capfd: Any) -> None:
    """More in hand than there are connections."""
    queue = Redis(brokers["redis"], "many")
    asyncio.run(check(Address(queue.url, queue.name)))
    queue.put(*(_message(str(i)) for i in range(1000)))
    with _served({"table": bundles["table"]}, queue):
        assert len(queue.results(1000)) == 1000
        _until(lambda: queue.left() == 0)
    assert "Traceback" not in capfd.readouterr().err


@with_redis
def test_an_entry_of_another_shape(bundles: Any, brokers: dict[str, str]) -> None:
    queue = Redis(brokers["redis"], "shape")
    with _served({"table": bundles["table"]}, queue):
        queue.client.xadd(queue.name, {"msg": b"precious"})
        ((body, reason),) = queue.dead(1)
    assert b"precious" in body
    assert "no field `message`" in reason


@with_redis
def test_what_nobody_works_on_goes_first(brokers: dict[str, str]) -> None:
    """Though new messages would fill all the room there is; what is worked on for long stays with its worker."""
    queue = Redis(brokers["redis"], "abandoned")
    address = Address(queue.url, queue.name, taken=0.6, ahead=4)
    ended: list[tuple[bytes, int]] = []

    async def handle(delivery: Any) -> None:
        await asyncio.sleep(2.0 if delivery.body == b"long" else 0.02)
        ended.append((delivery.body, delivery.attempts))
        await delivery.drop()

    async def run() -> None:
        own, hand = queue_at(address), InHand(handle, address.ahead)
        await own.check()
        # A worker that took four and was killed.
        queue.put(*(f"lost{i}".encode() for i in range(4)))
        queue.client.xreadgroup("reinforge", "gone", {queue.name: ">"}, count=4)
        queue.put(b"long", *(str(i).encode() for i in range(400)))
        task = asyncio.ensure_future(own.take(hand))
        await asyncio.sleep(3)
        task.cancel()
        await hand.settle(5)
        await own.close()

    asyncio.run(run())
    bodies = [body for body, _attempts in ended]
    assert len(set(bodies)) == len(bodies)
    assert all((f"lost{i}".encode(), 2) in ended for i in range(4))
    assert (b"long", 1) in ended


@with_rabbitmq
def test_who_asked_is_gone(bundles: Any, brokers: dict[str, str]) -> None:
    """A reply to a queue that is there goes there, to one that is not to the results."""
    queue = Rabbit(brokers["rabbitmq"], "replies")

    async def ask(channel: Any) -> None:
        await channel.declare_queue("mine", durable=True)
        for place in ("mine", "nowhere"):
            message = aio_pika.Message(_message(place), reply_to=place, correlation_id="c")
            await channel.default_exchange.publish(message, queue.name)

    async def mine(channel: Any) -> Any:
        return await (await channel.get_queue("mine")).get(fail=False)

    with _served({"table": bundles["table"]}, queue):
        queue._in(ask)
        assert set(queue.results(1)) == {"nowhere"}
        found: list[Any] = []
        _until(lambda: found.append(queue._in(mine)) or found[-1] is not None)
    assert (found[-1].message_id, found[-1].correlation_id) == ("mine", "c")


@with_redis
def test_what_is_in_hand_is_finished(bundles: Any, brokers: dict[str, str], monkeypatch: Any) -> None:
    """Told to stop, a server ends what it has begun and begins nothing more."""
    table = load(bundles["table"].path)
    real = type(table).predict

    def slow(self: Any, rows: Any, *more: Any) -> Any:
        time.sleep(1.5)
        return real(self, rows, *more)

    monkeypatch.setattr(type(table), "predict", slow)
    queue = Redis(brokers["redis"], "stop")
    with _served({"table": table}, queue):
        queue.put(_message("begun"))
        _until(lambda: queue.client.xpending(queue.name, "reinforge")["pending"] == 1)
    queue.put(_message("late"))
    assert set(queue.results(1)) == {"begun"}
    assert queue.left() == 1


@with_redis
def test_taking_that_ends_by_itself_ends_the_server(bundles: Any, brokers: dict[str, str], monkeypatch: Any) -> None:
    """Rather than answer HTTP and be called ready, while nothing is taken."""
    from reinforge.serving.queues import redis as module

    async def take(self: Any, hand: Any) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(module.RedisQueue, "take", take)
    address = Address(brokers["redis"], "ends")
    server = Server({"table": bundles["table"]}, listen("127.0.0.1", 0), queue=address)
    with pytest.raises(RuntimeError, match="it broke"):
        asyncio.run(asyncio.wait_for(server.serve(), 30))
    server.close()


@with_redis
def test_redis_goes_away_and_comes_back(bundles: Any, tmp_path: Path, capfd: Any) -> None:
    port = free_port()
    with redis_server(tmp_path, port) as url:
        queue = Redis(url)
        context = _served({"table": bundles["table"]}, queue)
        context.__enter__()
        queue.put(_message("before"))
        queue.results(1)
    time.sleep(0.5)
    with redis_server(tmp_path, port):
        queue.put(_message("after"))
        assert set(queue.results(2)) == {"before", "after"}
        context.__exit__(None, None, None)
    told = capfd.readouterr().err
    assert told.count("can't be reached") == 1


@with_nats
def test_nats_goes_away_and_comes_back(bundles: Any, tmp_path: Path, capfd: Any) -> None:
    """With what it keeps, and then without."""
    port = free_port()
    with contextlib.ExitStack() as serving:
        with nats_server(tmp_path / "one", port) as url:
            queue = Nats(url)
            serving.enter_context(_served({"table": bundles["table"]}, queue))
            queue.put(_message("before"))
            queue.results(1)
        time.sleep(0.5)
        with nats_server(tmp_path / "one", port):
            queue.put(_message("after"))
            assert set(queue.results(2)) == {"before", "after"}
        with nats_server(tmp_path / "two", port):
            # There is no stream any more, until the worker has declared it anew.
            _until(lambda: _answered(queue, "anew"))
            assert "predictions" in queue.results(1)["anew"][0]
            serving.close()
    assert "Traceback" not in capfd.readouterr().err


def _answered(queue: Nats, identity: str) -> bool:
    with contextlib.suppress(nats.errors.Error):
        queue.put(_message(identity))
        return True
    return False


@with_nats
def test_a_result_that_the_broker_does_not_take(bundles: Any, brokers: dict[str, str], monkeypatch: Any) -> None:
    """It is told in a smaller one, and the message put aside; others are answered."""
    table = load(bundles["table"].path)
    real = type(table).predict

    def predict(self: Any, rows: Any, *more: Any) -> Any:
        return [{**found, "more": "x" * (2 << 20 if row["mass"] == 13 else 1)}
                for row, found in zip(rows, real(self, rows, *more), strict=True)]  # fmt: skip

    monkeypatch.setattr(type(table), "predict", predict)
    queue = Nats(brokers["nats"], "large")
    with _served({"table": table}, queue):
        queue.put(_message("too-large", {**GOOD, "mass": 13}), _message("good"))
        ((body, reason),) = queue.dead(1)
        found = queue.results(2)
        _until(lambda: queue.left() == 0)
    assert body == _message("too-large", {**GOOD, "mass": 13})
    assert "more than the broker takes" in reason
    assert "max_payload" in found["too-large"][0]["error"]["remedy"]
    assert "predictions" in found["good"][0]


@with_nats
def test_what_is_nearly_too_large_for_nats(brokers: dict[str, str], capfd: Any) -> None:
    """Headers count too: what is just below the limit ends nobody's connection."""
    most = 1 << 20
    queue = Nats(brokers["nats"], "nearly")
    # Results without room for their header, and with just enough.
    results = {f"r{below}": b'"' + b"x" * (most - below - 2) + b'"' for below in (0, 1, 30, 60, 100, 200)}
    # Dead letters without room for a header, for the reason, and with it.
    bodies = {b"b%04d" % below: b"b%04d" % below + b"x" * (most - below - 5) for below in (0, 1, 60, 500, 3000)}

    async def handle(delivery: Any) -> None:
        name = delivery.body[:5]
        if name in bodies:
            await delivery.bury(name.decode(), b'{"error":1}', "reason " * 200)
        else:
            await delivery.finish(delivery.body.decode(), results[delivery.body.decode()])

    async def run() -> None:
        own = queue_at(Address(queue.url, queue.name))
        await own.check()
        await asyncio.to_thread(queue.put, *bodies.values(), *(name.encode() for name in results))
        async with _taking(own, InHand(handle, 4)):
            while await asyncio.to_thread(queue.left):
                await asyncio.sleep(0.1)

    async def read(stored: Any) -> None:
        kept = await stored.key_value("nearly-results")
        for name, result in results.items():
            value = (await kept.get(name)).value
            assert value == result if name == "r200" else b"max_payload" in value or value == result
        count = (await stored.stream_info("nearly-dead")).state.messages
        letters = [await stored.get_msg("nearly-dead", seq) for seq in range(1, count + 1)]
        reasons = {letter.data: (letter.headers or {}).get("reason") for letter in letters}
        assert set(bodies.values()) <= set(reasons)
        assert reasons[bodies[b"b0000"]] is None
        assert "reason reason" in reasons[bodies[b"b3000"]]
        assert b"r0" in reasons

    asyncio.run(asyncio.wait_for(run(), SECONDS))
    queue._in(read)
    assert capfd.readouterr().err == ""


@with_nats
def test_a_connection_that_the_server_ended(brokers: dict[str, str]) -> None:
    """It is opened anew; what was in hand then is answered over the new one."""
    queue = Nats(brokers["nats"], "ended")
    done: list[tuple[bytes, int]] = []

    async def handle(delivery: Any) -> None:
        if delivery.body == b"first":
            # As nats-py ends it after what it takes for a violation of the protocol.
            await own._client.close()
        await delivery.finish(delivery.body.decode(), b"{}")
        done.append((delivery.body, delivery.attempts))

    async def run() -> None:
        await own.check()
        await asyncio.to_thread(queue.put, b"first")
        async with _taking(own, InHand(handle, 4)):
            await _comes_about(lambda: done)
            await asyncio.to_thread(queue.put, b"second")
            await _comes_about(lambda: len(done) == 2)

    own: Any = queue_at(Address(queue.url, queue.name))
    asyncio.run(run())
    assert done == [(b"first", 1), (b"second", 1)]
    assert queue.left() == 0


@with_nats
def test_a_bucket_and_a_stream_deleted_meanwhile(brokers: dict[str, str]) -> None:
    """They are declared anew, and there is one dead letter, though it is told again and again."""
    queue = Nats(brokers["nats"], "deleted")

    headers: list[dict[str, str]] = []

    async def handle(delivery: Any) -> None:
        await delivery.bury("a", b'{"error":1}', "why")
        done.append(1)

    async def put_aside(body: bytes, more: dict[str, str]) -> None:
        """It is stored, and nobody hears of it."""
        await real(body, more)
        headers.append(more)
        if len(headers) == 1:
            raise nats.errors.TimeoutError

    async def delete(stored: Any) -> None:
        await stored.delete_key_value("deleted-results")
        await stored.delete_stream("deleted-dead")

    async def run() -> None:
        await own.check()
        await asyncio.to_thread(queue._in, delete)
        await asyncio.to_thread(queue.put, b"one")
        async with _taking(own, InHand(handle, 4)):
            await _comes_about(lambda: done)

    done: list[int] = []
    own: Any = queue_at(Address(queue.url, queue.name))
    real, own.put_aside = own.put_aside, put_aside
    asyncio.run(run())
    assert len(headers) == 2
    assert queue.dead(1) == [(b"one", "why")]
    assert queue.left() == 0

    async def kept(stored: Any) -> bytes:
        return (await (await stored.key_value("deleted-results")).get("a")).value or b""

    assert queue._in(kept) == b'{"error":1}'


@with_nats
def test_predictions_outlast_errors_that_come_between(brokers: dict[str, str], monkeypatch: Any) -> None:
    """Another worker stores an error, and the one that was there expires, while ours are being stored."""
    queue = Nats(brokers["nats"], "between")
    real, turns = nats.js.kv.KeyValue.update, []

    async def update(self: Any, place: str, *more: Any, **others: Any) -> Any:
        turns.append(place)
        if len(turns) == 1:
            await self.put(place, b'{"error":2}')
        else:
            await self._js.purge_stream("KV_between-results")
        return await real(self, place, *more, **others)

    async def handle(delivery: Any) -> None:
        await own.results.put("a", b'{"error":1}')
        await delivery.finish("a", b'{"predictions":[]}')

    async def run() -> bytes:
        await own.check()
        await asyncio.to_thread(queue.put, b"one")
        async with _taking(own, InHand(handle, 4)):
            while await asyncio.to_thread(queue.left):
                await asyncio.sleep(0.05)
            return (await own.results.get("a")).value or b""

    monkeypatch.setattr(nats.js.kv.KeyValue, "update", update)
    own: Any = queue_at(Address(queue.url, queue.name))
    assert asyncio.run(asyncio.wait_for(run(), SECONDS)) == b'{"predictions":[]}'
    assert turns == ["a", "a"]


@with_nats
def test_what_came_and_was_not_begun_goes_back_to_nats(brokers: dict[str, str]) -> None:
    """A worker that is told to stop while messages come leaves none waiting for `taken`."""
    queue = Nats(brokers["nats"], "back")
    address = Address(queue.url, queue.name, taken=600)
    # So large that they come one after another.
    bodies = [f"{i:100000}".encode() for i in range(20)]
    ended: list[bytes] = []

    async def handle(delivery: Any) -> None:
        ended.append(delivery.body)
        await delivery.drop()

    class Stopped(InHand):
        def start(self, delivery: Any) -> None:
            super().start(delivery)
            task.cancel()

    async def run() -> None:
        nonlocal task
        first, second = queue_at(address), queue_at(address)
        await first.check()
        await asyncio.to_thread(queue.put, *bodies)
        task = asyncio.ensure_future(first.take(hand := Stopped(handle, 20)))
        await asyncio.wait([task])
        await hand.settle(5)
        await first.close()
        begun.append(len(ended))
        async with _taking(second, InHand(handle, 20)):
            await _comes_about(lambda: len(ended) >= len(bodies))

    task: asyncio.Task[None]
    begun: list[int] = []
    asyncio.run(run())
    assert begun[0] < len(bodies)
    assert sorted(ended) == sorted(bodies)


def test_a_worker_that_begins_before_its_broker(queue: AnyQueue, capfd: Any) -> None:
    """It says so once, and takes messages when the broker is there."""
    there, port = urlsplit(queue.url).port, free_port()
    own = queue_at(Address(queue.url.replace(f":{there}", f":{port}"), queue.name))
    done: list[bytes] = []

    async def handle(delivery: Any) -> None:
        await delivery.drop()
        done.append(delivery.body)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", there)

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pass_on(reader, requests), pass_on(answers, writer))

    async def run() -> None:
        async with _taking(own, InHand(handle, 4)) as task:
            await asyncio.sleep(1.5)
            assert not task.done()
            server = await asyncio.start_server(relay, "127.0.0.1", port)
            await _comes_about(lambda: done)
        server.close()

    asyncio.run(check(Address(queue.url, queue.name)))
    queue.put(b"waits")
    asyncio.run(run())
    assert done == [b"waits"]
    assert capfd.readouterr().err.count("can't be reached") == 1


@with_nats
def test_what_nats_lacks_is_said(tmp_path: Path) -> None:
    with nats_server(tmp_path, options=()) as url, pytest.raises(ReinforgeError, match="nats-server -js"):
        asyncio.run(check(Address(url)))
    with nats_server(tmp_path, options=("-js", "-sd", str(tmp_path), "--user", "me", "--pass", "sesame")) as url:
        with pytest.raises(ReinforgeError, match=r"(?s)Authorization.*credentials"):
            asyncio.run(check(Address(url)))
        asyncio.run(check(Address(url.replace("//", "//me:sesame@"))))


@with_nats
def test_what_is_worked_on_for_long_at_nats_stays_with_its_worker(brokers: dict[str, str]) -> None:
    """What a worker took and was killed with is given to another; no more is taken than ahead."""
    queue = Nats(brokers["nats"], "beats")
    address = Address(queue.url, queue.name, taken=3, ahead=3)
    ended: list[tuple[bytes, int]] = []
    most = 0

    async def handle(delivery: Any) -> None:
        nonlocal most
        most = max(most, len(hand._tasks))
        await asyncio.sleep(5.0 if delivery.body == b"long" else 0.01)
        ended.append((delivery.body, delivery.attempts))
        await delivery.drop()

    async def lose() -> None:
        """Take one and end, as a worker does that is killed."""
        gone, taken = queue_at(address), asyncio.Event()

        async def keep(delivery: Any) -> None:
            taken.set()
            await asyncio.Event().wait()

        lost = InHand(keep, 1)
        await gone.check()
        task = asyncio.ensure_future(gone.take(lost))
        await taken.wait()
        task.cancel()
        await gone.close()

    async def run() -> None:
        await own.check()
        await asyncio.to_thread(queue.put, b"lost")
        await lose()
        await asyncio.to_thread(queue.put, b"long", *(str(i).encode() for i in range(30)))
        async with _taking(own, hand):
            await _comes_about(lambda: len(ended) >= 32)

    own, hand = queue_at(address), InHand(handle, address.ahead)
    asyncio.run(run())
    bodies = [body for body, _attempts in ended]
    assert len(bodies) == len(set(bodies)) == 32
    assert (b"lost", 2) in ended
    assert (b"long", 1) in ended
    assert most <= 3


@with_redis
def test_no_more_is_taken_than_ahead(bundles: Any, tmp_path: Path) -> None:
    """Back-pressure: what a worker can't begin stays in the queue for others."""
    with redis_server(tmp_path) as url:
        queue = Redis(url)
        queue.put(*(_message(str(i)) for i in range(50)))
        taken: list[int] = []

        async def run() -> None:
            hold = asyncio.Event()

            async def handle(delivery: Any) -> None:
                taken.append(1)
                await hold.wait()

            own, hand = queue_at(Address(url, ahead=7)), InHand(handle, 7)
            await own.check()
            task = asyncio.ensure_future(own.take(hand))
            await asyncio.sleep(1.5)
            task.cancel()
            await hand.settle(0)
            await own.close()

        asyncio.run(run())
        assert len(taken) == 7
        assert queue.client.xpending("reinforge", "reinforge")["pending"] == 7


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://x", "begins with one of"), ("localhost:6379", "begins with one of"), ("redis://127.0.0.1:1", "reached"),
     ("amqp://127.0.0.1:1", "reached"), ("redis://name:secret@127.0.0.1:1/0", "reached"),
     ("redis://h:abc", "read"), ("redis://[::1", "read"), ("redis://h:99999", "read"),
     ("redis://h?protocol=3", "protocol"), ("unix:///nowhere/redis.sock", "reached"),
     ("nats://name:secret@127.0.0.1:1", "reached"), ("tls://127.0.0.1:1", "reached")],
)  # fmt: skip
def test_an_address_that_is_none(url: str, said: str) -> None:
    with pytest.raises(ReinforgeError, match=said) as caught:
        asyncio.run(check(Address(url)))
    assert "secret" not in str(caught.value)


def test_a_name_that_is_none() -> None:
    with pytest.raises(ReinforgeError, match="letters"):
        Address("redis://127.0.0.1", "a b")
    for name in ("a..b", "a.b."):
        Address("redis://127.0.0.1", name)
        with pytest.raises(ReinforgeError, match="two in a row"):
            Address("nats://127.0.0.1", name)


def test_without_its_package(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"reinforge\[queue\]"):
        asyncio.run(check(Address("redis://127.0.0.1")))


@with_rabbitmq
def test_a_queue_that_is_another(brokers: dict[str, str]) -> None:
    """A queue of that name that is no quorum queue is left as it is."""

    async def declare() -> None:
        connection = await aio_pika.connect(brokers["rabbitmq"])
        async with connection:
            await (await connection.channel()).declare_queue("classic", durable=True)

    asyncio.run(declare())
    with pytest.raises(ReinforgeError, match="reached"):
        asyncio.run(check(Address(brokers["rabbitmq"], "classic")))


@with_nats
def test_a_stream_that_is_another(brokers: dict[str, str]) -> None:
    """A stream of that name that is no work queue is left as it is; and so is one of a name that looks the same."""

    async def declare(stored: Any) -> None:
        await stored.add_stream(name="other", subjects=["other"])

    Nats(brokers["nats"])._in(declare)
    with pytest.raises(ReinforgeError, match="reached"):
        asyncio.run(check(Address(brokers["nats"], "other")))
    asyncio.run(check(Address(brokers["nats"], "one.two")))
    with pytest.raises(ReinforgeError, match="reached"):
        asyncio.run(check(Address(brokers["nats"], "one_two")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_workers_killed_at_random(kind: str, brokers: dict[str, str], bundles: Any) -> None:
    """None is lost and each id has one result, though replicas are killed again and again; the right one."""
    queue = CLIENTS[kind](brokers[kind], "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "reinforge", "serve", f"table={bundles['table'].path}", "--port", "0", "--workers", "2",
         "--queue", queue.url, "--queue-name", "killed"], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    draw, count, killed = random.Random(0), 3000, 0
    try:
        assert process.stderr is not None
        assert "Serving" in process.stderr.readline()
        for start in range(0, count, 100):
            queue.put(*(_message(str(i), {**GOOD, "mass": i}) for i in range(start, start + 100)))
            if draw.random() < 0.3:
                children = subprocess.run(
                    ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
                ).stdout.split()
                with contextlib.suppress(ProcessLookupError):
                    if children:
                        os.kill(int(draw.choice(children)), signal.SIGKILL)
                        killed += 1
        # What a worker had in hand when it was killed waits for 30 seconds, and may meet that fate again.
        found = queue.results(count, 240)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    table = load(bundles["table"].path)
    assert killed > 3
    assert set(found) == {str(i) for i in range(count)}
    expected = table.predict([{**GOOD, "mass": i} for i in range(count)])
    for i, prediction in enumerate(json.loads(json.dumps(expected))):
        for stored in found[str(i)]:
            assert near(stored["predictions"], [prediction])
    if kind != "rabbitmq":
        assert queue.left() == 0
