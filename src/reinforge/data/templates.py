"""Chat templates: how turns become one sequence of tokens, and which of it is to be learned.

Each is a function from messages to parts in the form that a family of public models was trained with. Special tokens
are parts of their own, so that no text from data can ever become one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from reinforge.data.chats import Call, Chat, Message
from reinforge.errors import DataError
from reinforge.messages import _


@dataclass(frozen=True)
class Part:
    """A piece of a rendered chat: a text, or one special token. `learned`: the assistant's own words. `turn`: the
    number of the message that it belongs to."""

    text: str
    special: bool = False
    learned: bool = False
    turn: int = -1


Parts = Iterator[Part]
Render = Callable[[Chat], Parts]
# What stands for the pipeline's own first and last token.
BOS, EOS = "bos", "eos"


@dataclass(frozen=True)
class Template:
    """A named way to write chats. `specials`: tokens of its own. `bos`: its first token; BOS for the pipeline's, None
    for none. `stop`: what ends an answer; EOS for the pipeline's. `opening` begins an answer. `documents`: what begins
    and ends a plain document in this family, and what fills up, for tokenizers that are trained here."""

    name: str
    specials: tuple[str, ...]
    bos: str | None
    stop: tuple[str, ...]
    turns: Render
    opening: tuple[Part, ...]
    documents: tuple[str, str, str] = ("<|bos|>", "<|eos|>", "<|pad|>")

    def render(self, chat: Chat, *, answer: bool = False) -> list[Part]:
        """The parts of a chat, beginning with its one first token; `answer` opens the assistant's next turn.

        Neighbouring texts of one kind are joined. Raises DataError for what the template can't say.
        """
        first = [Part(self.bos, special=True)] if self.bos else []
        parts = [*first, *self.turns(chat), *(self.opening if answer else ())]
        return list(_joined(part for part in parts if part.text))


def by_name(name: str) -> Template:
    """The template. Raises DataError with the known names."""
    if name not in TEMPLATES:
        raise DataError(
            _("there is no template {name!r}").format(name=name), where="data.template",
            remedy=_("Known: {names}.").format(names=", ".join(TEMPLATES)),
        )  # fmt: skip
    return TEMPLATES[name]


def text_of(parts: Sequence[Part], bos: str = "", eos: str = "") -> str:
    """The parts as one text, as a Jinja template would write it."""
    generic = {BOS: bos, EOS: eos}
    return "".join(generic.get(part.text, part.text) if part.special else part.text for part in parts)


# Messages between marks of their role: ChatML and its descendants.

_START, _END = "<|im_start|>", "<|im_end|>"


def _turn(role: str, content: str, number: int, learned: bool = False) -> Parts:
    """<|im_start|>ROLE / CONTENT<|im_end|> and a new line; the end is learned with the content."""
    yield Part(_START, special=True, turn=number)
    yield Part(f"{role}\n", turn=number)
    yield Part(content, learned=learned, turn=number)
    yield Part(_END, special=True, learned=learned, turn=number)
    yield Part("\n", turn=number)


def _chatml(chat: Chat) -> Parts:
    _plain_only(chat, "chatml")
    for number, message in enumerate(chat.messages):
        yield from _turn(message.role, message.content, number, message.role == "assistant")


# The wording is part of the format: the models were trained with it.
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
QWEN_CALLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


def _qwen(chat: Chat) -> Parts:
    messages = chat.messages
    given = messages[0].content if messages[0].role == "system" else QWEN_SYSTEM
    tools = f"\n\n{_offered(chat)}" if chat.tools else ""
    yield from _turn("system", given + tools, 0 if messages[0].role == "system" else -1)
    for number, message in _after_system(messages):
        if message.role == "tool":
            yield from _response(messages, number)
        elif message.calls:
            called = "".join(f"\n{_called(call)}" for call in message.calls)
            content = f"{message.content}{called}" if message.content else called.removeprefix("\n")
            yield from _turn("assistant", content, number, learned=True)
        else:
            yield from _turn(message.role, message.content, number, message.role == "assistant")


def _qwen3(chat: Chat) -> Parts:
    """Thoughts stay only after the last question, as the models expect; where there was none, they are empty."""
    messages = chat.messages
    system = messages[0].content if messages[0].role == "system" else None
    if chat.tools:
        before = "" if system is None else f"{system}\n\n"
        yield from _turn("system", before + _offered(chat), -1 if system is None else 0)
    elif system is not None:
        yield from _turn("system", system, 0)
    asked = max((n for n, m in enumerate(messages) if m.role == "user"), default=len(messages) - 1)
    for number, message in _after_system(messages):
        if message.role == "tool":
            yield from _response(messages, number)
            continue
        if message.role != "assistant":
            yield from _turn(message.role, message.content, number)
            continue
        thought, content = _thought(message)
        called = "\n".join(map(_called, message.calls))
        said = f"{content}\n{called}" if content and called else content + called
        if number > asked and (thought or number == len(messages) - 1):
            thinks = "<think>\n" + thought.strip("\n") + "\n</think>\n\n"
            said = thinks + (
                f"{content.lstrip(chr(10))}\n{called}" if content and called else content.lstrip("\n") + called
            )
        yield from _turn("assistant", said, number, learned=True)


def _thought(message: Message) -> tuple[str, str]:
    """What was thought, and what was said."""
    if message.thought or "</think>" not in message.content:
        return message.thought, message.content
    before, _mark, after = message.content.rpartition("</think>")
    return before.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n"), after.lstrip("\n")


def _offered(chat: Chat) -> str:
    return QWEN_TOOLS + "".join(f"\n{_json(tool)}" for tool in chat.tools) + QWEN_CALLS


def _called(call: Call) -> str:
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {_json(call.arguments)}}}\n</tool_call>'


def _response(messages: Sequence[Message], number: int) -> Parts:
    """What a tool answered, inside a turn of the user's; neighbours share one."""
    if number == 0 or messages[number - 1].role != "tool":
        yield Part(_START, special=True, turn=number)
        yield Part("user", turn=number)
    yield Part(f"\n<tool_response>\n{messages[number].content}\n</tool_response>", turn=number)
    if number == len(messages) - 1 or messages[number + 1].role != "tool":
        yield Part(_END, special=True, turn=number)
        yield Part("\n", turn=number)


