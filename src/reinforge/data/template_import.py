"""The tokenizer folder of a pretrained language model as a pipeline: its special tokens, and the named template that
writes what its own Jinja template does. Jinja is only ever compared with, never kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reinforge.data.chats import Call, Chat, Message
from reinforge.data.special_tokens import LanguageTokenizer, Marks
from reinforge.data.templates import TEMPLATES, Template, text_of
from reinforge.data.text import TextPipeline
from reinforge.errors import DataError, IntegrityError, MissingExtra, RecipeError
from reinforge.messages import _
from reinforge.storage.files import read_limited
from reinforge.storage.model_folder import TOKENIZER, model_folder, read_json

TOKENIZER_CONFIG, JINJA = "tokenizer_config.json", "chat_template.jinja"
MAX_TEMPLATE = 1 << 20

_TOOL = {
    "type": "function",
    "function": {
        "name": "add", "description": "Adds <two> numbers & tells.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}  # fmt: skip
_ASKED, _ANSWERED = Message("user", "How far is it?"), Message("assistant", "Two miles.")
# What any template must agree on: first turns, several, a system message, spaces at the ends, other scripts, tools.
PROBES: tuple[Chat, ...] = (
    Chat((_ASKED,)),
    Chat((_ASKED, _ANSWERED)),
    Chat((Message("system", "Be brief."), _ASKED, _ANSWERED, Message("user", "多远？"), Message("assistant", "两里"))),
    Chat((_ASKED, _ANSWERED, Message("user", "  And back?\n"), Message("assistant", " The same. "), _ASKED)),
    Chat((Message("system", "Calculate."), Message("user", "1 + 2")), (_TOOL,)),
    Chat(
        (
            Message("user", "1 + 2"),
            Message("assistant", "", (Call("add", {"a": 1, "b": 2}), Call("add", {"a": "é"}))),
            Message("tool", "3"), Message("tool", "?"), Message("assistant", "3"),
        ),
        (_TOOL,),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What tokenizer_config.json says that matters here."""

    marks: Marks
    adds_bos: bool
    jinja: str | None


def pipeline_of(source: str, template: Template | None = None, size: int | None = None) -> TextPipeline:
    """The pipeline of a folder with tokenizer.json and, if there is one, tokenizer_config.json.

    `template` stands only where the folder has no Jinja: one that renders otherwise is refused with RecipeError, since
    the model was trained with another. The pipeline has no template where none fits. `size`: of the model's vocabulary.
    """
    folder = model_folder(source, (TOKENIZER, TOKENIZER_CONFIG, JINJA))
    tokenizer = LanguageTokenizer(read_json(folder, TOKENIZER, source), size)
    config = read_config(folder, source)
    marks, named = config.marks, template
    writes_bos = config.adds_bos or _adds(tokenizer, marks.bos)
    if config.jinja is not None:
        found = matching(config.jinja, marks)
        if template is not None and template not in found:
            own = ", ".join(each.name for each in found) or _("none of those known here")
            raise RecipeError(
                _("the model in {source} was trained with another template than {name}").format(
                    source=source, name=template.name
                ),
                where="data.template",
                remedy=_("By its own tokenizer_config.json it is: {names}.").format(names=own),
            )
        named = template or next(iter(found), None)
        writes_bos = found.get(named, writes_bos) if named else writes_bos
    pipeline = TextPipeline(tokenizer, Marks(marks.bos if writes_bos else None, marks.eos, marks.pad), named)
    pipeline.check()
    return pipeline


def matching(jinja: str, marks: Marks) -> dict[Template, bool]:
    """The named templates that render every probe as the Jinja template does, and whether they begin with bos."""
    found = {}
    for template in TEMPLATES.values():
        for bos in dict.fromkeys((marks.bos, None)):
            if all(_agrees(template, jinja, chat, marks, bos) for chat in PROBES):
                found[template] = bos is not None
                break
    return found


def _agrees(template: Template, jinja: str, chat: Chat, marks: Marks, bos: str | None) -> bool:
    for answer in (False, True):
        try:
            ours = text_of(template.render(chat, answer=answer), bos or "", marks.eos or "")
        except DataError:
            continue
        theirs = render_jinja(jinja, chat, marks, answer=answer)
        if theirs is not None and theirs != ours:
            return False
    return True


def render_jinja(jinja: str, chat: Chat, marks: Marks, *, answer: bool = False) -> str | None:
    """A chat as a Jinja template writes it, in transformers' sandbox; None where it refuses the chat.

    Raises MissingExtra without transformers.
    """
    try:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError:
        raise MissingExtra("transformers", "pretrained") from None
    named: dict[str, Any] = {"bos_token": marks.bos or "", "eos_token": marks.eos or "", "pad_token": marks.pad or ""}
    try:
        rendered: Any = render_jinja_template(
            conversations=[[_plain(message) for message in chat.messages]],
            tools=[dict(tool) for tool in chat.tools] or None,
            chat_template=jinja,
            add_generation_prompt=answer,
            **named,
        )
    except (TemplateError, TypeError):
        return None
    text = rendered[0] if isinstance(rendered, tuple) else rendered
    return str(text[0] if isinstance(text, list) else text)


def read_config(folder: Path, source: str) -> Config:
    """What the folder says beside tokenizer.json. Raises IntegrityError where it is malformed."""
    config = read_json(folder, TOKENIZER_CONFIG, source) if (folder / TOKENIZER_CONFIG).is_file() else {}
    if not isinstance(config, dict):
        raise IntegrityError("it is no object", where=f"{source}, {TOKENIZER_CONFIG}")
    jinja = config.get("chat_template")
    if isinstance(jinja, list):
        named = {str(each.get("name")): each.get("template") for each in jinja if isinstance(each, Mapping)}
        jinja = named.get("default")
    if jinja is None and (folder / JINJA).is_file():
        jinja = read_limited((folder / JINJA).resolve(), MAX_TEMPLATE).decode("utf-8", "replace")
    if jinja is not None and (not isinstance(jinja, str) or len(jinja) > MAX_TEMPLATE):
        raise IntegrityError("its chat_template must be a text", where=f"{source}, {TOKENIZER_CONFIG}")
    marks = Marks(*(_token(config.get(f"{name}_token")) for name in ("bos", "eos", "pad")))
    return Config(marks, config.get("add_bos_token") is True, jinja)


def _token(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) and content else None


def _adds(tokenizer: LanguageTokenizer, bos: str | None) -> bool:
    """Whether the tokenizer itself puts its first token before a text."""
    if bos is None:
        return False
    ids: Sequence[int] = tokenizer.marked("a")
    return bool(ids) and ids[0] == tokenizer.special(bos)


def _plain(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.calls]
        row["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return row | ({"reasoning_content": message.thought} if message.thought else {})
