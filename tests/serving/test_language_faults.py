"""Language bundles and clients that misbehave, and processes that are killed."""

import contextlib
import json
import os
import signal
import socket
import threading
import time

import httpx
import openai
import pytest

from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from tests.bundle import made
from tests.serving.test_supervisor import Served

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made.chat_bundle(tmp_path_factory.mktemp("faults") / "chat", context=2000)


def request(body, path="/v1/chat/completions"):
    content = json.dumps({"model": "chat", "messages": HELLO, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_reads_nothing_is_left(bundle):
    """Its buffers fill up, the others are answered all the while, and its places fall free before its texts end."""
    server = Server({"chat": bundle}, listen("127.0.0.1", 0), limits=Limits(slots=4, sending=0.5))
    writer = server.models["chat"].writer
    with server.background() as url, socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect(address(url))
        body = {"stream": True, "n": 3, "max_tokens": 1900, "logprobs": True, "top_logprobs": 20, "temperature": 0}
        idle.sendall(request(body))
        until(lambda: writer.running == 3)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            answer = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=5, temperature=0)
            assert answer.usage.completion_tokens == 5
            until(lambda: writer.running == 0, 60)
        received = b""
        idle.settimeout(10)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while part := idle.recv(1 << 20):
                received += part
        assert received.startswith(b"HTTP/1.1 200")
        assert b"[DONE]" not in received
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_clients_that_go_at_any_moment_leave_nothing_behind(bundle):
    server = Server({"chat": bundle}, listen("127.0.0.1", 0), limits=Limits(slots=4))
    writer = server.models["chat"].writer
    with server.background() as url:
        for place in range(24):
            with socket.create_connection(address(url)) as client:
                whole = request({"stream": place % 2 == 0, "max_tokens": 1500, "n": 1 + place % 3})
                client.sendall(whole if place % 4 else whole[: len(whole) - place])
                time.sleep(0.01 * (place % 5))
        until(lambda: writer.running == writer.waiting == 0)
        assert not writer._texts
        answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "chat", "messages": HELLO, "max_tokens": 2})
        assert answer.status_code == 200


def test_a_request_that_can_not_be_computed_leaves_its_neighbours_alone(bundle, monkeypatch):
    """One row's numbers overflow inside; the others say what they say alone."""
    with Server({"chat": bundle}, listen("127.0.0.1", 0)).background() as url:

        def ask(**more):
            body = {"model": "chat", "messages": HELLO, "max_tokens": 30, "logprobs": True, **more}
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)

        alone = ask(seed=3).json()["choices"][0]["message"]["content"]
        from reinforge.serving.openai.asked import ChatAsked

        plain = ChatAsked.sampling

        def sampling(self, pipeline, most):
            found = plain(self, pipeline, most)
            if self.seed == 666:
                object.__setattr__(found, "repetition", 1e-320)
            return found

        monkeypatch.setattr(ChatAsked, "sampling", sampling)
        found = {}
        threads = [threading.Thread(target=lambda seed=seed: found.update({seed: ask(seed=seed)})) for seed in (3, 666)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found[3].json()["choices"][0]["message"]["content"] == alone
        assert found[666].status_code in (200, 500)


@pytest.mark.slow
def test_a_replica_killed_while_it_writes(bundle):
    """Clients see an error, not an end; the others go on; it is ready again in under 5 s where the machine is quiet."""
    server = Served(bundle.path, "--workers", "2")
    crowded = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    try:
        assert server.wait(server.ready)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        before, streams = server.workers, []
        for _ in range(8):
            streams.append(
                client.chat.completions.create(
                    model="table", messages=HELLO, max_tokens=1900, temperature=0, stream=True
                )
            )
            next(iter(streams[-1]))
        os.kill(before[0], signal.SIGKILL)
        killed, outcomes = time.monotonic(), []
        assert server.wait(lambda: not server.ready(), 3)
        assert server.wait(server.ready, 60)
        took = time.monotonic() - killed
        for stream in streams:
            try:
                outcomes.append([chunk.choices[0].finish_reason for chunk in stream][-1])
            except openai.APIError as error:
                outcomes.append(type(error).__name__)
        assert set(outcomes) <= {"length", "APIConnectionError", "APIError"}
        assert len(set(outcomes)) == 2, outcomes
        print(f"ready again after {took:.1f} s; {crowded:.1f} processes want each core")
        assert took < 5 * crowded
        answer = client.chat.completions.create(model="table", messages=HELLO, max_tokens=3, temperature=0)
        assert answer.usage.completion_tokens == 3
    finally:
        server.stop()
