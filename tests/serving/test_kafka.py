"""What is Kafka's own: what of a partition is finished, groups that change, brokers that go and come back."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from reinforge.errors import ReinforgeError
from reinforge.serving.queues import kafka, kafka_cluster
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand
from reinforge.serving.queues.offsets import Partition
from reinforge.serving.queues.queue import check, queue_at
from tests.serving.brokers import free_port, kafka_server
from tests.serving.test_queue import SECONDS, Kafka, _comes_about, _taking


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with kafka_server(tmp_path_factory.mktemp("kafka")) as url:
        yield url


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of three seconds."""
    monkeypatch.setattr(kafka, "_SESSION", 3.0)


@given(st.data())
def test_what_is_finished_is_known_to_the_next_owner(data: st.DataObject) -> None:
    """An owner that is killed at any time, and the next that reads what he noted last, against a list of what came."""
    offsets = sorted(data.draw(st.sets(st.integers(0, 40), max_size=15)))
    finished: set[int] = set()
    taken = dict.fromkeys(offsets, 0)
    committed: tuple[int, str | None] = (-1001, None)
    for _owner in range(data.draw(st.integers(1, 4))):
        partition = Partition.noted(0, *committed)
        for offset in (each for each in offsets if each >= partition.offset):
            if not data.draw(st.booleans()):
                break
            assert partition.take(offset) == (offset not in finished)
            if offset not in finished:
                taken[offset] += 1
                assert partition.open[offset] == taken[offset]
            for each in data.draw(st.sets(st.sampled_from(sorted(partition.open)))) if partition.open else ():
                del partition.open[each]
                finished.add(each)
            committed = (partition.offset, partition.note)
        if data.draw(st.booleans()):
            for each in partition.open:
                taken[each] -= each <= partition.read
            partition.leave()
            committed = (partition.offset, partition.note)
    # What is before the offset is finished, and of what is not the offset is the first.
    partition = Partition.noted(0, *committed)
    assert {each for each in offsets if each < partition.offset} <= finished
    assert set(partition.open).isdisjoint(finished)


def test_who_leaves_before_a_message_came_did_not_take_it() -> None:
    """Otherwise one that ends its workers would be forgiven by each whose partitions change before he reads."""
    partition = Partition.noted(0, 7, "reinforge 4 0:3 2:2")
    assert partition.take(7)
    assert partition.open == {7: 4, 9: 2}
    partition.leave()
    assert partition.open == {7: 3, 9: 2}


@pytest.mark.parametrize("came", [9, 10, 100])
def test_what_kafka_deleted_is_waited_for_no_longer(came: int) -> None:
    """By the topic's retention or compaction; otherwise the offset would never go on."""
    partition = Partition.noted(0, 7, "reinforge 4 0:3 1:2 2:2")
    partition.take(came)
    partition.open.pop(came, None)
    assert (partition.offset, partition.note) == (max(11, came + (came >= 11)), "reinforge 0")


@pytest.mark.parametrize(
    "note",
    [None, "", "x", "4 0:5", "somebody 4", "reinforge", "reinforge 4 0:x", "reinforge -5", "reinforge 4 4:1",
     "reinforge 4 -1:1", "reinforge 4 0:-9", "reinforge 4 0:1:1"],
)  # fmt: skip
def test_a_note_that_is_not_ours(note: str | None) -> None:
    """All before the offset is finished, and nothing after it."""
    partition = Partition.noted(3, 7, note)
    assert (partition.offset, partition.next, partition.open) == (7, 7, {})
    assert partition.take(7)


def test_what_an_owner_noted_is_taken_on(url: str) -> None:
    """Finished messages are left out, others taken once more than was noted."""
    queue = Kafka(url, "noted")
    queue.put(*(b'{"id": "same", "%d"' % i for i in range(5)))
    with queue._consumer("noted") as (consumer, there):
        (place,) = (each for each in there if consumer.get_watermark_offsets(each)[1])
        place = TopicPartition("noted", place.partition, 0, "reinforge 4 0:5 2:1")
        consumer.commit(offsets=[place], asynchronous=False)
    came: list[tuple[bytes, int]] = []

    async def handle(delivery: Any) -> None:
        came.append((delivery.body[-2:-1], delivery.attempts))
        await delivery.drop()

    async def run() -> None:
        async with _taking(queue_at(Address(url, "noted")), InHand(handle, 8)):
            await _comes_about(lambda: len(came) == 3)

    asyncio.run(run())
    assert came == [(b"0", 6), (b"2", 2), (b"4", 1)]
    assert queue.left() == 0


