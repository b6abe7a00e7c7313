"""Tools that a chat offers, and the calls that an answer makes of them, as the template writes both."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reinforge.errors import IntegrityError
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

OPENING, CLOSING = "<tool_call>", "</tool_call>"
# What stands before a call that is asked for.
FORCED = f"{OPENING}\n"
_DEPTH = 32
_NAME = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class Function(BaseModel):
    """What a tool is called, what it does, and the JSON Schema of its arguments."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: _NAME
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """Something that the model may ask to be done."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function"]
    function: Function


class FunctionChoice(BaseModel):
    """The function that is to be called."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str


class ToolChoice(BaseModel):
    """The one tool that is to be called."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function"]
    function: FunctionChoice


# Under these stand schemas by name, and under those what is no schema.
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_VALUES = frozenset({"const", "enum", "default", "examples"})


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """JSON Schema of a call of one of these."""
    places = ["#"] if len(tools) == 1 else [f"#/anyOf/{index}" for index in range(len(tools))]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": _moved(tool.function.parameters, f"{place}/properties/arguments") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool, place in zip(tools, places)
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands at this place of another, so that its own references still find what they name."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            found[key] = place + value[1:]
        elif key in _BY_NAME and isinstance(value, dict):
            found[key] = {name: _moved(each, place) for name, each in value.items()}
        else:
            found[key] = value if key in _VALUES else _moved(value, place)
    return found


@dataclass(frozen=True)
class ToolCall:
    """A call, as OpenAI's clients read it; `arguments` is JSON."""

    name: str
    arguments: str
    identity: str

    def to_json(self, index: int | None = None) -> Json:
        """With the `index` of a piece of a stream."""
        told = {"id": self.identity, "type": "function"}
        told |= {"function": {"name": self.name, "arguments": self.arguments}}  # type: ignore[dict-item]
        return told if index is None else {"index": index, **told}


class CallReader:
    """Takes an answer's text as it is written, and gives what of it is content and what is a call.

    What may be the beginning of a call is held back, and blanks before one are dropped. What is no call after all is
    content. With `forced` the text is one call and nothing else; `most`: calls beyond these are left out.
    """

    def __init__(self, *, forced: bool = False, most: int | None = None) -> None:
        self._forced, self._most, self._held, self._count = forced, most, "", 0

    def take(self, text: str, *, ended: bool) -> tuple[str, list[ToolCall]]:
        """What is sure by now; all of it once it has `ended`."""
        self._held += text
        content, calls = "", list[ToolCall]()
        if self._forced:
            return self._whole() if ended else ("", [])
        while (start := self._held.find(OPENING)) >= 0:
            stop = self._held.find(CLOSING, start)
            if stop < 0:
                break
            call = _call(self._held[start + len(OPENING) : stop])
            end = stop + len(CLOSING)
            if call is None:
                content += self._held[:end]
            else:
                content += self._held[:start].rstrip()
                if self._most is None or self._count < self._most:
                    calls.append(call)
                self._count += 1
            self._held = self._held[end:]
        if ended:
            # Blanks behind a call say nothing.
            content, self._held = content + ("" if self._count and not self._held.strip() else self._held), ""
        elif start < 0:
            sure = len(self._held) - _beginning(self._held)
            sure = len(self._held[:sure].rstrip())
            content, self._held = content + self._held[:sure], self._held[sure:]
        return content, calls

    def _whole(self) -> tuple[str, list[ToolCall]]:
        call, text = _call(self._held), self._held
        self._held = ""
        return ("", [call]) if call is not None else (text, [])


def _beginning(text: str) -> int:
    """How many of the text's last characters may begin a call."""
    return next((n for n in range(min(len(OPENING) - 1, len(text)), 0, -1) if text.endswith(OPENING[:n])), 0)


def _call(text: str) -> ToolCall | None:
    try:
        value = strict_json.parse(text, "call", limit=1 << 20, depth=_DEPTH)
    except IntegrityError:
        return None
    match value:
        case {"name": str(name), "arguments": dict() as arguments} if name:
            told = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            return ToolCall(name, told, f"call_{secrets.token_hex(12)}")
    return None
