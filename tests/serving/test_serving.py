import contextlib
import copy
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import jsonschema
import pytest
import torch

from reinforge.bundle.folders import name_of, stated_name
from reinforge.errors import MissingExtra, ReinforgeError
from reinforge.serving.listening import listen
from reinforge.serving.serve import serve
from reinforge.serving.server import Server
from reinforge.serving.task import Access
from tests.bundle import made


def post(url, name, body):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx.post(f"{url}/v1/models/{name}/predict", content=content, timeout=20)


def test_answers_are_those_of_predict(url, bundles):
    rows = made.rows(30, seed=4)
    for count in (1, 16, 30):
        answer = post(url, "table", {"rows": rows[:count]})
        assert answer.status_code == 200
        assert answer.json() == {"predictions": bundles["table"].predict(rows[:count])}
    observations = [{"observation": [0.1, 2, 3, 4]}]
    assert post(url, "policy", {"rows": observations}).json()["predictions"] == bundles["policy"].predict(observations)
    prompt = [{"text": "the"}]
    assert post(url, "text", {"rows": prompt}).json()["predictions"] == bundles["text"].predict(prompt)


def test_models_are_listed_and_described(url, bundles):
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    listed = httpx.get(f"{url}/v1/models").json()["models"]
    assert [model["name"] for model in listed] == ["table", "policy", "text"]
    assert listed[0]["digest"] == bundles["table"].digest
    whole = httpx.get(f"{url}/v1/models/table").json()
    assert whole["metrics"] == {"accuracy": 0.5}
    assert whole["inputs"] == ["size", "mass", "island"]
    assert "recipe" not in whole