def test_what_was_not_finished_when_its_worker_left(url: str, short: None) -> None:
    """It is another's, and was not taken before; what came after it and is finished does not come again."""
    queue = Kafka(url, "leaving")
    queue.put(*(b'{"id": "same", "%d"' % i for i in range(3)))
    came: list[tuple[bytes, int]] = []

    async def handle(delivery: Any) -> None:
        came.append((delivery.body[-2:-1], delivery.attempts))
        if len(came) == 1:
            await asyncio.Event().wait()
        await delivery.finish("same", b"{}")

    async def run() -> None:
        first, hand = queue_at(Address(url, "leaving", taken=3)), InHand(handle, 8)
        task = asyncio.ensure_future(first.take(hand))
        await _comes_about(lambda: len(came) == 3 and len(hand._tasks) == 1)
        task.cancel()
        await hand.settle(0)
        await first.close()
        async with _taking(queue_at(Address(url, "leaving", taken=3)), InHand(handle, 8)):
            await _comes_about(lambda: len(came) == 4)

    asyncio.run(run())
    assert came == [(b"0", 1), (b"1", 1), (b"2", 1), (b"0", 1)]
    assert queue.left() == 0


_KILLED = """
import asyncio, sys
from reinforge.serving.queues import kafka
from reinforge.serving.queues.address import Address
from reinforge.serving.queues.broker import InHand
kafka._SESSION = 3.0

async def handle(delivery):
    print(delivery.attempts, flush=True)
    await asyncio.Event().wait()

asyncio.run(kafka.KafkaQueue(Address(sys.argv[1], sys.argv[2], taken=3)).take(InHand(handle, 4)))
"""


@pytest.mark.slow
def test_a_worker_that_is_killed(url: str, short: None) -> None:
    """What it had in hand is another's, who knows that it was taken before."""
    queue = Kafka(url, "sigkill")
    queue.put(b"kills")
    came: list[int] = []

    async def handle(delivery: Any) -> None:
        came.append(delivery.attempts)
        await delivery.bury(None, b"", "why")

    async def run() -> None:
        async with _taking(queue_at(Address(url, "sigkill", taken=3)), InHand(handle, 4)):
            await _comes_about(lambda: came)

    for attempt in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", _KILLED, url, "sigkill"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == f"{attempt}\n"
        process.kill()
        process.communicate()
    asyncio.run(run())
    assert came == [3]
    assert queue.dead(1) == [(b"kills", "why")]
    assert queue.left() == 0


def test_a_group_that_changes(url: str, short: None) -> None:
    """Another worker joins, and has half the partitions: what is worked on there is his, and what the first makes of it
    is not stored; a computation longer than a session costs nobody his place."""
    queue = Kafka(url, "joins")
    queue.put(*(b'{"id": "%d"}' % i for i in range(40)))
    address = Address(url, "joins", taken=3)
    hold = asyncio.Event()
    came: list[tuple[int, str, int]] = []

    def handler(worker: int) -> Any:
        async def handle(delivery: Any) -> None:
            identity = delivery.body.decode()[8:-2]
            came.append((worker, identity, delivery.attempts))
            if worker == 1:
                await hold.wait()
            await delivery.finish(identity, b'{"worker": %d}' % worker)

        return handle

    async def run() -> None:
        first = InHand(handler(1), 64)
        async with _taking(queue_at(address), first):
            await _comes_about(lambda: len(came) == 40)
            async with _taking(queue_at(address), InHand(handler(2), 64)):
                await _comes_about(lambda: len(came) > 40)
                await asyncio.sleep(3)
                hold.set()
                await _comes_about(lambda: not first._tasks)

    asyncio.run(run())
    found = queue.results(40)
    second = {identity for worker, identity, _attempts in came if worker == 2}
    assert 0 < len(second) < 40
    # The mock sometimes takes no commits from who hands over, as Kafka does; then it counts once more.
    assert {(worker, attempts) for worker, _identity, attempts in came} <= {(1, 1), (2, 1), (2, 2)}
    assert found == {str(i): [{"worker": 2 if str(i) in second else 1}] for i in range(40)}
    assert queue.left() == 0


