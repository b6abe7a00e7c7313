"""Valid bundles and bodies, damaged at random for a while: clear errors alone, in bounded time and memory.

REINFORGE_FUZZ_SECONDS says how long each runs, REINFORGE_FUZZ_SEED with which draws.
"""

import http.client
import io
import json
import os
import random
import resource
import shutil
import time
from urllib.parse import urlsplit

import polars as pl
import pytest

import reinforge.bundle
from reinforge.errors import ReinforgeError
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from tests.bundle import made
from tests.export import everything

SECONDS = float(os.environ.get("REINFORGE_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("REINFORGE_FUZZ_SEED", "0"))
SLOWEST, MOST_MEMORY = 20.0, 400_000  # seconds of one load or request, kilobytes of all together
NASTY = (None, True, -1, 0, 1, 2**31, 2**63, 10**400, -1e308, 5e-324, "", "a" * 5000, "\u0000", "../../etc/passwd",
         "os:system", [], {}, [[[[]]]], [None] * 300, {"kind": "decoder"}, {"": {}})  # fmt: skip


def damaged(content, draw):
    """Bytes with a few bits turned, pieces cut out, doubled or put elsewhere."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        at, length = draw.randrange(len(data)), min(len(data), 1 << draw.randrange(8))
        match draw.randrange(6):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * draw.randrange(1, 9)
            case 4:
                other = draw.randrange(len(data))
                data[at : at + length] = data[other : other + length]
            case 5:
                data[at : at + length] = draw.randbytes(length)
    return bytes(data)


def changed(content, draw):
    """The same JSON with one value, or one key, that it should not have."""
    value = json.loads(content)
    places = []

    def walk(at):
        for key in at if isinstance(at, dict) else range(len(at)):
            places.append((at, key))
            if isinstance(at[key], dict | list):
                walk(at[key])

    if isinstance(value, dict | list):
        walk(value)
    if not places:
        return json.dumps(draw.choice(NASTY)).encode()
    at, key = draw.choice(places)
    match draw.randrange(4):
        case 0 if isinstance(at, dict):
            at[draw.choice(("x", "", "kind", "size", "shape"))] = at.pop(key)
        case 1:
            other, place = draw.choice(places)
            at[key] = (
                json.loads(json.dumps(other[place]))
                if place in (other if isinstance(other, dict) else range(len(other)))
                else None
            )
        case 2:
            del at[key]
        case _:
            at[key] = draw.choice(NASTY)
    return json.dumps(value).encode()


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


BUNDLES = {
    "table": made.table_bundle,
    "everything": everything.table,
    "policy": lambda path: everything.policy(path, ActorCriticOptions(sizes=(8,), memory=MemoryOptions(size=8))),
    "chat": lambda path: made.chat_bundle(path, characters="".join(map(chr, range(32, 127)))),
}


@pytest.mark.slow
@pytest.mark.timeout(int(4 * SECONDS) + 300)
def test_the_reader_of_bundles(tmp_path):
    """Digests are made right again, so that what is damaged is read."""
    draw = random.Random(SEED)
    whole = {}
    for name, make in BUNDLES.items():
        make(tmp_path / name)
        reinforge.bundle.load(tmp_path / name)
        files = [path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()]
        whole[name] = {str(file): (tmp_path / name / file).read_bytes() for file in sorted(files)}
    before, end, refused, accepted = memory(), time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < end:
        name = draw.choice(list(whole))
        file = draw.choice(list(whole[name]))
        content = whole[name][file]
        is_json = file.endswith(".json") and draw.random() < 0.6
        hurt = changed(content, draw) if is_json else damaged(content, draw)
        folder = tmp_path / name
        if file == "manifest.json":
            (folder / file).write_bytes(hurt)
        else:
            made.rewrite(folder, file, hurt)
        (tmp_path / "last").write_bytes(json.dumps([name, file]).encode() + b"\n" + hurt)
        began = time.monotonic()
        try:
            reinforge.bundle.load(folder, verify=draw.choice(("digest", "golden")))
            accepted += 1
        except ReinforgeError:
            refused += 1
        assert time.monotonic() - began < SLOWEST, (name, file)
        for each in ("manifest.json", file):
            (folder / each).write_bytes(whole[name][each])
    print(f"{refused:,} damaged bundles refused, {accepted:,} read (what was hurt meant nothing), seed {SEED}")
    assert refused > 10 * SECONDS / 60
    assert memory() - before < MOST_MEMORY
    shutil.rmtree(tmp_path / "table")


def bodies(bundles):
    """By path: media type and a valid body."""
    table = [{key: row[key] for key in ("size", "mass", "island")} for row in made.rows(4)]
    file = io.BytesIO()
    pl.DataFrame(table).write_ipc_stream(file)
    every = {key: value for key, value in everything.rows(1)[0].items() if key not in ("species", "grade")}
    chat = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "temperature": 0.5,
            "stop": ["x"], "n": 2, "logprobs": True, "top_logprobs": 2}  # fmt: skip
    form = b'--x\r\nContent-Disposition: form-data; name="size"\r\n\r\n1\r\n' + (
        b'--x\r\nContent-Disposition: form-data; name="mass"\r\nContent-Type: text/plain\r\n\r\n2\r\n'
        b'--x\r\nContent-Disposition: form-data; name="island"\r\n\r\nDream\r\n--x--\r\n'
    )
    plain = "application/json"
    return [
        ("/v1/models/table/predict", plain, json.dumps({"rows": table, "partial": True}).encode()),
        ("/v1/models/table/predict", "application/vnd.apache.arrow.stream", file.getvalue()),
        ("/v1/models/table/predict", "multipart/form-data; boundary=x", form),
        ("/v1/models/everything/predict", plain, json.dumps({"rows": [every]}).encode()),
        ("/v1/models/policy/predict", plain, json.dumps({"rows": [
            {**each, "memory": bundles["policy"].predict([each])[0]["action"]["memory"]}
            for each in everything.observations(2)
        ]}).encode()),
        ("/v1/models/chat/predict", plain, b'{"rows": [{"text": "hello"}]}'),
        ("/v1/chat/completions", plain, json.dumps(chat).encode()),
        ("/v1/chat/completions", plain, json.dumps({**chat, "logprobs": False, "top_logprobs": None, "stream": True,
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [1, 2]}}}}).encode()),
        ("/v1/completions", plain, b'{"model": "chat", "prompt": ["hello", "you"], "max_tokens": 2, "echo": true}'),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(int(4 * SECONDS) + 300)
def test_the_readers_of_requests(tmp_path):
    draw = random.Random(SEED)
    bundles = {name: make(tmp_path / name) for name, make in BUNDLES.items()}
    valid = bodies(bundles)
    statuses = {}
    with Server(bundles, listen("127.0.0.1", 0), limits=Limits(body=1 << 20, seconds=2)).background() as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SLOWEST)

        def ask(path, kind, body):
            connection.request("POST", path, body, {"content-type": kind})
            answer = connection.getresponse()
            return answer.status, answer.read()

        for one in valid:
            assert ask(*one)[0] == 200, one
        before, end = memory(), time.monotonic() + SECONDS
        while time.monotonic() < end:
            path, kind, body = draw.choice(valid)
            is_json = kind == "application/json" and draw.random() < 0.6
            hurt = changed(body, draw) if is_json else damaged(body, draw)
            (tmp_path / "last").write_bytes(f"{path} {kind}\n".encode() + hurt)
            status, told = ask(path, kind, hurt)
            assert status < 500, (path, kind, hurt, told)
            assert status == 200 or json.loads(told)["error"], told
            statuses[status] = statuses.get(status, 0) + 1
        for one in valid:
            assert ask(*one)[0] == 200, one
    print(f"{sum(statuses.values()):,} damaged requests: {dict(sorted(statuses.items()))}, seed {SEED}")
    assert sum(statuses.values()) > 100 * SECONDS / 60
    assert memory() - before < MOST_MEMORY
