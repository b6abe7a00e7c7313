"""Bundles on trial: a part of the requests, a copy of each, for good, and back again, in all replicas."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import polars as pl
import pytest

import reinforge
from reinforge.bundle.folders import stated_name
from reinforge.cli.serve import serve as command
from reinforge.errors import ReinforgeError
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions
from reinforge.serving import serve as verb
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from reinforge.serving.task import Access
from reinforge.serving.tokens import add_token, read_tokens
from reinforge.serving.trials import Trial, agree, parsed
from tests.bundle import made
from tests.export import everything
from tests.serving.test_supervisor import GOOD, Served


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("trials")
    made.table_bundle(place / "old")
    made.table_bundle(place / "new", parents=["0" * 64])
    made.chat_bundle(place / "chat", context=64)
    everything.table(place / "other")
    everything.policy(place / "policy", ActorCriticOptions(sizes=(8,)))
    everything.policy(place / "recurrent", ActorCriticOptions(sizes=(8,), memory=MemoryOptions(size=8)))
    return place


@pytest.fixture(scope="module")
def bearer(folder):
    return {"authorization": "Bearer " + add_token(folder / "tokens.json", "root", ["admin", "predict", "metrics"])}


class One:
    """A server in this process."""

    def __init__(self, url, bearer):
        self.client = httpx.Client(base_url=url, headers=bearer, timeout=60)

    def change(self, **change):
        return self.client.post("/admin/models/table", json=change)

    def served(self, count):
        """Which model gave each of so many answers."""
        answers = [self.client.post("/v1/models/table/predict", json=GOOD) for _ in range(count)]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers.get("x-reinforge-model") for answer in answers]

    def digest(self):
        return self.client.get("/v1/models/table").json()["digest"]

    def names(self):
        return [model["name"] for model in self.client.get("/v1/models").json()["models"]]

    def shown(self, outcome):
        text = self.client.get("/metrics").text
        wanted = f'reinforge_shadow_rows_total{{model="table",outcome="{outcome}"}} '
        return sum(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))


@pytest.fixture
def one(folder, bearer):
    access = Access(tokens=tuple(read_tokens(folder / "tokens.json")))
    bundles = {"table": reinforge.load(folder / "old"), "recurrent": reinforge.load(folder / "recurrent"),
               "chat": reinforge.load(folder / "chat")}  # fmt: skip
    with Server(bundles, listen("127.0.0.1", 0), access=access).background() as url:
        yield One(url, bearer)


def test_a_part_of_the_requests_goes_to_the_candidate(one, folder):
    old = one.digest()
    assert one.served(3) == [None] * 3
    assert one.change(bundle=str(folder / "new"), weight=0.3).status_code == 200
    assert one.names() == ["table", "recurrent", "chat", "table@candidate"]
    served = one.served(300)
    # 90 of 300 are expected; six deviations to either side.
    assert 42 < served.count("table@candidate") < 138
    assert set(served) == {"table", "table@candidate"}
    assert one.change(bundle=str(folder / "new"), weight=1).status_code == 200
    assert set(one.served(20)) == {"table@candidate"}
    # Back: nobody is given it any more.
    assert one.change(rollback=True).status_code == 200
    assert one.names() == ["table", "recurrent", "chat"]
    assert one.served(5) == [None] * 5
    assert one.digest() == old
    assert one.change(rollback=True).status_code == 409


def test_for_good_and_back_again(one, folder):
    old = one.digest()
    assert one.change(promote=True).status_code == 409
    one.change(bundle=str(folder / "new"), weight=0.5)
    assert one.change(promote=True).status_code == 200
    new = one.digest()
    assert new != old
    assert one.names() == ["table", "recurrent", "chat"]
    assert one.change(rollback=True).status_code == 200
    assert one.digest() == old
    assert one.change(rollback=True).status_code == 200
    assert one.digest() == new, "once more is forward again"


def test_a_shadow_is_compared_and_answers_nobody(one, folder):
    assert one.change(bundle=str(folder / "new"), shadow=True).status_code == 200
    assert set(one.served(20)) == {"table"}
    # Without partial a bad row refuses both.
    for _ in range(100):
        if one.shown("same") == 20:
            break
    assert one.shown("same") == 20
    assert one.shown("other") == 0


def test_nobody_waits_for_a_shadow(folder, bearer):
    access = Access(tokens=tuple(read_tokens(folder / "tokens.json")))
    bundle, asked, go_on = reinforge.load(folder / "old"), threading.Event(), threading.Event()
    server = Server({"table": bundle}, listen("127.0.0.1", 0), access=access, limits=Limits(stuck=0.2, inline=0.0))
    with server.background() as url:
        one = One(url, bearer)
        one.served(1)
        assert one.change(bundle=str(folder / "new"), shadow=True).status_code == 200
        hangs = server.models["table@candidate"].bundle

        def predict(rows):
            asked.set()
            go_on.wait(60)
            return bundle.predict(rows)

        object.__setattr__(hangs, "predict", predict)
        try:
            assert one.served(1) == ["table"]
            assert asked.wait(30)
            assert one.served(5) == ["table"] * 5
            time.sleep(0.3)
            assert server.models["table@candidate"].batcher.stuck
            assert not server.models.stuck, "its replica is not ended for it"
        finally:
            go_on.set()
        end = time.monotonic() + 30
        while one.shown("same") < 6 and time.monotonic() < end:
            time.sleep(0.05)
        assert one.shown("same") == 6


@pytest.mark.parametrize(
    "change",
    [{}, {"bundle": 3}, {"bundle": "x", "weight": 2}, {"bundle": "x", "weight": -0.1}, {"bundle": "x", "shadow": False},
     {"bundle": "x", "weight": 0.1, "shadow": True}, {"promote": False}, {"promote": True, "rollback": True},
     {"bundle": "x", "more": 1}, {"bundle": "x", "weight": True}],
)  # fmt: skip
def test_changes_that_are_none(one, change):
    answer = one.change(**change)
    assert answer.status_code == 400
    assert "promote" in answer.json()["error"]["remedy"]


def test_trials_that_would_lie_are_refused(one, folder):
    for name, tried, change, problem in (
        ("recurrent", "recurrent", {"weight": 0.5}, "memory"),
        ("recurrent", "recurrent", {"shadow": True}, "memory"),
        ("chat", "chat", {"shadow": True}, "drawn"),
        ("table", "policy", {"weight": 0.5}, "it is a"),
        ("table", "chat", {"shadow": True}, "it is a"),
        ("table", "other", {"weight": 0.5}, "its inputs"),
    ):
        answer = one.client.post(f"/admin/models/{name}", json={"bundle": str(folder / tried), **change})
        assert answer.status_code == 409
        assert problem in answer.json()["error"]["problem"]
    assert one.change(bundle=str(folder / "none"), weight=0.5).status_code == 409
    assert one.names() == ["table", "recurrent", "chat"]


def test_all_replicas_try_it_and_those_that_come_later_too(folder, bearer):
    new = f"table@50%={folder / 'new'}"
    server = Served(folder / "old", new, "--workers", "2", "--tokens", str(folder / "tokens.json"))
    try:
        assert server.wait(server.ready)

        def both():
            # A connection each, so that both replicas answer.
            found = [server.predict(headers=bearer).headers["x-reinforge-model"] for _ in range(60)]
            return set(found) == {"table", "table@candidate"}

        assert both()
        os.kill(server.workers[0], signal.SIGKILL)
        assert server.wait(lambda: not server.ready(), 5)
        assert server.wait(server.ready)
        assert both()

        def change(**given):
            return httpx.post(f"{server.url}/admin/models/table", json=given, headers=bearer, timeout=60).status_code

        def digests():
            return {server.get("/v1/models/table", headers=bearer).json()["digest"] for _ in range(10)}

        (old,) = digests()
        assert change(promote=True) == 200
        (new,) = digests()
        assert new != old
        # A replica that comes later knows the way back, too.
        os.kill(server.workers[0], signal.SIGKILL)
        assert server.wait(lambda: not server.ready(), 5)
        assert server.wait(server.ready)
        assert change(rollback=True) == 200
        assert digests() == {old}
    finally:
        assert server.stop()[0] == 0


def test_what_was_tried_is_what_is_promoted(one, folder, tmp_path):
    old = one.digest()
    shutil.copytree(folder / "new", tmp_path / "new")
    assert one.change(bundle=str(tmp_path / "new"), weight=0.5).status_code == 200
    shutil.rmtree(tmp_path / "new")
    shutil.copytree(folder / "old", tmp_path / "new")
    answer = one.change(promote=True)
    assert answer.status_code == 409
    assert "was tried" in answer.json()["error"]["problem"]
    assert one.digest() == old
    assert "table@candidate" in one.names(), "its trial goes on"


def test_a_candidate_that_is_gone_keeps_nobody_down(folder, bearer, tmp_path):
    shutil.copytree(folder / "new", tmp_path / "new")
    new = f"table@50%={tmp_path / 'new'}"
    server = Served(folder / "old", new, "--workers", "2", "--tokens", str(folder / "tokens.json"))
    try:
        assert server.wait(server.ready)
        shutil.rmtree(tmp_path / "new")
        os.kill(server.workers[0], signal.SIGKILL)
        assert server.wait(lambda: not server.ready(), 5)
        assert server.wait(server.ready)
        answers = [server.predict(headers=bearer) for _ in range(10)]
        assert {(each.status_code, each.headers.get("x-reinforge-model")) for each in answers} == {(200, None)}
    finally:
        status, _out, told = server.stop()
        assert status == 0
    assert "the trial beside 'table' has ended" in told


def test_answers_of_every_kind_say_who_gave_them(one, folder):
    said = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    bodies = {
        "chat/completions": [said, {**said, "stream": True}],
        "completions": [{"model": "chat", "prompt": "hello", "max_tokens": 2}],
        "embeddings": [{"model": "chat", "input": "hello"}],
    }

    def headers():
        answers = [one.client.post(f"/v1/{path}", json=body) for path, each in bodies.items() for body in each]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers.get("x-reinforge-model") for answer in answers]

    assert headers() == [None] * 4
    change = {"bundle": str(folder / "chat"), "weight": 1}
    assert one.client.post("/admin/models/chat", json=change).status_code == 200
    assert headers() == ["chat@candidate"] * 4


def test_tables_have_shadows_too(one, folder):
    file = io.BytesIO()
    pl.DataFrame(GOOD["rows"] * 3).write_ipc_stream(file)
    assert one.change(bundle=str(folder / "new"), shadow=True).status_code == 200
    kind = {"content-type": "application/vnd.apache.arrow.stream"}
    answer = one.client.post("/v1/models/table/predict", content=file.getvalue(), headers=kind)
    assert answer.status_code == 200
    assert answer.headers["x-reinforge-model"] == "table"
    end = time.monotonic() + 30
    while one.shown("same") < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert one.shown("same") == 3


def test_a_trial_beside_a_bundle_by_its_own_name(folder, monkeypatch):
    given = []

    def run(wanted, **more):
        given.append((wanted, more["trials"]))
        return verb.Served("", ())

    monkeypatch.setattr(verb, "serve", run)
    old, new, name = str(folder / "old"), str(folder / "new"), stated_name(folder / "old")
    command([old, f"{name}@10%={new}"])
    assert given == [({name: old}, {name: (new, Trial(0.1))})]
    with pytest.raises(ReinforgeError, match=r"(?s)not served.*other=FOLDER"):
        command([old, f"other@10%={new}"])
    monkeypatch.undo()
    with pytest.raises(ReinforgeError, match="not served"):
        reinforge.serve({"table": old}, port=0, trials={"other": (new, Trial(0.1))})


@pytest.mark.parametrize("text", ["table@x={new}", "@10%={new}", "table@101%={new}", "other@10%={new}"])
def test_trials_by_command_that_make_no_sense(folder, text):
    words = [sys.executable, "-m", "reinforge", "serve", f"table={folder / 'old'}", text.format(new=folder / "new")]
    found = subprocess.run([*words, "--port", "0"], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert "trial" in found.stderr


def test_how_trials_are_written_and_answers_compared():
    assert parsed("10%") == Trial(0.1)
    assert parsed("2.5%") == Trial(0.025)
    assert parsed("shadow") == Trial(shadow=True)
    assert parsed("200%") is parsed("1e1%") is parsed("") is None
    one = {"y": {"label": "a", "probabilities": {"a": 0.9}}, "z": {"value": 2.0}}
    assert agree(one, {"y": {"label": "a", "probabilities": {"a": 0.6}}, "z": {"value": 2.01}})
    assert not agree(one, {"y": {"label": "b", "probabilities": {"a": 0.9}}, "z": {"value": 2.0}})
    assert not agree(one, {"y": {"label": "a"}, "z": {"value": 2.1}})
    assert not agree({"a": {"action": [1.0]}}, {"a": {"action": [1.0, 2.0]}})
    assert not agree({"a": 1}, {"b": 1})
