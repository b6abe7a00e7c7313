"""Texts as vectors: OpenAI's interface, by the real client; held to the mean of the stream by hand."""

import threading
import time

import httpx
import numpy as np
import openai
import pytest
import torch

from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.models.decoder_options import DecoderOptions
from reinforge.registry import REGISTRY
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.openai import embeddings
from reinforge.serving.server import Server
from tests.bundle import made

TEXTS = ["hello", "how do you do?", "a", "hello"]


def encoder_bundle(path):
    """A decoder that sees both sides of each place."""
    torch.manual_seed(1)
    pipeline = made.chat_pipeline()
    options = DecoderOptions(layers=2, width=32, heads=2, context=96, causal=False)
    model = REGISTRY.build("model", options, pipeline.signature)
    return write_bundle(
        path,
        model=model,
        options=options,
        signature=pipeline.signature,
        form=TextForm(pipeline),
        examples=[{"text": "hello"}],
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    return {
        "chat": made.chat_bundle(folder / "chat"),
        "both": encoder_bundle(folder / "both"),
        "table": made.table_bundle(folder / "table"),
    }


@pytest.fixture(scope="module")
def url(bundles):
    with Server(bundles, listen("127.0.0.1", 0)).background() as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def by_hand(bundle, text):
    ids = bundle.form.pipeline.opened(text)[None].long()
    with torch.no_grad():
        (hidden,), _state = bundle.model.hidden({bundle.model.input: ids})
    mean = hidden.float().mean(0)
    return (mean / mean.norm()).numpy()


@pytest.mark.parametrize("name", ["chat", "both"])
def test_vectors_are_the_mean_of_the_stream(client, bundles, name):
    found = client.embeddings.create(model=name, input=TEXTS)
    assert [one.index for one in found.data] == [0, 1, 2, 3]
    for one, text in zip(found.data, TEXTS):
        assert np.allclose(one.embedding, by_hand(bundles[name], text), atol=1e-5)
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
    pipeline = bundles[name].form.pipeline
    assert found.usage.prompt_tokens == sum(len(pipeline.opened(text)) for text in TEXTS)
    # Alone and beside others, as numbers and as bytes, as text and as tokens.
    numbers = client.embeddings.create(model=name, input=TEXTS[1], encoding_format="float").data[0].embedding
    assert np.allclose(numbers, found.data[1].embedding, atol=1e-6)
    tokens = [pipeline.opened(text).tolist() for text in TEXTS]
    assert np.allclose(
        [one.embedding for one in client.embeddings.create(model=name, input=tokens).data],
        [one.embedding for one in found.data], atol=1e-6,
    )  # fmt: skip
    assert len(client.embeddings.create(model=name, input=tokens[1]).data) == 1


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": ""}, "input", "input"),
        ({"input": []}, "input", "input"),
        ({"input": ["a", ""]}, "input", ""),
        ({"input": ["a", 1]}, "input", ""),
        ({"input": [10**9]}, "input", "tokens must lie"),
        ({"input": [-1]}, "input", "tokens must lie"),
        ({"input": "x" * 200}, "input", "context"),
        ({"input": ["a"] * 3000}, "input", "2,048"),
        ({"input": "a", "dimensions": 7}, "dimensions", "32 numbers"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", ""),
        ({"input": "a", "more": 1}, "more", "does not know"),
        ({}, "input", ""),
        ({"input": "a", "model": "table"}, "model", "no text"),
    ],
)
def test_what_can_not_be_is_told_by_its_parameter(url, body, param, says):
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "chat", **body}, timeout=30)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert says.lower() in error["message"].lower()


def test_unknown_models_and_media_types(url):
    assert httpx.post(f"{url}/v1/embeddings", json={"model": "none", "input": "a"}).status_code == 404
    assert httpx.post(f"{url}/v1/embeddings", content=b"a", headers={"content-type": "text/csv"}).status_code == 415
    assert httpx.post(f"{url}/v1/embeddings", content=b"[]").status_code == 400


def test_many_tokens_at_once_and_passed_parameters(client, bundles):
    found = client.embeddings.create(model="chat", input=["b" * 90] * 300, user="me", dimensions=32)
    assert len(found.data) == 300
    assert np.allclose(found.data[299].embedding, by_hand(bundles["chat"], "b" * 90), atol=1e-5)
    paths = httpx.get(str(client.base_url).removesuffix("v1/") + "openapi.json").json()["paths"]
    body = paths["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["model"]["enum"] == ["chat", "both"]


def test_whoever_hangs_up_is_computed_no_more(bundles, monkeypatch):
    parts, began, go_on = [], threading.Event(), threading.Event()
    computed = embeddings.embedded

    def slow(decoder, texts):
        parts.append(len(texts))
        began.set()
        go_on.wait(60)
        return computed(decoder, texts)

    monkeypatch.setattr(embeddings, "embedded", slow)
    with Server(bundles, listen("127.0.0.1", 0)).background() as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/embeddings", json={"model": "chat", "input": ["b" * 90] * 100}, timeout=0.5)
        assert began.wait(30)
        # The server has heard of it once it answers another.
        assert httpx.get(f"{url}/healthz").status_code == 200
        time.sleep(0.1)
        go_on.set()
        assert httpx.post(f"{url}/v1/embeddings", json={"model": "chat", "input": "a"}, timeout=30).status_code == 200
    assert len(parts) == 2


def test_a_turn_that_does_not_come_is_told(bundles, monkeypatch):
    computed = embeddings.embedded
    began = threading.Event()

    def slow(decoder, texts):
        began.set()
        time.sleep(0.5)
        return computed(decoder, texts)

    monkeypatch.setattr(embeddings, "embedded", slow)
    with Server(bundles, listen("127.0.0.1", 0), limits=Limits(wait=0.1)).background() as url:
        body = {"model": "chat", "input": "a"}
        first = threading.Thread(target=lambda: httpx.post(f"{url}/v1/embeddings", json=body, timeout=30))
        first.start()
        assert began.wait(30)
        answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=30)
        first.join()
    assert answer.status_code == 503
    assert "turn" in answer.json()["error"]["message"]
