"""A policy watched in its environment: the frames of `play`, one viewer at a time, and nothing left behind."""

import asyncio
import base64
import io
import json
import threading
import time

import httpx
import pytest
from PIL import Image as Picture

import reinforge
from reinforge.serving.listening import listen
from reinforge.serving.refusals import Refused
from reinforge.serving.server import Server
from reinforge.serving.showing import Stage
from reinforge.serving.task import Access
from tests.bundle import made
from tests.workflow.test_play import LAKE, POLE


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    return {
        "pole": reinforge.load(reinforge.train(POLE, output=folder / "pole").bundle_path),
        "lake": reinforge.load(reinforge.train(LAKE, output=folder / "lake").bundle_path),
        "made": made.policy_bundle(folder / "made"),
    }


@pytest.fixture(scope="module")
def url(bundles):
    with Server(bundles, listen("127.0.0.1", 0), access=Access(watch=True)).background() as url:
        yield url


def environments():
    return [thread for thread in threading.enumerate() if thread.name == "environment"]


def events(answer):
    assert answer.status_code == 200, answer.text
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("name", ["pole", "lake"])
def test_an_episode_is_that_of_play(url, bundles, name):
    first, *frames, last = events(httpx.get(f"{url}/v1/models/{name}/watch?seed=3", timeout=60))
    told = reinforge.play(bundles[name], 1, seed=3)
    assert first["rate"] > 0
    assert last == {"ended": True, "cut": False}
    assert [frame["step"] for frame in frames] == list(range(told["lengths"][0] + 1))
    assert frames[-1]["return"] == told["returns"][0]
    assert frames[0]["reward"] is None
    picture = Picture.open(io.BytesIO(base64.b64decode(frames[-1]["frame"])))
    assert max(picture.size) <= 480
    assert frames[0]["frame"] != frames[-1]["frame"]
    assert events(httpx.get(f"{url}/v1/models/{name}/watch?seed=3", timeout=60))[1:] == [*frames, last]


def test_whoever_leaves_ends_it_and_others_are_answered_meanwhile(url):
    with httpx.stream("GET", f"{url}/v1/models/pole/watch", timeout=60) as stream:
        next(stream.iter_bytes(100))
        assert httpx.get(f"{url}/healthz").status_code == 200
    end = time.monotonic() + 20
    while environments() and time.monotonic() < end:
        time.sleep(0.05)
    assert not environments()
    assert events(httpx.get(f"{url}/v1/models/lake/watch", timeout=60))[-1]["ended"]


def test_one_episode_at_a_time(bundles):
    stage = Stage()
    asyncio.run(stage.show(bundles["pole"], 0))
    with pytest.raises(Refused) as refused:
        asyncio.run(stage.show(bundles["lake"], 0))
    assert refused.value.status == 429
    assert refused.value.after


def test_another_episode_right_after_one_that_was_left(url):
    for seed in range(3):
        with httpx.stream("GET", f"{url}/v1/models/pole/watch?seed={seed}", timeout=60) as stream:
            assert stream.status_code == 200
            next(stream.iter_bytes(100))
    assert events(httpx.get(f"{url}/v1/models/lake/watch", timeout=60))[-1]["ended"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("pole/watch?seed=-1", 400), ("pole/watch?seed=x", 400), ("pole/watch?seed=" + "9" * 30, 400),
     ("made/watch", 404), ("none/watch", 404)],
)  # fmt: skip
def test_what_can_not_be_watched(url, path, status):
    answer = httpx.get(f"{url}/v1/models/{path}")
    assert answer.status_code == status
    assert answer.json()["error"]["problem"]


def test_an_environment_that_fails_is_told(url, bundles, monkeypatch):
    recipe = bundles["pole"].provenance["recipe"]
    monkeypatch.setitem(recipe["data"], "options", {"no_such": 1})
    error = events(httpx.get(f"{url}/v1/models/pole/watch", timeout=60))[-1]["error"]
    assert "can't be made" in error["problem"]


def test_nothing_is_shown_unless_it_was_asked_for(bundles):
    with Server(bundles, listen("127.0.0.1", 0)).background() as url:
        assert httpx.get(f"{url}/v1/models/pole/watch").status_code == 404
        assert httpx.get(f"{url}/v1/models/pole").json()["environment"] is None