def _after_system(messages: Sequence[Message]) -> list[tuple[int, Message]]:
    return list(enumerate(messages))[messages[0].role == "system" :]


# Llama 3 and Gemma.


def _llama3(chat: Chat) -> Parts:
    _plain_only(chat, "llama3")
    for number, message in enumerate(chat.messages):
        learned = message.role == "assistant"
        yield Part("<|start_header_id|>", special=True, turn=number)
        yield Part(message.role, turn=number)
        yield Part("<|end_header_id|>", special=True, turn=number)
        yield Part("\n\n", turn=number)
        yield Part(message.content.strip(), learned=learned, turn=number)
        yield Part("<|eot_id|>", special=True, learned=learned, turn=number)


def _gemma(chat: Chat) -> Parts:
    """A system message stands before the first user's; turns alternate."""
    _plain_only(chat, "gemma")
    messages = list(enumerate(chat.messages))
    before = ""
    if chat.messages[0].role == "system":
        before = f"{messages.pop(0)[1].content}\n\n"
    for place, (number, message) in enumerate(messages):
        if message.role != ("user", "assistant")[place % 2]:
            raise DataError(
                _(
                    "in template gemma user and assistant take turns, the user first, and turn {n} is the {role}'s"
                ).format(n=place + 1, role=message.role),
                where=f"messages[{number}]",
                remedy=_("Join neighbouring messages of one role, or choose another data.template."),
            )
        learned = message.role == "assistant"
        yield Part("<start_of_turn>", special=True, turn=number)
        yield Part("model\n" if learned else f"user\n{before}", turn=number)
        yield Part(message.content.strip(), learned=learned, turn=number)
        yield Part("<end_of_turn>", special=True, learned=learned, turn=number)
        yield Part("\n", turn=number)
        before = ""


def _plain(chat: Chat) -> Parts:
    """The texts one after another, without marks; each answer ends with the last token of a document."""
    _plain_only(chat, "plain")
    for number, message in enumerate(chat.messages):
        learned = message.role == "assistant"
        yield Part(message.content, learned=learned, turn=number)
        if learned:
            yield Part(EOS, special=True, learned=True, turn=number)


def _plain_only(chat: Chat, name: str) -> None:
    """Refuse tools and their calls. Raises DataError."""
    if chat.tools or any(message.calls for message in chat.messages):
        raise DataError(
            _("template {name} has no way to write tools").format(name=name), where="tools",
            remedy=_("Choose data.template: qwen or qwen3, or leave out tools and tool_calls."),
        )  # fmt: skip


def _json(value: Any) -> str:
    """As Jinja's tojson in transformers writes it."""
    return json.dumps(value, ensure_ascii=False)


def _joined(parts: Iterator[Part]) -> Parts:
    """Texts of one kind that follow each other as one: a tokenizer must not see where they were glued."""
    for (special, learned), group in groupby(parts, key=lambda part: (part.special, part.learned)):
        members = list(group)
        if special:
            yield from members
        else:
            yield Part("".join(part.text for part in members), learned=learned, turn=members[-1].turn)


_OPENING = (Part(_START, special=True), Part("assistant\n"))
_QWEN = ("<|endoftext|>", "<|endoftext|>", "<|pad|>")

# Closed: recipes and bundles can name no other.
TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template("chatml", (_START, _END), BOS, (_END,), _chatml, _OPENING),
        Template("qwen", (_START, _END), None, (_END,), _qwen, _OPENING, _QWEN),
        Template("qwen3", (_START, _END), None, (_END,), _qwen3, _OPENING, _QWEN),
        Template(
            "llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), BOS, ("<|eot_id|>",), _llama3,
            (
                Part("<|start_header_id|>", special=True), Part("assistant"),
                Part("<|end_header_id|>", special=True), Part("\n\n"),
            ),
            ("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"),
        ),
        Template(
            "gemma", ("<start_of_turn>", "<end_of_turn>"), BOS, ("<end_of_turn>",), _gemma,
            (Part("<start_of_turn>", special=True), Part("model\n")), ("<bos>", "<eos>", "<pad>"),
        ),
        Template("plain", (), BOS, (EOS,), _plain, ()),
    )
}  # fmt: skip
