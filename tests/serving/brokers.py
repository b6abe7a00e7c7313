"""Real brokers of Debian's packages, and librdkafka's own mock of Kafka, on free loopback ports, for as long as a block
lasts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REDIS = shutil.which("redis-server")
# Debian's own wrapper changes to another user.
RABBIT = next(iter(Path("/usr/lib/rabbitmq").glob("bin/rabbitmq-server")), None)

NATS = shutil.which("nats-server")

with_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")
with_rabbitmq = pytest.mark.skipif(RABBIT is None, reason="rabbitmq-server is not installed")
with_nats = pytest.mark.skipif(NATS is None, reason="nats-server is not installed")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Its URL. What it holds is kept in the folder, write by write."""
    assert REDIS is not None
    port = port or free_port()
    command = [
        REDIS,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
        "--save",
        "",
        "--appendonly",
        "yes",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _answers(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def nats_server(folder: Path, port: int | None = None, options: tuple[str, ...] | None = None) -> Iterator[str]:
    """Its URL. What JetStream holds is kept in the folder."""
    options = ("-js", "-sd", str(folder)) if options is None else options
    assert NATS is not None
    port = port or free_port()
    command = [NATS, "-a", "127.0.0.1", "-p", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(port, process)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def rabbitmq_server(folder: Path) -> Iterator[str]:
    """Its URL."""
    assert RABBIT is not None
    port, distribution, names = free_port(), free_port(), free_port()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
    }
    (folder / "plugins").write_text("[].\n")
    log = (folder / "out.txt").open("wb")
    process = subprocess.Popen([str(RABBIT)], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _answers(port, process, 180)
        yield f"amqp://guest:guest@127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(["epmd", "-port", str(names), "-kill"], capture_output=True, check=False)
        log.close()


# It speaks Kafka's protocol over TCP, in a process of its own: groups, offsets and their metadata are as in Kafka, but
# topics are made by asking for them, can't be declared or deleted, and a group's first members wait for three seconds.
_MOCK = """
import sys, time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
(broker,) = producer.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def kafka_server(folder: Path) -> Iterator[str]:
    """Its URL."""
    command = [sys.executable, "-c", _MOCK]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"kafka://{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def _answers(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"the broker ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError("the broker did not begin")
