"""Chats, pairs of answers and prompts, read from rows as people keep them; every error names row, field and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reinforge.data.values import MEMORY, Origin
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.storage import strict_json

ROLES = ("system", "user", "assistant", "tool")
# How other tools spell roles.
_ROLES = {role: role for role in ROLES} | {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "developer": "system",
}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """What an assistant asks of a tool: its name and its arguments, which JSON can say."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a chat. An assistant's may hold calls of tools, and what it thought before it answered."""

    role: str
    content: str
    calls: tuple[Call, ...] = ()
    thought: str = ""


@dataclass(frozen=True)
class Chat:
    """Turns in order, and the tools (as their JSON Schemas) that the assistant may call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two answers to the same prompt: `chosen` is the better one. Each is all turns from the prompt's end on."""

    prompt: Chat
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


@dataclass(frozen=True)
class Judged:
    """An answer alone, and whether it is wanted."""

    prompt: Chat
    answer: tuple[Message, ...]
    wanted: bool


@dataclass(frozen=True)
class Question:
    """A prompt, and the answer that can be verified."""

    prompt: Chat
    answer: str


def chat_of(row: Row, origin: Origin = MEMORY, index: int | None = None) -> Chat:
    """A chat from {"messages": [{"role", "content"}, ...], "tools": [...]}, {"conversations": [{"from", "value"}, ...]}
    or {"prompt", "completion"}, whose values are texts or lists of messages. Raises DataError."""
    if "messages" in row:
        return Chat(_messages(row["messages"], "messages", origin, index), _tools(row, origin, index))
    if "conversations" in row:
        return Chat(_messages(row["conversations"], "conversations", origin, index), _tools(row, origin, index))
    if "prompt" in row and "completion" in row:
        prompt = _turns(row["prompt"], "user", "prompt", origin, index)
        answer = _turns(row["completion"], "assistant", "completion", origin, index)
        return Chat(prompt + answer, _tools(row, origin, index))
    raise _shapeless(
        row, '{"messages": [{"role": "user", "content": "..."}, ...]}', '{"prompt": "...", "completion": "..."}',
        origin=origin, index=index,
    )  # fmt: skip


def taught(row: Row, origin: Origin = MEMORY, index: int | None = None) -> Chat:
    """The same, for learning: there must be an answer to learn from. Raises DataError."""
    chat = chat_of(row, origin, index)
    if not any(message.role == "assistant" for message in chat.messages):
        raise DataError(
            _("no message is the assistant's, so there is nothing to learn"),
            where=origin.at(index, "messages"),
            remedy=_("Add the answer: {example}.").format(example='{"role": "assistant", "content": "..."}'),
        )
    return chat


def asked(row: Row, origin: Origin = MEMORY, index: int | None = None) -> Chat:
    """A chat that waits for an answer, from {"messages"} or {"prompt"}. Raises DataError."""
    if "messages" not in row and "conversations" not in row and "prompt" in row:
        return Chat(_turns(row["prompt"], "user", "prompt", origin, index), _tools(row, origin, index))
    chat = chat_of(row, origin, index)
    if chat.messages[-1].role == "assistant":
        raise DataError(
            _("the last message is the assistant's, so there is nothing to answer"),
            where=origin.at(index, "messages"),
            remedy=_("Leave it out, or add the user's next message."),
        )
    return chat


def pair_of(row: Row, origin: Origin = MEMORY, index: int | None = None) -> Pair:
    """A pair from {"prompt", "chosen", "rejected"}: texts or lists of messages; without a prompt, what both lists begin
    with alike is it. Raises DataError."""
    if "chosen" not in row or "rejected" not in row:
        raise _shapeless(
            row, '{"prompt": "...", "chosen": "...", "rejected": "..."}',
            '{"chosen": [messages], "rejected": [messages]}', origin=origin, index=index,
        )  # fmt: skip
    chosen = _turns(row["chosen"], "assistant", "chosen", origin, index)
    rejected = _turns(row["rejected"], "assistant", "rejected", origin, index)
    prompt = _turns(row["prompt"], "user", "prompt", origin, index) if row.get("prompt") is not None else ()
    if prompt and chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
        # Some write the prompt once more before each answer.
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not prompt:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not any(message.role == "assistant" for message in answer):
            raise DataError(
                _("it has no message of the assistant's own"),
                where=origin.at(index, name),
                remedy=_("chosen and rejected must be different answers to one prompt."),
            )
    if not prompt:
        raise DataError(
            _("there is no prompt, and the two answers begin differently"),
            where=origin.at(index, "prompt"),
            remedy=_("Add `prompt`, or begin both lists with the same messages."),
        )
    if chosen == rejected:
        raise DataError(_("chosen and rejected are the same"), where=origin.at(index), remedy=_("Leave the row out."))
    return Pair(Chat(prompt, _tools(row, origin, index)), chosen, rejected)


