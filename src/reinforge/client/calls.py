"""What is sent and how answers are read, without a connection: the same for both clients."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from reinforge.client.errors import BadRequest, Busy, Failed, ServerError, Unreachable

Row = Mapping[str, Any]
Messages = str | Sequence[Mapping[str, Any]]
# Seconds before the second try; each later one waits twice as long, up to the second number.
_PAUSE, _LONGEST = 0.25, 8.0


@dataclass(frozen=True)
class Call:
    """One request: its path, and the JSON that it posts (None: it gets)."""

    path: str
    body: bytes | None = None

    @property
    def method(self) -> str:
        """Of HTTP."""
        return "GET" if self.body is None else "POST"


@dataclass(frozen=True)
class Retries:
    """How often a call is tried again where the server is busy or can't be reached, and the most seconds that one pause
    may take: a server that wants more is not waited for."""

    times: int = 4
    patience: float = 60.0

    def pause(self, tried: int, error: ServerError) -> float | None:
        """Seconds to wait after so many tries that failed; None where it is not to be tried again."""
        if tried > self.times or not isinstance(error, Busy | Unreachable):
            return None
        if isinstance(error, Busy) and error.after is not None:
            # A little later for each, so that not all come back at once.
            return error.after + random.uniform(0, _PAUSE) if error.after <= self.patience else None
        longest = min(_LONGEST, self.patience, _PAUSE * 2 ** (tried - 1))
        return random.uniform(longest / 2, longest)


@dataclass(frozen=True)
class Answer:
    """What a language model wrote. `reason`: "stop" where it or a stop string ended it, "length" where a limit did."""

    text: str
    reason: str
    tokens: int
    prompt_tokens: int


def base_url(url: str) -> str:
    """With a slash at its end. Raises BadRequest where it is no address of a server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        remedy = "Write it whole, such as http://127.0.0.1:8000."
        raise BadRequest("this is no address of a server", where=repr(url), remedy=remedy)
    return url.rstrip("/") + "/"


def predict_call(model: str, rows: Any, partial: bool) -> Call:
    """POST /v1/models/MODEL/predict."""
    given = rows.to_dicts() if hasattr(rows, "to_dicts") else rows
    if isinstance(given, Mapping | str | bytes) or not isinstance(given, Iterable):
        raise BadRequest("rows must be a list of rows, or a frame", remedy='Give [{"column": value, ...}, ...].')
    listed = list(given)
    return Call(f"v1/models/{quote(model, safe='')}/predict", _json({"rows": listed, "partial": partial}))


def act_row(observation: Any, memory: Any) -> Row:
    """The row that a policy reads."""
    row = dict(observation) if isinstance(observation, Mapping) else {"observation": observation}
    return row if memory is None else {**row, "memory": memory}


def acted(prediction: Mapping[str, Any]) -> tuple[Any, Any]:
    """The action, and what the policy remembers (None: nothing)."""
    told = prediction["action"]
    return told["action"], told.get("memory")


def written_call(model: str, said: Messages, settings: Mapping[str, Any], *, chat: bool, stream: bool) -> Call:
    """POST /v1/chat/completions or /v1/completions."""
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else list(said)
    body = {"model": model, "stream": stream, **({"messages": messages} if chat else {"prompt": said}), **settings}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return Call("v1/chat/completions" if chat else "v1/completions", _json(body))


def answered(body: Any) -> Answer:
    """The first choice of an answer."""
    choice, usage = body["choices"][0], body["usage"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Answer(text, choice["finish_reason"], usage["completion_tokens"], usage["prompt_tokens"])


@dataclass
class Pieces:
    """A stream that is being read: `read` takes its lines and gives their text; `answer` is all of it in the end."""

    text: str = ""
    reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    ended: bool = False

    def read(self, line: str) -> str:
        """The text that a line adds. Raises Failed where it tells of an error."""
        if not line.startswith("data: ") or self.ended:
            return ""
        if line == "data: [DONE]":
            self.ended = True
            return ""
        event = json.loads(line[6:])
        if "error" in event:
            raise Failed(str(event["error"].get("message", "the server failed")))
        self.usage = event.get("usage") or self.usage
        new = ""
        for choice in event["choices"][:1]:
            self.reason = choice["finish_reason"] or self.reason
            new = choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
        self.text += new
        return str(new)

    def check(self) -> None:
        """Raise Unreachable where the stream broke off before its end."""
        if not self.ended:
            raise Unreachable("the answer broke off before its end", remedy="Ask again.")

    @property
    def answer(self) -> Answer:
        """What was written until now."""
        usage = self.usage
        return Answer(
            self.text, self.reason or "length", usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
        )


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, default=_plain).encode()
    except ValueError as error:
        raise BadRequest(f"JSON can't say this: {error}", remedy="Leave missing values out, or send null.") from None


def _plain(value: Any) -> Any:
    """Images as base64, arrays as lists, dates as texts."""
    if isinstance(value, Path):
        try:
            value = value.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise BadRequest(f"the file can't be read: {reason}", where=str(value), remedy="Check the path.") from None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise BadRequest(f"JSON can't say a {type(value).__name__}")