def test_no_more_is_taken_from_kafka_than_ahead(url: str, short: None) -> None:
    """And what is worked on for longer than a session stays with its worker, though nothing is asked for meanwhile."""
    queue = Kafka(url, "ahead")
    queue.put(*(str(i).encode() for i in range(30)))
    most, ended = 0, list[tuple[bytes, int]]()

    async def handle(delivery: Any) -> None:
        nonlocal most
        most = max(most, len(hand._tasks))
        await asyncio.sleep(5.0 if not ended and len(hand._tasks) <= 3 and delivery.body in first else 0.01)
        ended.append((delivery.body, delivery.attempts))
        await delivery.drop()

    class Hand(InHand):
        def start(self, delivery: Any) -> None:
            if len(first) < 3:
                first.add(delivery.body)
            super().start(delivery)

    async def run() -> None:
        async with _taking(queue_at(Address(url, "ahead", taken=3, ahead=3)), hand):
            await _comes_about(lambda: len(ended) >= 30)

    first: set[bytes] = set()
    hand = Hand(handle, 3)
    asyncio.run(run())
    assert sorted(ended) == sorted((str(i).encode(), 1) for i in range(30))
    assert most == 3
    assert queue.left() == 0


def test_a_result_that_kafka_does_not_take(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in a smaller one, and the message put aside; a dead letter that is too large says where it stands."""
    queue = Kafka(url, "large")
    queue.put(b'{"id": "a"}', b'{"id": "b"}' + b" " * 5000, b'{"id": "c"}')
    monkeypatch.setattr(kafka, "_LARGEST", 2000)
    done: list[str] = []

    async def handle(delivery: Any) -> None:
        identity = delivery.body[8:9].decode()
        if identity == "b":
            await delivery.bury("b", b'{"error":1}', "why")
        else:
            await delivery.finish(identity, b'"' + b"x" * (3000 if identity == "a" else 10) + b'"')
        done.append(identity)

    async def run() -> None:
        async with _taking(queue_at(Address(url, "large")), InHand(handle, 4)):
            await _comes_about(lambda: len(done) == 3)

    asyncio.run(run())
    found = queue.results(3)
    assert "max.message.bytes" in found["a"][0]["error"]["remedy"]
    assert (found["b"], found["c"]) == ([{"error": 1}], ["x" * 10])
    letters = {message.key(): message for message in queue.read("large.dead")}
    assert letters[b"a"].value() == b'{"id": "a"}'
    headers = {name: value.decode() for name, value in letters[b"b"].headers()}
    name, partition, offset = headers["place"].split()
    (original,) = (
        each for each in queue.read(name) if (each.partition(), each.offset()) == (int(partition), int(offset))
    )
    assert original.value().startswith(b'{"id": "b"}')
    assert (headers["reason"], headers["id"], letters[b"b"].value()) == ("why", "b", b"")


def test_headers_of_a_dead_letter_are_whole(url: str) -> None:
    """Whatever characters its id and its reason have."""
    queue = Kafka(url, "headers")
    queue.put(b"x")

    async def handle(delivery: Any) -> None:
        await delivery.bury("a\0b", b"{}", "no \0, \ud800 or \u00e9")
        done.set()

    async def run() -> None:
        async with _taking(queue_at(Address(url, "headers")), InHand(handle, 4)):
            await asyncio.wait_for(done.wait(), SECONDS)

    done = asyncio.Event()
    asyncio.run(run())
    (letter,) = queue.read("headers.dead")
    headers = dict(letter.headers())
    assert (headers["id"], letter.key()) == (b"a\0b", b"a\0b")
    assert headers["reason"] == b"no \0, ? or \xc3\xa9"


def test_a_fault_beside_what_is_too_large() -> None:
    """It is not taken for the lesser one, which would finish the message without its answer."""
    own: Any = queue_at(Address("kafka://h"))
    for codes in ((KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._MSG_TIMED_OUT),
                  (KafkaError._MSG_TIMED_OUT, KafkaError.MSG_SIZE_TOO_LARGE)):  # fmt: skip
        ending: Any = kafka.Ending(None, (), None, left=2)  # type: ignore[arg-type]
        own._fault, own._sending = None, {ending}
        for code in codes:
            own._sent(ending, KafkaError(code), None)
        assert own._fault.args[0].code() == KafkaError._MSG_TIMED_OUT


def test_an_id_that_is_sent_again_when_its_result_is_gone(url: str) -> None:
    """It is computed again."""
    queue = Kafka(url, "late")
    known: list[bool] = []

    async def handle(delivery: Any) -> None:
        known.append(await delivery.known("a"))
        await delivery.finish("a", b"{}")

    async def run() -> None:
        async with _taking(queue_at(Address(url, "late", kept=2)), InHand(handle, 4)):
            for count in (1, 2, 3):
                await asyncio.to_thread(queue.put, b'{"id": "a"}')
                await _comes_about(lambda count=count: len(known) == count)
                await asyncio.sleep(0.1 if count == 1 else 2.5)

    asyncio.run(run())
    assert known == [False, True, False]


def test_a_fault_that_waiting_does_not_mend(url: str, short: None, capfd: Any) -> None:
    """The worker begins anew; what was in hand comes again, and what was made of it before is stored by nobody."""
    queue = Kafka(url, "anew")
    queue.put(b'{"id": "a"}')
    came: list[int] = []
    stored: list[bool] = []

    async def handle(delivery: Any) -> None:
        came.append(delivery.attempts)
        if len(came) == 1:
            own._fault = KafkaException(KafkaError(KafkaError._FATAL, "it broke"))
            await _comes_about(lambda: len(came) == 2)
        await delivery.finish("a", b'{"of": %d}' % len(stored))
        stored.append(delivery.partition.ours)

    async def run() -> None:
        async with _taking(own, InHand(handle, 4)):
            await _comes_about(lambda: len(stored) == 2)

    own: Any = queue_at(Address(url, "anew", taken=3))
    asyncio.run(run())
    assert came == [1, 1]
    assert len(queue.results(1)["a"]) == 1
    assert queue.left() == 0
    told = capfd.readouterr().err
    assert told.count("it broke") == 1
    assert "Traceback" not in told


def test_a_fault_of_ours_ends_taking(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hear(self: Any) -> None:
        raise ZeroDivisionError

    Kafka(url, "fault")
    monkeypatch.setattr(kafka.KafkaQueue, "_hear", hear)

    async def run() -> None:
        await asyncio.wait_for(queue_at(Address(url, "fault")).take(InHand(None, 4)), SECONDS)  # type: ignore[arg-type]

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


class Relay:
    """What stands before a broker and can be taken away: who asks where the broker is, is told that it is here."""

    def __init__(self, url: str) -> None:
        self.real, self.port = int(url.rpartition(":")[2]), free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def begin(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def end(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self.real)
        self._writers |= {writer, requests}
        real, here = (b"127.0.0.1" + struct.pack(">i", port) for port in (self.real, self.port))

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    size = await source.readexactly(4)
                    body = await source.readexactly(struct.unpack(">i", size)[0])
                    sink.write(size + body.replace(real, here))
                    await sink.drain()
            sink.close()

        await asyncio.gather(pass_on(reader, requests), pass_on(answers, writer))


@contextlib.asynccontextmanager
async def _relayed(url: str) -> AsyncIterator[tuple[Relay, str]]:
    relay = Relay(url)
    await relay.begin()
    try:
        yield relay, f"kafka://127.0.0.1:{relay.port}"
    finally:
        await relay.end()


def test_kafka_goes_away_and_comes_back(url: str, capfd: Any) -> None:
    """That is said once; what was in hand is stored when it is back."""
    queue = Kafka(url, "away")
    queue.put(b'{"id": "a"}')
    came: list[str] = []
    back = asyncio.Event()

    async def handle(delivery: Any) -> None:
        identity = delivery.body[8:9].decode()
        came.append(identity)
        if identity == "a":
            await relay.end()
            asyncio.get_running_loop().call_later(2, back.set)
        await delivery.finish(identity, b"{}")
        came.append(identity.upper())

    async def run() -> None:
        nonlocal relay
        async with (
            _relayed(url) as (relay, address),
            _taking(queue_at(Address(address, "away")), InHand(handle, 4)),
        ):
            await asyncio.wait_for(back.wait(), SECONDS)
            assert came == ["a"]
            await relay.begin()
            queue.put(b'{"id": "b"}')
            await _comes_about(lambda: {"A", "B"} <= set(came))

    relay: Relay
    asyncio.run(run())
    assert set(queue.results(2)) == {"a", "b"}
    assert queue.left() == 0
    told = capfd.readouterr().err
    assert told.count("can't be reached") == 1
    assert "Traceback" not in told


def test_a_worker_ends_though_kafka_is_away(url: str, capfd: Any) -> None:
    """With something in hand, in seconds."""
    queue = Kafka(url, "gone")
    queue.put(b"a")

    async def handle(delivery: Any) -> None:
        came.set()
        await asyncio.sleep(1)
        await delivery.finish("a", b"{}")

    async def run() -> float:
        async with _relayed(url) as (relay, address):
            own, hand = queue_at(Address(address, "gone")), InHand(handle, 4)
            task = asyncio.ensure_future(own.take(hand))
            await asyncio.wait_for(came.wait(), SECONDS)
            await relay.end()
            await asyncio.sleep(2)
            began = time.monotonic()
            task.cancel()
            await hand.settle(0.5)
            await own.close()
            return time.monotonic() - began

    came = asyncio.Event()
    assert asyncio.run(run()) < 6
    assert "Traceback" not in capfd.readouterr().err


def test_what_kafka_lacks_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_cluster, "_SECONDS", 1.0)
    with pytest.raises(ReinforgeError, match=r"(?s)none is missing, and can't be created.*allow"):
        asyncio.run(check(Address(url, "none")))


@pytest.mark.parametrize(
    ("more", "said"),
    [("kafka://me:sesame@{place}", "SASL"), ("kafka+ssl://{place}", "SSL"), ("kafka+ssl://me:sesame@{place}", "SSL"),
     ("kafka+ssl://{place}?ca=/nowhere/ca.pem", "ca"), ("kafka://me:sesame@{place}?mechanism=WORD", "WORD"),
     ("kafka://127.0.0.1:1,127.0.0.1:2", "refused")],
)  # fmt: skip
def test_kafka_that_is_refused(url: str, more: str, said: str) -> None:
    """TLS or credentials that the broker does not take, in seconds and without the password."""
    Kafka(url, "refused")
    began = time.monotonic()
    with pytest.raises(ReinforgeError, match="can't be reached") as caught:
        asyncio.run(check(Address(more.format(place=url.partition("://")[2]), "refused")))
    assert said in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("address", "said"),
    [("kafka://", "host"), ("kafka://a:9092,", "host"), ("kafka://a,b:x", "read"), ("kafka://a/topic", "host"),
     ("kafka://a?group=b", "mechanism, ca, cert, key"), ("kafka://me:ses/ame@a", "read"),
     ("kafka://me:7/sesame@a", "host"), ("kafka://me:7?sesame@a", "host"), ("kafka://me:7#sesame@a", "host")],
)  # fmt: skip
def test_an_address_that_is_none_of_kafkas(address: str, said: str) -> None:
    with pytest.raises(ReinforgeError, match=said) as caught:
        Address(address)
    assert "ame" not in str(caught.value).replace("name", "")


def test_an_address_of_kafkas() -> None:
    address = Address("kafka+ssl://me:p%40ss%2Cword@one:9093,two?mechanism=SCRAM-SHA-512&ca=/etc/ca.pem")
    assert address.shown == "kafka+ssl://one:9093,two"
    said = kafka_cluster.settings(address)
    assert {key: value for key, value in said.items() if key not in ("client.id", "log_level")} == {
        "bootstrap.servers": "one:9093,two", "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me", "sasl.password": "p@ss,word", "ssl.ca.location": "/etc/ca.pem",
    }  # fmt: skip
    assert kafka_cluster.settings(Address("kafka://me:secret@h"))["security.protocol"] == "SASL_PLAINTEXT"
    assert kafka_cluster.settings(Address("kafka://h"))["security.protocol"] == "PLAINTEXT"
