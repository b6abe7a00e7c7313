"""Language bundles behind OpenAI's interface, asked with OpenAI's own client."""

import asyncio
import json
import string
import threading
import time

import httpx
import jsonschema
import openai
import pytest
import torch

from reinforge.core.ragged import Ragged
from reinforge.serving.limits import Limits
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from reinforge.workflow.generate import Conversation, Draws, generate
from tests.bundle import made

HELLO = [{"role": "user", "content": "hello there"}]
CONTEXT = 1000


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openai")
    return {
        "chat": made.chat_bundle(folder / "chat", context=CONTEXT, characters=string.printable[:95]),
        "small": made.chat_bundle(folder / "small"),
        "text": made.text_bundle(folder / "text"),
        "table": made.table_bundle(folder / "table"),
    }


@pytest.fixture(scope="module")
def url(bundles):
    with Server(bundles, listen("127.0.0.1", 0), limits=Limits(body=200_000)).background() as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(client, **more):
    return client.chat.completions.create(**{"model": "chat", "messages": HELLO, "max_tokens": 12, **more})


def complete(client, **more):
    return client.completions.create(**{"model": "chat", "prompt": "hello", "max_tokens": 12, **more})


def test_models_are_listed_for_both(url, client):
    assert [model.id for model in client.models.list()] == ["chat", "small", "text", "table"]
    assert client.models.retrieve("chat").id == "chat"
    assert [model["name"] for model in httpx.get(f"{url}/v1/models").json()["models"]] == [
        "chat",
        "small",
        "text",
        "table",
    ]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


@pytest.mark.parametrize("draws", [Draws(20, 0.0), Draws(20, 0.8, top_p=0.9, seed=5, presence=0.5)])
def test_answers_are_those_of_generate(client, bundles, draws):
    """The same text for the same seed, by the command, the conversation and the server."""
    settings = {
        "max_tokens": draws.max_tokens, "temperature": draws.temperature, "top_p": draws.top_p, "seed": draws.seed,
        "presence_penalty": draws.presence,
    }  # fmt: skip
    answer = chat(client, **settings)
    (expected,) = generate(bundles["chat"], [{"messages": HELLO}], draws)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.reason
    assert answer.usage.completion_tokens == expected.tokens
    texts = generate(bundles["chat"], ["hello"], draws, samples=3)
    found = complete(client, n=3, **settings)
    assert [choice.text for choice in found.choices] == [each.text for each in texts]
    if not draws.temperature:
        assert "".join(Conversation(bundles["chat"], draws).say("hello there")) == answer.choices[0].message.content


def test_a_stream_is_the_whole_in_pieces(client):
    settings = {"temperature": 0.9, "seed": 3, "n": 2, "max_tokens": 40}
    whole = chat(client, **settings)
    texts, reasons, usage = ["", ""], [None, None], None
    for chunk in chat(client, stream=True, stream_options={"include_usage": True}, **settings):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    pieces = list(complete(client, stream=True, echo=True, temperature=0))
    assert "".join(p.choices[0].text for p in pieces) == "hello" + complete(client, temperature=0).choices[0].text


