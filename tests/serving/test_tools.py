"""Tools in chats: a model that learned to call one, and what is made of its text; by the real client."""

import json

import httpx
import openai
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.data.chats import chat_of
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.templates import TEMPLATES
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.inference.schemas import Schemas
from reinforge.models.decoder_options import DecoderOptions
from reinforge.registry import REGISTRY
from reinforge.serving.listening import listen
from reinforge.serving.openai.tools import CallReader, Tool, call_schema
from reinforge.serving.server import Server
from tests.bundle import made

ADD = {"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"],
    "additionalProperties": False}}}  # fmt: skip
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "user", "content": "add 1 and 2"}]
CALLS = [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]
CALLED = [*ASK, {"role": "assistant", "content": "I add.", "tool_calls": CALLS}]
ANSWERED = [*CALLED, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3."}]


def learned_bundle(path):
    """A decoder that knows two chats by heart: it calls a tool, and tells what the tool answered."""
    template = TEMPLATES["qwen"]
    marks = Marks(*template.documents)
    base = CharacterTokenizer("".join(map(chr, (10, *range(32, 127)))))
    specials = tuple(dict.fromkeys((marks.pad, marks.bos, marks.eos, *template.specials)))
    pipeline = TextPipeline(SpecialTokenizer(base, specials), marks, template)
    torch.manual_seed(0)
    options = DecoderOptions(layers=1, width=64, heads=2, context=1600)
    model = REGISTRY.build("model", options, pipeline.signature)
    chats = [chat_of({"messages": said, "tools": [ADD]}) for said in (CALLED, ANSWERED)]
    learned = [pipeline.chat(chat)[:2] for chat in chats]
    optimiser = torch.optim.AdamW(model.parameters(), 8e-3, weight_decay=0)
    for _update in range(400):
        loss = torch.zeros(())
        for ids, own in learned:
            scores = model({model.input: ids[None, :-1].long()})[0][model.output][0]
            loss = loss + torch.nn.functional.cross_entropy(scores[own[1:]], ids[1:][own[1:]].long())
        if loss < 0.02:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    form = TextForm(pipeline)
    examples = [{"text": "hello"}]
    return write_bundle(path, model=model, options=options, signature=pipeline.signature, form=form, examples=examples)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    bundles = {"qwen": learned_bundle(folder / "qwen"), "chatml": made.chat_bundle(folder / "chatml")}
    with Server(bundles, listen("127.0.0.1", 0)).background() as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_a_call_is_told_and_its_answer_goes_on(client):
    asked = {"model": "qwen", "tools": [ADD], "temperature": 0, "max_tokens": 120}
    (choice,) = client.chat.completions.create(messages=ASK, **asked).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I add."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "add")
    assert json.loads(call.function.arguments) == {"a": 1, "b": 2}
    # As programs do: what was said goes back as it came, with what the tool gave.
    said = [*ASK, choice.message.model_dump(exclude_none=True), {
        "role": "tool", "tool_call_id": call.id, "content": "3",
    }]  # fmt: skip
    (choice,) = client.chat.completions.create(messages=said, **asked).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "It is 3.")
    assert choice.message.tool_calls is None


def test_a_call_is_streamed(client):
    asked = {"model": "qwen", "tools": [ADD], "temperature": 0, "max_tokens": 120, "messages": ASK}
    with client.chat.completions.stream(**asked) as stream:
        pieces = [event.chunk for event in stream if event.type == "chunk"]
        whole = stream.get_final_completion().choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content == "I add."
    assert whole.message.tool_calls[0].function.name == "add"
    assert json.loads(whole.message.tool_calls[0].function.arguments) == {"a": 1, "b": 2}
    content = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert "".join(content) == "I add."
    assert sum(map(bool, content)) > 3, "content comes as it is written"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_asked_for_fits_its_schema(client, choice, stream):
    """Whatever a model would like to say: here it has never seen such a chat, and draws hot."""
    tools = [ADD] if choice == "required" else [LOOK, ADD]
    asked = {"model": "qwen", "tools": tools, "tool_choice": choice, "temperature": 1.5, "max_tokens": 300, "seed": 3}
    messages = [{"role": "user", "content": "what is the weather?"}]
    if stream:
        with client.chat.completions.stream(messages=messages, **asked) as streamed:
            found = streamed.get_final_completion().choices[0]
    else:
        (found,) = client.chat.completions.create(messages=messages, **asked).choices
    if found.finish_reason == "length":
        assert not found.message.tool_calls
        return
    (call,) = found.message.tool_calls
    assert call.function.name == "add"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"a", "b"}
    assert all(isinstance(value, int) for value in arguments.values())