def judged_of(row: Row, origin: Origin = MEMORY, index: int | None = None) -> Judged:
    """A judged answer from {"prompt", "completion", "label": true or false}. Raises DataError."""
    if not {"prompt", "completion", "label"} <= row.keys():
        example = '{"prompt": "...", "completion": "...", "label": true}'
        raise _shapeless(row, example, origin=origin, index=index)
    if not isinstance(row["label"], bool):
        raise DataError(_("it must be true or false"), where=origin.at(index, "label"))
    prompt = Chat(_turns(row["prompt"], "user", "prompt", origin, index), _tools(row, origin, index))
    return Judged(prompt, _turns(row["completion"], "assistant", "completion", origin, index), row["label"])


def question_of(row: Row, origin: Origin = MEMORY, index: int | None = None) -> Question:
    """A question from {"prompt" or "messages", "answer"}. Raises DataError."""
    if "answer" not in row:
        raise _shapeless(row, '{"prompt": "2 + 3 =", "answer": "5"}', origin=origin, index=index)
    answer = row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise DataError(_("an answer must be a text or a number"), where=origin.at(index, "answer"))
    return Question(asked(row, origin, index), str(answer))


def document_of(row: Row, origin: Origin = MEMORY, index: int | None = None) -> str:
    """A document from {"text"}. Raises DataError."""
    if "text" not in row:
        raise _shapeless(row, '{"text": "..."}', origin=origin, index=index)
    if not isinstance(row["text"], str):
        kind = type(row["text"]).__name__
        raise DataError(_("{kind} is no text").format(kind=kind), where=origin.at(index, "text"))
    return row["text"]


def _turns(value: Any, role: str, field: str, origin: Origin, index: int | None) -> tuple[Message, ...]:
    """A text as one message of that role, or messages as they are."""
    if isinstance(value, str):
        if not value:
            raise DataError(_("it is empty"), where=origin.at(index, field), remedy=_("Leave the row out."))
        return (Message(role, value),)
    return _messages(value, field, origin, index)


def _messages(value: Any, field: str, origin: Origin, index: int | None) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise DataError(
            _("it must be a list of messages, not an empty one"),
            where=origin.at(index, field),
            remedy=_("Write {example}.").format(example='[{"role": "user", "content": "..."}]'),
        )
    return tuple(_message(message, f"{field}[{place}]", origin, index) for place, message in enumerate(value))


def _message(value: Any, field: str, origin: Origin, index: int | None) -> Message:
    where = origin.at(index, field)
    if not isinstance(value, Mapping):
        raise DataError(_("a message must be an object with role and content"), where=where)
    given = value["role"] if "role" in value else value.get("from")
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise DataError(
            _("there is no role {role!r}").format(role=given), where=where,
            remedy=_("Known: {names}.").format(names=", ".join(ROLES)),
        )  # fmt: skip
    content = value["content"] if "content" in value else value.get("value")
    calls = _calls(value.get("tool_calls"), role, where)
    if content is None and calls:
        content = ""
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _joined(content, where)
    if not isinstance(content, str):
        raise DataError(_("its content must be a text"), where=where, remedy=_("Leave the message out, or write one."))
    thought = value.get("reasoning_content") or ""
    if not isinstance(thought, str):
        raise DataError(_("its reasoning_content must be a text"), where=where)
    return Message(role, content, calls, thought)


def _joined(parts: Sequence[Any], where: str) -> str:
    """The texts of a content in parts."""
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DataError(
                _("a part of its content is no text"), where=where,
                remedy=_("Only parts {example} are read.").format(example='{"type": "text", "text": "..."}'),
            )  # fmt: skip
        texts.append(part["text"])
    return "".join(texts)


def _calls(value: Any, role: str, where: str) -> tuple[Call, ...]:
    if not value:
        return ()
    if role != "assistant" or not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(_("tool_calls must be a list, in a message of the assistant"), where=where)
    calls = []
    for given in value:
        call = given.get("function", given) if isinstance(given, Mapping) else {}
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = strict_json.parse(arguments, where) if arguments.strip() else {}
        if not isinstance(call.get("name"), str) or not isinstance(arguments, Mapping):
            raise DataError(
                _("a call must have a name and arguments"), where=where,
                remedy=_("Write {example}.").format(example='{"function": {"name": "add", "arguments": {"a": 1}}}'),
            )  # fmt: skip
        # Columnar files give every key to every row; those that a call lacks are null there.
        calls.append(Call(call["name"], {key: part for key, part in arguments.items() if part is not None}))
    return tuple(calls)


def _tools(row: Row, origin: Origin, index: int | None) -> tuple[Mapping[str, Any], ...]:
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = strict_json.parse(tools, origin.at(index, "tools")) if tools.strip() else None
    if not tools:
        return ()
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(_("tools must be a list of JSON Schemas of functions"), where=origin.at(index, "tools"))
    return tuple(tools)


def _shapeless(row: Row, *examples: str, origin: Origin, index: int | None) -> DataError:
    keys = ", ".join(map(repr, row)) or _("none")
    return DataError(
        _("the row has the keys {keys}, which do not say what it is").format(keys=keys),
        where=origin.at(index),
        remedy=_("A row must be {examples}.").format(examples=_(" or ").join(examples)),
    )