def test_many_at_once_by_the_asynchronous_client(url, client):
    expected = {seed: chat(client, seed=seed).choices[0].message.content for seed in range(12)}

    async def ask(other, seed):
        text = ""
        async for chunk in await chat(other, seed=seed, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as other:
            return await asyncio.gather(*(ask(other, seed) for seed in expected))

    assert asyncio.run(all_of_them()) == list(expected.values())


def test_log_probabilities_are_the_models_own(client, bundles):
    """Whatever was drawn: compared with one pass over the whole text."""
    bundle, tokenizer = bundles["text"], bundles["text"].form.pipeline.tokenizer
    settings = {"model": "text", "prompt": "the quick", "temperature": 0.7, "top_p": 0.5, "seed": 1, "max_tokens": 10}
    answer = complete(client, logprobs=4, **settings).choices[0]
    told = answer.logprobs
    assert "".join(told.tokens) == answer.text
    assert [answer.text[place] for place in told.text_offset] == told.tokens
    prompt, ids = tokenizer.encode("the quick").long(), tokenizer.encode(answer.text).long()
    with torch.inference_mode():
        logits = bundle.model({"tokens": Ragged.from_rows([torch.cat([prompt, ids])])})[0]["tokens"].float()
    logits = logits.values if isinstance(logits, Ragged) else logits
    log_probs = logits.reshape(len(prompt) + len(ids), -1).log_softmax(-1)[len(prompt) - 1 : -1]
    assert told.token_logprobs == pytest.approx([float(row[token]) for row, token in zip(log_probs, ids)], abs=1e-4)
    for top, row in zip(told.top_logprobs, log_probs):
        likeliest = row.topk(4)
        assert list(top.values())[::-1] == pytest.approx(likeliest.values.tolist(), abs=1e-4)
        assert list(top)[::-1] == [tokenizer.decode([token]) for token in likeliest.indices.tolist()]


def test_log_probabilities_of_chats_and_streams(client):
    settings = {"temperature": 0.7, "seed": 1, "max_tokens": 10, "logprobs": True, "top_logprobs": 4}
    answer = chat(client, **settings).choices[0]
    entries = answer.logprobs.content
    assert answer.message.content == "".join(entry.token for entry in entries)
    for entry in entries:
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 4
        assert entry.logprob <= entry.top_logprobs[0].logprob + 1e-6
        assert entry.top_logprobs == sorted(entry.top_logprobs, key=lambda top: -top.logprob)
    streamed = [chunk.choices[0].logprobs for chunk in chat(client, stream=True, **settings)]
    assert [entry for part in streamed if part for entry in part.content] == entries
    assert chat(client, **{**settings, "top_logprobs": 0}).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(client).choices[0].logprobs is None


SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog", "小鸟"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
        "owner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/person"}]},
    },
    "required": ["kind", "legs", "names", "owner"],
    "additionalProperties": False,
    "$defs": {
        "person": {
            "type": "object", "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 120}},
            "required": ["age"], "additionalProperties": False,
        }
    },
}  # fmt: skip


def test_an_answer_fits_its_schema(client):
    """New weights know nothing of JSON; jsonschema, which knows nothing of the engine, judges what they write."""
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "kind": {"enum": ["cat", "dog"]}}}
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    answer = chat(client, response_format=form, n=12, max_tokens=300, seed=1)
    texts = [choice.message.content for choice in answer.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert len(set(texts)) > 6
    pieces = chat(client, response_format=form, max_tokens=300, seed=1, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == texts[0]
    # Beside texts that are held to nothing, which stay what they are.
    some = chat(client, response_format={"type": "json_object"}, max_tokens=40, seed=2).choices[0]
    assert some.message.content.startswith("{")
    assert some.finish_reason == "length" or json.loads(some.message.content) is not None
    cut = chat(client, response_format=form, max_tokens=3, seed=1).choices[0]
    assert (cut.finish_reason, cut.message.content) == ("length", texts[0][:3])


def test_a_schema_that_the_model_has_no_letters_for_ends_all_the_same(client):
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": {"enum": ["小鸟"]}}}
    answer = chat(client, response_format=form, max_tokens=50, seed=1).choices[0]
    assert answer.message.content.startswith('"')
    assert len(answer.message.content) < 50


def test_texts_end_where_they_are_told_to(client, bundles):
    whole = chat(client, seed=2, max_tokens=60).choices[0].message.content
    stop = whole[20:22]
    cut = chat(client, seed=2, max_tokens=60, stop=[stop, "never"]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert chat(client, temperature=0, max_tokens=1).usage.completion_tokens == 1
    # The context is the limit of all limits.
    endless = chat(client, max_tokens=10**9, temperature=0)
    assert endless.choices[0].finish_reason == "length"
    assert endless.usage.total_tokens == CONTEXT + 1
    assert chat(client, max_completion_tokens=3, max_tokens=50, temperature=0).usage.completion_tokens == 3
    assert complete(client, max_tokens=openai.NOT_GIVEN, temperature=0).usage.completion_tokens == 16


def test_prompts_of_every_form(client, bundles):
    ids = bundles["text"].form.pipeline.tokenizer.encode("the quick").tolist()
    settings = {"model": "text", "temperature": 0, "max_tokens": 8}
    one = complete(client, prompt="the quick", **settings).choices[0].text
    assert one == generate(bundles["text"], ["the quick"], Draws(8, 0.0))[0].text
    for prompt in (["the quick"], ids, [ids]):
        assert complete(client, prompt=prompt, **settings).choices[0].text == one
    several = complete(client, prompt=["the quick", "fox", "the quick"], n=2, **settings)
    assert [choice.index for choice in several.choices] == list(range(6))
    assert [several.choices[n].text for n in (0, 1, 4, 5)] == [one] * 4
    assert several.choices[2].text == complete(client, prompt="fox", **settings).choices[0].text
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]}]
    assert (
        chat(client, messages=parts, temperature=0).choices[0].message.content
        == chat(client, temperature=0).choices[0].message.content
    )