class Item(pydantic.BaseModel):
    name: str
    count: int


class Order(pydantic.BaseModel):
    items: list[Item]


def test_schemas_that_refer_to_themselves_are_held_to():
    nested = Tool.model_validate(openai.pydantic_function_tool(Order))
    assert "$ref" in json.dumps(nested.function.parameters)
    named = {"type": "object", "properties": {"$ref": {"type": "string"}, "way": {"const": {"$ref": "#/x"}}}}
    plain = Tool.model_validate({"type": "function", "function": {"name": "plain", "parameters": named}})
    text = json.dumps({"name": "Order", "arguments": {"items": [{"name": "a", "count": 2}]}}, separators=(",", ":"))
    words = [*map(chr, range(32, 127)), "<end>"]
    schemas = Schemas(lambda tokens: "".join(words[token] for token in tokens), len(words), (95,))
    for tools in ([nested], [plain, nested]):
        schema = call_schema(tools)
        for wanted, right in ((text, True), (text.replace("2", '"2"'), False)):
            constraint = schemas.constraint(schema)
            fits = True
            for token in map(words.index, wanted):
                fits = fits and bool(constraint.allowed()[token])
                if fits:
                    constraint.advance(token)
            assert fits is right
    assert call_schema([plain])["properties"]["arguments"] == named


def test_no_tools_are_no_tools(client):
    """Neither offered nor read where none is to be called."""
    asked = {"model": "qwen", "temperature": 0, "max_tokens": 60, "messages": ASK}
    without = client.chat.completions.create(**asked)
    none = client.chat.completions.create(**asked, tools=[ADD], tool_choice="none")
    assert none.choices[0].message.content == without.choices[0].message.content
    assert none.usage.prompt_tokens == without.usage.prompt_tokens
    assert none.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "x", "function": {"name": "a"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [ADD], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": 3}}}],
          "tool_choice": "required"}, "tools"),
        ({"tools": [ADD], "model": "chatml"}, "tools"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_told_by_its_parameter(url, body, param):
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "qwen", "messages": ASK, **body}, timeout=30)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def told(reader, pieces):
    """Content and calls of a text in pieces."""
    content, calls = "", []
    for place, piece in enumerate(pieces):
        new, called = reader.take(piece, ended=place == len(pieces) - 1)
        content += new
        calls += [(call.name, call.arguments) for call in called]
    return content, calls


ONE = '<tool_call>\n{"name": "f", "arguments": {"x": [1, {"y": "</tool"}]}}\n</tool_call>'
TWO = '<tool_call>{"name":"g","arguments":{}}</tool_call>'
TEXTS = {
    "plain": ("plain", []),
    f"{ONE}": ("", [("f", '{"x": [1, {"y": "</tool"}]}')]),
    f"a \n{ONE}\n{TWO}\n": ("a", [("f", '{"x": [1, {"y": "</tool"}]}'), ("g", "{}")]),
    "a <tool_call>no json</tool_call> b": ("a <tool_call>no json</tool_call> b", []),
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>': ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', []),
    'cut <tool_call>{"name": "f"': ('cut <tool_call>{"name": "f"', []),
    "a < b <tool": ("a < b <tool", []),
    " spaces  stay \n": (" spaces  stay \n", []),
}


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_calls_are_read_however_the_text_is_cut(text, data):
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)])]
    assert told(CallReader(), pieces) == TEXTS[text]
    content, calls = told(CallReader(most=1), pieces)
    assert (content, calls) == (TEXTS[text][0], TEXTS[text][1][:1])
