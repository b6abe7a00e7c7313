"""Who is answered: host names, tokens, rates, scopes; and what is noted of it."""

import hashlib
import json

import httpx
import pytest

from reinforge.errors import ReinforgeError
from reinforge.serving.gate import hosts_of
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from reinforge.serving.task import Access
from reinforge.serving.tokens import Token, Tokens, add_token, read_tokens
from tests.bundle import made

ROWS = {"rows": [{"size": 1.0, "mass": 2, "island": "Dream"}]}


@pytest.fixture
def guarded(bundles, tmp_path):
    """A server that asks for tokens, its log, and the tokens by scope."""
    file = tmp_path / "tokens.json"
    secrets = {scope: add_token(file, scope, [scope]) for scope in ("predict", "metrics", "admin")}
    secrets["slow"] = add_token(file, "slow", ["predict"], rate=2)
    log = tmp_path / "access.jsonl"
    access = Access(tokens=tuple(read_tokens(file)), log=str(log))
    with Server({"table": bundles["table"]}, listen("127.0.0.1", 0), access).background() as url:
        yield url, log, secrets, file


def ask(url, path="/v1/models", token=None, **more):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.request(more.pop("method", "GET"), url + path, headers={**headers, **more.pop("headers", {})}, **more)


def test_without_a_token_only_health_and_the_page_are_told(guarded):
    url, _log, secrets, _file = guarded
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
        answer = ask(url, path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz"):
        assert ask(url, path).status_code == 200, path
    assert ask(url, token="x" * 43).status_code == 401
    assert ask(url, headers={"authorization": f"Basic {secrets['predict']}"}).status_code == 401
    assert ask(url, headers={"authorization": secrets["predict"]}).status_code == 401


def test_each_scope_opens_its_own(guarded):
    url, _log, secrets, _file = guarded
    paths = {"predict": "/v1/models", "metrics": "/metrics", "admin": "/admin/models/table"}
    for owner in paths:
        for scope, path in paths.items():
            method = "POST" if scope == "admin" else "GET"
            status = ask(url, path, secrets[owner], method=method, content=b"{}").status_code
            assert (status == 403) == (owner != scope), (owner, scope, status)


def test_a_rate_is_kept(guarded):
    url, _log, secrets, _file = guarded
    found = [ask(url, token=secrets["slow"]) for _ in range(8)]
    statuses = [answer.status_code for answer in found]
    assert statuses[:2] == [200, 200]
    assert statuses.count(429) >= 4
    assert all(int(a.headers["retry-after"]) >= 1 for a in found if a.status_code == 429)
    assert ask(url, token=secrets["predict"]).status_code == 200


def test_a_rate_is_refilled_and_shared_by_replicas(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    token = Token(name="a", sha256="0" * 64, rate=4)
    tokens = Tokens([token], share=0.5)
    assert [tokens.wait(token) for _ in range(3)] == [0, 0, pytest.approx(0.5)]
    now[0] = 0.5
    assert tokens.wait(token) == 0
    assert tokens.wait(token) > 0


def test_the_log_says_who_asked_what_and_holds_no_secret(guarded):
    url, log, secrets, _file = guarded
    answer = ask(url, "/v1/models/table/predict", secrets["predict"], method="POST", json=ROWS,
                 headers={"x-request-id": "mine-1"})  # fmt: skip
    assert answer.headers["x-request-id"] == "mine-1"
    ask(url, "/v1/models%0A{}", secrets["predict"], headers={"x-request-id": "not one of\tours"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(line for line in lines if line["id"] == "mine-1")
    assert (first["status"], first["model"], first["rows"], first["token"]) == (200, "table", 1, "predict")
    assert first["ms"] > 0
    assert lines[-1]["id"] != "not one of\tours"
    assert not any(secret in log.read_text() for secret in secrets.values())


def test_only_hashes_are_kept_and_a_name_is_replaced(tmp_path):
    file = tmp_path / "tokens.json"
    first = add_token(file, "me", ["predict"])
    other = add_token(file, "you", ["predict", "predict"], rate=1.5)
    second = add_token(file, "me", ["admin"])
    tokens = read_tokens(file)
    assert [(t.name, t.scopes, t.rate) for t in tokens] == [("you", ("predict",), 1.5), ("me", ("admin",), None)]
    assert tokens[1].sha256 == hashlib.sha256(second.encode()).hexdigest()
    assert not any(secret in file.read_text() for secret in (first, second, other))
    assert file.stat().st_mode & 0o077 == 0
    assert Tokens(tokens).known(f"Bearer {first}") is None
    assert Tokens(tokens).known(f"bearer {second}").name == "me"


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[{}]",
        '[{"name": "a", "sha256": "x"}]',
        "no",
        '[{"name":"","sha256":""}]',
        json.dumps([{"name": "a", "sha256": "0" * 65}]),
        json.dumps([{"name": "a b/../c", "sha256": "0" * 64}]),
    ],
)
def test_a_malformed_file_of_tokens_is_told(tmp_path, content):
    (tmp_path / "t").write_text(content)
    with pytest.raises(ReinforgeError) as caught:
        read_tokens(tmp_path / "t")
    assert str(tmp_path / "t") in (caught.value.where or "")
    assert caught.value.exit_status == 2
    assert caught.value.remedy


def test_a_page_from_elsewhere_whose_name_points_here_gets_no_answer(url):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert httpx.get(f"{url}/v1/models", headers={"host": host}).status_code == 421, host
    port = url.rsplit(":", 1)[1]
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]", f"[::1]:{port}", "LOCALHOST"):
        assert httpx.get(f"{url}/v1/models", headers={"host": host}).status_code == 200, host


def test_names_that_a_server_goes_by():
    assert hosts_of("127.0.0.1", ["Models.Example"]) == {"127.0.0.1", "localhost", "::1", "models.example"}
    assert hosts_of("0.0.0.0", []) is None
    assert hosts_of("0.0.0.0", ["models.example"]) == {"0.0.0.0", "models.example"}
    assert hosts_of("localhost", ["*"]) is None


def test_nobody_administers_a_server_without_tokens(url):
    assert httpx.post(f"{url}/admin/models/table", json={"bundle": "/"}).status_code == 404


def test_a_bundle_is_replaced_under_its_name(bundles, tmp_path):
    secret = add_token(tmp_path / "t", "root", ["admin", "predict"])
    access = Access(tokens=tuple(read_tokens(tmp_path / "t")))
    newer = made.table_bundle(tmp_path / "newer", parents=["0" * 64])
    with Server({"table": bundles["table"]}, listen("127.0.0.1", 0), access).background() as url:
        for body in ({"bundle": 1}, {}, {"bundle": "x", "more": "y"}):
            assert ask(url, "/admin/models/table", secret, method="POST", json=body).status_code == 400
        gone = ask(url, "/admin/models/table", secret, method="POST", json={"bundle": str(tmp_path / "none")})
        assert gone.status_code == 409
        assert ask(url, "/admin/models/other", secret, method="POST", json={"bundle": "x"}).status_code == 404
        done = ask(url, "/admin/models/table", secret, method="POST", json={"bundle": str(newer.path)})
        assert done.json() == {"models": {"table": newer.digest}}
        assert ask(url, "/v1/models/table", secret).json()["digest"] == newer.digest
        found = ask(url, "/v1/models/table/predict", secret, method="POST", json=ROWS).json()["predictions"]
        assert found == newer.predict(ROWS["rows"])