GOOD = {"size": 1.0, "mass": 2, "island": "Dream"}
NESTED = b'{"rows":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "JSON"),
        (b"\xff\xfe\x00", 400, "UTF-8"),
        (b'{"rows": [NaN]}', 400, "NaN"),
        (b'{"rows": [{"size": Infinity}]}', 400, "Infinity"),
        (b'{"rows": [{"size": 1e999}]}', 400, "too large"),
        (b'{"rows": [{"size": 1, "size": 2}]}', 400, "twice"),
        (b'{"rows": [{"size": "\\ud800"}]}', 400, "surrogate"),
        (NESTED[:99_000], 400, "nested"),
        (b'{"rows": [' + b"1" * 90_000 + b"]}", 400, "digits"),
        ([], 400, "rows"),
        ({}, 400, "rows"),
        ({"rows": []}, 400, "rows"),
        ({"rows": {}}, 400, "rows"),
        ({"rows": "x"}, 400, "rows"),
        ({"rows": [GOOD], "partial": 1}, 400, "partial"),
        ({"rows": [GOOD], "more": 1}, 400, "rows"),
        ({"rows": [1]}, 422, "object"),
        ({"rows": [GOOD, {"size": 1, "mass": 2}]}, 422, "island"),
        ({"rows": [GOOD, {**GOOD, "mass": "heavy"}]}, 422, "heavy"),
        ({"rows": [GOOD, {**GOOD, "mass": {"a": 1}}]}, 422, "mass"),
        ({"rows": [GOOD, {**GOOD, "mass": [1]}]}, 422, "mass"),
        ({"rows": [GOOD, {**GOOD, "mass": True}]}, 422, "mass"),
        ({"rows": [GOOD, {**GOOD, "mass": 10**300}]}, 422, "mass"),
        ({"rows": [GOOD] * 501}, 413, "500 rows"),
        (b" " * 100_001, 413, "100,000 bytes"),
    ],
)
def test_bad_requests_are_refused_by_name(url, body, status, says):
    answer = post(url, "table", body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert says in f"{error['problem']} {error['where']}"
    assert error["type"] == ("DataError" if status == 422 else "Refused")
    assert "Traceback" not in answer.text
    assert post(url, "table", {"rows": [GOOD]}).status_code == 200


def test_the_bad_row_and_field_are_named(url):
    error = post(url, "table", {"rows": [GOOD, GOOD, {**GOOD, "mass": "heavy"}]}).json()["error"]
    assert error["type"] == "DataError"
    assert error["row"] == 2
    assert "'mass'" in error["where"]


@pytest.mark.parametrize(
    ("name", "row"), [("policy", {"observation": [1, 2]}), ("text", {"text": "x" * 60}), ("text", {"text": 3})]
)
def test_bad_rows_of_other_forms(url, name, row):
    assert post(url, name, {"rows": [row]}).status_code == 422


def test_with_partial_a_bad_row_fails_alone(url, bundles):
    rows = made.rows(40)
    expected = bundles["table"].predict(rows)
    rows[7] = {"size": "x"}
    rows[39] = None
    answer = post(url, "table", {"rows": rows, "partial": True})
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    for index in range(40):
        if index in (7, 39):
            assert found[index]["error"]["row"] == index
        else:
            assert found[index]["species"]["label"] == expected[index]["species"]["label"]


def test_with_partial_a_prompt_that_does_not_fit_fails_alone(url, bundles):
    """What is wrong shows only in the model, and is still told by its row."""
    texts = ["to be", "x" * 60, "or not"]
    answer = post(url, "text", {"rows": [{"text": text} for text in texts], "partial": True})
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert found[1]["error"]["row"] == 1
    assert "context" in found[1]["error"]["problem"]
    assert [found[0], found[2]] == bundles["text"].predict([{"text": texts[0]}, {"text": texts[2]}])
    whole = post(url, "text", {"rows": [{"text": text} for text in texts]})
    assert whole.status_code == 422
    assert whole.json()["error"]["row"] == 1


def test_a_row_whose_outputs_are_no_numbers_is_null_and_not_a_fault(bundles):
    """Finite inputs may still be too large for the arithmetic inside: no label is made up, and the others stand."""
    table, policy = copy.deepcopy(bundles["table"]), copy.deepcopy(bundles["policy"])
    with torch.no_grad():
        for parameter in (*table.model.parameters(), *policy.model.parameters()):
            parameter.mul_(1e4)
    huge, seen = {**GOOD, "size": 3e37, "mass": -3e37}, {"observation": [3e38, -3e38, 3e38, -3e38]}
    good = {"observation": [0.1, 0.2, 0.3, 0.4]}
    with Server({"table": table, "policy": policy}, listen("127.0.0.1", 0)).background() as there:
        found = post(there, "table", {"rows": [GOOD, huge]}).json()["predictions"]
        assert found[0]["species"]["label"] is not None
        assert found[1]["species"]["label"] is None
        assert set(found[1]["species"]["probabilities"].values()) == {None}
        acts = [one["action"]["action"] for one in post(there, "policy", {"rows": [good, seen]}).json()["predictions"]]
        assert acts[0] is not None
        assert acts[1] is None


def test_a_chunked_body_is_bounded_too(url):
    def endless():
        while True:
            yield b" " * 10_000

    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        answer = httpx.post(f"{url}/v1/models/table/predict", content=endless(), timeout=20)
        assert answer.status_code == 413
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_body_that_never_comes_is_given_up(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"POST /v1/models/table/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{")
        assert b" 408 " in client.recv(1000)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/models/none", 404), ("POST", "/v1/models/none/predict", 404),
     ("GET", "/v1/models/table/predict", 405), ("DELETE", "/v1/models", 405), ("GET", "/v1/models/..%2f..%2fetc", 404)],
)  # fmt: skip
def test_unknown_paths_and_methods_are_typed(url, method, path, status):
    answer = httpx.request(method, url + path, content=b"{}" if method == "POST" else None)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "Refused"
    if status == 405:
        assert answer.headers["allow"] in answer.json()["error"]["remedy"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000, b"431"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 50_000, b"431"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"408"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTT", b"408"),
        (b"", b""),
    ],
)
def test_a_head_that_does_not_end_is_given_up(url, sent, status):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for start in range(0, len(sent), 50_000):
            with contextlib.suppress(OSError):
                client.sendall(sent[start : start + 50_000])
                time.sleep(0.05)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(10_000):
                answer += part
    assert answer.split(b"HTTP/1.1 ")[-1][:3] == status