BAD = [
    (b"", None, "JSON"),
    (b"\xff\xfe", None, "UTF-8"),
    (b'{"model": "chat", "messages": "\xc3("}', None, "UTF-8"),
    (b'{"model": "chat", "messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", None, "nested"),
    (b'{"model": "chat", "temperature": NaN}', None, "NaN"),
    ([], None, "object"),
    ({"messages": HELLO}, "model", "required"),
    ({"model": "chat"}, "messages", "required"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0]", "boss"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0]", "role"),
    ({"messages": [*HELLO, {"role": "user", "content": 3}]}, "messages[1]", "text"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages", "nothing to answer"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
     "messages[0]", "no text"),
    ({"messages": [{"role": "user", "content": "x" * (CONTEXT + 1)}]}, "messages", "context"),
    ({"max_tokens": 0}, "max_tokens", "greater"),
    ({"max_tokens": "many"}, "max_tokens", "integer"),
    ({"max_tokens": 1.5}, "max_tokens", "integer"),
    ({"temperature": -1}, "temperature", "greater"),
    ({"temperature": 3}, "temperature", "less"),
    ({"temperature": True}, "temperature", "number"),
    ({"top_p": 2}, "top_p", "less"),
    ({"n": 17}, "n", "less"),
    ({"n": 10**30}, "n", ""),
    ({"seed": "x"}, "seed", "integer"),
    ({"stop": [""]}, "stop", ""),
    ({"stop": ["a"] * 17}, "stop", ""),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "no way to write tools"),
    ({"tool_choice": "required"}, "tool_choice", "no such tool"),
    ({"logit_bias": {"3": 1}}, "logit_bias", "does not know"),
    ({"frequency_penalty": 1}, "frequency_penalty", "does not know"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "yaml"}}, "response_format", "text"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}},
     "response_format", "objekt"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/x"}}}},
     "response_format", "Schema"),
    ({"model": "small", "response_format": {"type": "json_object"}}, "response_format", "lacks characters"),
    ({"tempratur": 1}, "tempratur", "does not know"),
    ({"model": "table"}, "model", "writes no text"),
    ({"model": "text"}, "messages", "template"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "says"), BAD)
def test_bad_requests_are_refused_by_parameter(url, body, param, says):
    if isinstance(body, dict) and body not in ({"messages": HELLO}, {"model": "chat"}):
        body = {"model": "chat", "messages": HELLO, **body}
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = httpx.post(f"{url}/v1/chat/completions", content=content, timeout=20)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert says in error["message"]


@pytest.mark.parametrize("prompt", ["", [], [[]], ["x", 3], [-1], [10**6], [[1], ["x"]], {"a": 1}, None, "\x00" * 3000])
def test_bad_prompts(url, prompt):
    body = {"model": "chat", "prompt": prompt, "max_tokens": 2}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=20)
    assert answer.status_code == 400 or (prompt == "" and answer.status_code == 200), answer.text


def test_other_errors_have_openais_shape_too(url, client):
    with pytest.raises(openai.NotFoundError) as refused:
        chat(client, model="none")
    assert refused.value.type == "not_found_error"
    assert "chat" in refused.value.message
    assert set(httpx.get(f"{url}/v1/chat/completions").json()["error"]) == {"message", "type", "param", "code"}
    huge = httpx.post(f"{url}/v1/completions", content=b" " * 200_001)
    assert (huge.status_code, huge.json()["error"]["type"]) == (413, "invalid_request_error")
    other = httpx.post(f"{url}/v1/completions", content=b"x", headers={"content-type": "image/png"})
    assert other.status_code == 415


