"""The client, against a real server, and against one that answers what it is told to."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import reinforge
from reinforge.client.calls import Retries
from reinforge.client.errors import BadRequest, Busy, Failed, NotFound, NotPermitted, Unreachable
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from reinforge.serving.task import Access
from reinforge.serving.tokens import add_token, read_tokens
from reinforge.workflow.generate import Draws, generate
from tests.bundle import made

GOOD = {"size": 1.0, "mass": 2, "island": "Dream"}
ONCE = Retries(times=0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    return {
        "table": made.table_bundle(folder / "table"),
        "policy": made.policy_bundle(folder / "policy"),
        "chat": made.chat_bundle(folder / "chat", context=1000),
    }


@pytest.fixture(scope="module")
def server(bundles):
    server = Server(bundles, listen("127.0.0.1", 0), limits=Limits(rows=100))
    with server.background():
        yield server


@pytest.fixture
def client(server):
    with reinforge.Client(server.url, retries=ONCE) as client:
        yield client


class Scripted:
    """A server that gives these answers in turn: (status, headers, body)."""

    def __init__(self, *answers):
        waiting, self.asked = list(answers), []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                asked.append((time.monotonic(), self.rfile.read(int(self.headers["content-length"])), self.headers))
                status, headers, body = waiting.pop(0)
                if status is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content) + headers.get("missing", 0)))
                self.end_headers()
                self.wfile.write(content)
                if headers.get("missing"):
                    self.close_connection = True

            def log_message(self, *_arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()


DONE = (200, {}, {"predictions": [{"y": {"value": 1}}]})


def test_rows_are_predicted(client, bundles):
    rows = [{k: v for k, v in row.items() if k not in ("species", "price")} for row in made.rows(6)]
    expected = bundles["table"].predict(rows)
    assert client.predict("table", rows) == expected
    assert client.predict("table", pl.DataFrame(rows)) == expected
    arrays = [
        {name: np.array(value)[()] if name == "size" and value else value for name, value in row.items()}
        for row in rows
    ]
    assert client.predict("table", arrays) == expected
    partly = client.predict("table", [GOOD, {"size": "x"}], partial=True)
    assert partly[1]["error"]["row"] == 1
    assert [model["name"] for model in client.models()] == ["table", "policy", "chat"]
    assert client.ready()


def test_a_policy_acts(client, bundles):
    observation = np.array([0.1, 2, 3, 4], np.float32)
    (expected,) = bundles["policy"].predict([{"observation": observation.tolist()}])
    assert client.act("policy", observation) == expected["action"]["action"]
    assert client.act("policy", {"observation": observation}) == expected["action"]["action"]
    assert client.episode("policy").act(observation) == expected["action"]["action"]


def test_an_episode_brings_its_memory_along():
    answers = [(200, {}, {"predictions": [{"action": {"action": n, "memory": {"h": [n]}}}]}) for n in (4, 5)]
    with Scripted(*answers) as it, reinforge.Client(it.url) as client:
        episode = client.episode("p")
        assert [episode.act([1.0]), episode.act([2.0])] == [4, 5]
    sent = [json.loads(body)["rows"] for _at, body, _headers in it.asked]
    assert sent == [[{"observation": [1.0]}], [{"observation": [2.0], "memory": {"h": [4]}}]]


def test_a_language_model_writes(client, bundles):
    (expected,) = generate(
        bundles["chat"], [{"messages": [{"role": "user", "content": "hello"}]}], Draws(30, 0.7, seed=3)
    )
    answer = client.chat("chat", "hello", max_tokens=30, temperature=0.7, seed=3)
    assert (answer.text, answer.reason, answer.tokens) == (expected.text, expected.reason, expected.tokens)
    pieces = list(client.stream("chat", [{"role": "user", "content": "hello"}], max_tokens=30, temperature=0.7, seed=3))
    assert "".join(pieces) == expected.text
    text = client.complete("chat", "hello", max_tokens=9, temperature=0).text
    assert text == generate(bundles["chat"], ["hello"], Draws(9, 0.0))[0].text
    assert "".join(client.stream_completion("chat", "hello", max_tokens=9, temperature=0)) == text


def test_leaving_a_stream_ends_the_writing(client, server):
    writer = server.models["chat"].writer
    for _piece in client.stream("chat", "hello", max_tokens=900, temperature=0):
        break
    end = time.monotonic() + 10
    while writer.running:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_asynchronous_client_is_the_same(client, server, bundles):
    async def all_of_it():
        async with reinforge.AsyncClient(server.url, retries=ONCE) as other:
            assert await other.ready()
            assert await other.models() == client.models()
            assert await other.predict("table", [GOOD]) == client.predict("table", [GOOD])
            assert await other.act("policy", [1, 2, 3, 4]) == client.act("policy", [1, 2, 3, 4])
            settings = {"seed": 1, "max_tokens": 20}
            whole = await other.chat("chat", "hello", **settings)
            assert whole == client.chat("chat", "hello", **settings)
            assert "".join([piece async for piece in other.stream("chat", "hello", **settings)]) == whole.text
            text = await other.complete("chat", "hello", **settings)
            assert "".join([p async for p in other.stream_completion("chat", "hello", **settings)]) == text.text
            with pytest.raises(NotFound):
                await other.predict("none", [GOOD])
            with pytest.raises(NotFound):
                [piece async for piece in other.stream("none", "hello")]

    asyncio.run(all_of_it())


def test_errors_say_what_they_are(client, server, tmp_path):
    with pytest.raises(NotFound, match="table"):
        client.predict("none", [GOOD])
    with pytest.raises(NotFound):
        client.chat("no/ne?", "hello")
    with pytest.raises(BadRequest, match="heavy") as bad:
        client.predict("table", [GOOD, {**GOOD, "mass": "heavy"}])
    assert (bad.value.row, bad.value.status) == (1, 422)
    assert re.fullmatch(r"[0-9a-f]{16}", bad.value.request)
    with pytest.raises(BadRequest, match="temperature"):
        client.chat("chat", "hello", temperature=9)
    with pytest.raises(BadRequest, match="100 rows"):
        client.predict("table", [GOOD] * 101)
    for rows in (GOOD, "x", 3, [{"size": float("nan")}], [{"size": object()}]):
        with pytest.raises(BadRequest):
            client.predict("table", rows)
    secret = add_token(tmp_path / "tokens.json", "me", ["predict"], 0.5)
    access = Access(tokens=tuple(read_tokens(tmp_path / "tokens.json")))
    with Server({"table": server.models["table"].bundle}, listen("127.0.0.1", 0), access).background() as url:
        with pytest.raises(NotPermitted, match="token"):
            reinforge.Client(url, retries=ONCE).models()
        mine = reinforge.Client(url, token=secret, retries=ONCE)
        assert mine.models()
        with pytest.raises(Busy) as busy:
            mine.models()
        assert busy.value.after >= 1
    with pytest.raises(Unreachable, match="reinforge serve"):
        mine.models()
    assert not mine.ready()


def test_a_busy_server_is_asked_again_when_it_said():
    with Scripted((429, {"retry-after": "1"}, {}), (503, {"retry-after": "0"}, {}), DONE) as it:
        assert reinforge.Client(it.url).predict("m", [{}]) == [{"y": {"value": 1}}]
    first, second, third = (at for at, _body, _headers in it.asked)
    assert 1 <= second - first < 2
    assert third - second < 0.9
    assert len({body for _at, body, _headers in it.asked}) == 1


def test_it_gives_up_in_the_end_or_where_it_would_wait_too_long():
    with Scripted(*[(503, {}, {})] * 3) as it, pytest.raises(Busy):
        reinforge.Client(it.url, retries=Retries(times=2, patience=0.1)).predict("m", [{}])
    assert len(it.asked) == 3
    with Scripted((429, {"retry-after": "100"}, {})) as it, pytest.raises(Busy) as told:
        reinforge.Client(it.url).predict("m", [{}])
    assert told.value.after == 100
    with Scripted((500, {}, b"<html>")) as it, pytest.raises(Failed, match="500"):
        reinforge.Client(it.url).predict("m", [{}])


def test_a_broken_connection_is_tried_again():
    with Scripted((None, {}, b""), (200, {"missing": 5}, b"{"), DONE) as it:
        client = reinforge.Client(it.url, retries=Retries(patience=0.05))
        assert client.predict("m", [{}]) == [{"y": {"value": 1}}]
    assert len(it.asked) == 3


def event(text, reason=None):
    return (
        b"data: " + json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": reason}]}).encode() + b"\n\n"
    )


@pytest.mark.parametrize("rest", [b"", b'data: {"error": {"message": "it failed"}}\n\n'])
def test_a_stream_that_breaks_off_is_an_error_and_not_begun_again(rest):
    with Scripted((503, {"retry-after": "0"}, {}), (200, {}, event("one ") + event("two") + rest)) as it:
        found: list[str] = []
        stream = reinforge.Client(it.url).stream("m", "hello")
        with pytest.raises(Failed if rest else Unreachable, match="failed" if rest else "broke off"):
            found.extend(stream)
        assert found == ["one ", "two"]
    assert len(it.asked) == 2


def test_it_is_light_and_needs_no_torch():
    program = (
        "import sys, reinforge; assert 'httpx' not in sys.modules; reinforge.Client('http://127.0.0.1:1'); "
        "assert not {'torch', 'numpy', 'starlette', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_the_page_about_it_runs(bundles, tmp_path, capsys):
    run = reinforge.train("penguins", output=tmp_path / "run", overrides=["learn.stop.epochs=1"])
    served = {"penguins": run.bundle_path, "cartpole-dqn": bundles["policy"], "chat-sft": bundles["chat"]}
    loaded = {name: reinforge.load(one) if isinstance(one, Path) else one for name, one in served.items()}
    page = (Path(__file__).parents[2] / "docs/deploy/client.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(programs) == 6
    known = {}
    with Server(loaded, listen("127.0.0.1", 0)).background() as url:
        for program in programs:
            exec(program.replace("http://127.0.0.1:8000", url), known)
    assert "penguins" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [reinforge.Client, reinforge.AsyncClient])
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "ftp://127.0.0.1", "http://", ""])
def test_an_address_that_is_none_is_told_before_anything_is_asked(kind, url):
    with pytest.raises(BadRequest, match="this is no address of a server") as caught:
        kind(url)
    assert repr(url) in caught.value.where
    assert "http://127.0.0.1:8000" in caught.value.remedy


def test_a_picture_that_is_not_there_is_no_traceback(client, tmp_path):
    with pytest.raises(BadRequest, match="the file can't be read") as caught:
        client.predict("table", [{"image": tmp_path / "seven.png"}])
    assert caught.value.where == str(tmp_path / "seven.png")