def test_a_large_body_behind_a_small_head_and_slow_answers_are_taken(url):
    answer = post(url, "table", {"rows": [GOOD] * 400, "partial": True})
    assert answer.status_code == 200
    with httpx.Client() as client:
        for _again in range(3):
            assert client.get(f"{url}/healthz").status_code == 200
            time.sleep(0.4)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Type: application/json\r\nContent-Length: 100\r\n", b'{"rows"'),
        (b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", b"no number\r\n"),
        (b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100\r\n", b"--x\r\n"),
    ],
)
def test_who_leaves_in_the_middle_of_a_body_is_no_fault_of_ours(bundles, tmp_path, caplog, head, body):
    log = tmp_path / "access.jsonl"
    server = Server({"table": bundles["table"]}, listen("127.0.0.1", 0), Access(log=str(log)))
    with server.background() as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /v1/models/table/predict HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n" + body)
            time.sleep(0.1)
        until = time.monotonic() + 10
        while not log.read_text() and time.monotonic() < until:
            time.sleep(0.02)
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [499]
    assert not [record for record in caplog.records if record.exc_info]


def test_our_own_faults_are_500_without_details(bundles, monkeypatch):
    def fail(data):
        raise RuntimeError("secret")

    monkeypatch.setattr(bundles["table"], "predict", fail)
    with Server(bundles, listen("127.0.0.1", 0)).background() as url:
        answer = post(url, "table", {"rows": [GOOD]})
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "InternalError"
        assert "secret" not in answer.text
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_openapi_describes_each_models_rows(url, bundles):
    document = httpx.get(f"{url}/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for name, rows in (("table", [GOOD]), ("policy", [{"observation": [1, 2, 3, 4]}]), ("text", [{"text": "the"}])):
        operation = document["paths"][f"/v1/models/{name}/predict"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate({"rows": rows}, schema)
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate({"predictions": bundles[name].predict(rows)}, answer)
    table = document["paths"]["/v1/models/table/predict"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    for bad in ({"rows": []}, {"rows": [{"size": "x", "mass": 1, "island": "Dream"}]}, {"rows": [{"size": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, table)


def test_many_clients_get_their_own_answers(url, bundles):
    rows = made.rows(24, seed=9)
    expected = [bundles["table"].predict([row])[0] for row in rows]
    found = [None] * len(rows)

    def ask(index):
        found[index] = post(url, "table", {"rows": [rows[index]]}).json()["predictions"][0]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Rows are computed together with whoever asks at the same time: equal to rounding.
    for one, other in zip(found, expected):
        assert one["species"]["label"] == other["species"]["label"]
        assert one["species"]["probabilities"] == pytest.approx(other["species"]["probabilities"], rel=1e-5)
        assert one["price"] == pytest.approx(other["price"], rel=1e-5)


def test_an_address_in_use_is_a_users_mistake(url, bundles):
    with pytest.raises(ReinforgeError, match="can't listen") as caught:
        listen("127.0.0.1", int(url.rsplit(":", 1)[1]))
    assert caught.value.exit_status == 2
    with pytest.raises(ReinforgeError, match="no such host"):
        listen("host.invalid", 0)


def test_a_missing_extra_names_the_command(monkeypatch, bundles):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(MissingExtra, match=r"pip install 'reinforge\[serve\]'"):
        serve(bundles["table"])


def test_names_fit_into_urls(bundles):
    assert name_of(bundles["table"].path, {"name": "two words / ü"}) == "two-words"
    assert name_of(bundles["policy"].path, {}) == "policy"
    assert stated_name(bundles["table"].path) == name_of(bundles["table"].path, bundles["table"].provenance)


PROGRAM = """
import sys
from reinforge.serving.serve import serve
print(*serve(sys.argv[1], port=0, ready=lambda url: print(url, flush=True)).models, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_process_stops_gracefully(bundles, number):
    """A request that is being answered when the signal comes is finished, and the process ends with status 0."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(bundles["text"].path)], stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        for _ in range(100):
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(f"{url}/healthz")
                break
            time.sleep(0.1)
        threads = len(os.listdir(f"/proc/{process.pid}/task")) if Path("/proc").exists() else 0
        assert threads <= 8, "computing must not open a thread per core"
        answers = []
        prompts = {"rows": [{"text": "the"}] * 40}
        name = httpx.get(f"{url}/v1/models").json()["models"][0]["name"]
        asking = threading.Thread(target=lambda: answers.append(post(url, name, prompts)))
        asking.start()
        time.sleep(0.15)
        process.send_signal(number)
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["predictions"]) == 40
        assert process.stdout.read().startswith("text")
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_what_is_loaded_is_no_garbage(bundles):
    """Looking through all that torch and bundles keep would stop the loop for a tenth of a second, now and then."""
    gc.unfreeze()
    server = Server({"table": bundles["table"]}, listen("127.0.0.1", 0))
    with server.background() as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