class Started:
    """A server with limits of its own, and a stream that keeps its one slot busy."""

    def __init__(self, bundles, **limits):
        self.server = Server(bundles, listen("127.0.0.1", 0), limits=Limits(**limits))
        self.writer = self.server.models["chat"].writer

    def __enter__(self):
        self.background = self.server.background()
        url = self.background.__enter__()
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        return self

    def __exit__(self, *error):
        self.client.close()
        self.background.__exit__(*error)

    def busy(self):
        stream = chat(self.client, stream=True, max_tokens=CONTEXT, temperature=0)
        next(iter(stream))
        return stream

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_client_that_goes_frees_its_place(bundles):
    with Started(bundles, slots=1) as it:
        stream = it.busy()
        assert it.writer.running == 1
        stream.close()
        it.wait(lambda: it.writer.running == 0)
        # One that waits in line, too.
        stream = it.busy()
        with pytest.raises(openai.APITimeoutError):
            chat(it.client.with_options(timeout=0.2), max_tokens=3)
        it.wait(lambda: it.writer.waiting == 0)
        assert it.writer.running == 1
        stream.close()
        it.wait(lambda: it.writer.running == 0)
        assert chat(it.client, max_tokens=3, temperature=0).usage.completion_tokens == 3


def test_what_is_too_much_is_refused_with_a_time(bundles):
    with Started(bundles, slots=1, texts=2) as it:
        stream = it.busy()
        waiting = [threading.Thread(target=lambda: chat(it.client, max_tokens=2)) for _ in range(2)]
        for one in waiting:
            one.start()
        it.wait(lambda: it.writer.waiting == 2)
        with pytest.raises(openai.RateLimitError) as refused:
            chat(it.client, stream=True)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.type == "rate_limit_error"
        stream.close()
        for one in waiting:
            one.join(20)
            assert not one.is_alive()


def test_whose_turn_does_not_come_is_told_so(bundles):
    with Started(bundles, slots=1, wait=0.3) as it:
        stream = it.busy()
        with pytest.raises(openai.InternalServerError) as refused:
            chat(it.client, stream=True)
        assert refused.value.status_code == 503
        stream.close()


def test_a_text_that_takes_too_long_is_cut(bundles):
    with Started(bundles, writing=0.2) as it:
        began = time.monotonic()
        answer = chat(it.client, max_tokens=CONTEXT, temperature=0)
        assert answer.choices[0].finish_reason == "length"
        assert 0 < answer.usage.completion_tokens < CONTEXT - 50
        assert time.monotonic() - began < 2


def test_requests_join_between_steps(bundles):
    """A short one overtakes a long one that began before it, and both are what they are alone."""
    with Started(bundles) as it:
        alone = chat(it.client, seed=7, max_tokens=30).choices[0].message.content
        stream = it.busy()
        assert chat(it.client, seed=7, max_tokens=30).choices[0].message.content == alone
        assert it.writer.running == 1
        written = sum(len(chunk.choices[0].delta.content or "") for chunk in stream)
        assert written > 500


def test_a_fault_in_the_engine_is_told_and_survived(bundles, monkeypatch, capsys):
    with Started(bundles) as it:
        stream = it.busy()

        def fail():
            raise RuntimeError("secret")

        monkeypatch.setattr(it.writer._engine, "step", fail)
        with pytest.raises(openai.APIError) as told:
            list(stream)
        assert "secret" not in str(told.value)
        assert "failed" in str(told.value)
        assert chat(it.client, max_tokens=2, temperature=0).usage.completion_tokens == 2
    assert "secret" in capsys.readouterr().err


def test_a_bundle_is_replaced_while_it_writes(bundles, tmp_path):
    with Started(bundles) as it:
        stream = it.busy()
        it.server.models.put("chat", made.chat_bundle(tmp_path / "new", context=200))
        assert chat(it.client, max_tokens=10**6, temperature=0).usage.total_tokens == 201
        assert sum(len(chunk.choices[0].delta.content or "") for chunk in stream) > 500


def test_what_is_written_is_measured(url, client):
    def value(name):
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])

    name = 'reinforge_tokens_total{model="chat"}'
    chat(client, max_tokens=2)
    before = value(name)
    chat(client, max_tokens=9, seed=1, temperature=0)
    assert value(name) == before + 9
    assert value('reinforge_first_token_seconds_count{model="chat"}') > 1
    assert value('reinforge_texts{model="chat",state="running"}') == 0


def test_the_interface_is_described(url, client):
    document = httpx.get(f"{url}/openapi.json").json()
    for path, body, answer in (
        ("/v1/chat/completions", {"model": "chat", "messages": HELLO, "max_tokens": 2}, chat(client, max_tokens=2)),
        ("/v1/completions", {"model": "chat", "prompt": "hello", "stop": ["x"]}, complete(client, max_tokens=2)),
    ):
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(body, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**body, "model": "table"}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**body, "tempratur": 1}, schema)
        told = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.to_dict(), told)
