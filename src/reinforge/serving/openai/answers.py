"""Answers in OpenAI's terms: whole, and piece by piece."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from reinforge.data.text import TextPipeline
from reinforge.inference.requests import Reason, Token
from reinforge.serving.events import event
from reinforge.serving.openai.asked import Asked, ChatAsked, Ordered
from reinforge.serving.openai.tools import CallReader, ToolCall
from reinforge.serving.writing import Piece
from reinforge.storage.strict_json import Json

# JSON has no infinity: what can't be is told so.
_NEVER = -9999.0


@dataclass
class _Choice:
    """A text so far: `told` are the tokens that stand in it, all but the one that ended it."""

    text: str
    reader: CallReader | None = None
    calls: list[ToolCall] = field(default_factory=list)
    told: list[Token] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    reason: Reason | None = None

    @property
    def finish(self) -> str | None:
        """Why it ended, in OpenAI's words."""
        return "tool_calls" if self.calls and self.reason == "stop" else self.reason


class Answer:
    """The answer to one request, as it grows. `fingerprint` stands for the weights."""

    def __init__(self, asked: Asked, ordered: Ordered, pipeline: TextPipeline, fingerprint: str) -> None:
        self.asked, self._ordered, self._pipeline = asked, ordered, pipeline
        self.chat = isinstance(asked, ChatAsked)
        name = ("chatcmpl-" if self.chat else "cmpl-") + secrets.token_hex(12)
        self._head = {"id": name, "created": int(time.time()), "model": asked.model, "system_fingerprint": fingerprint}
        self._choices = [_Choice(before, _reader(asked)) for before in ordered.before]
        self.written = 0

    def add(self, piece: Piece) -> tuple[str, list[ToolCall]]:
        """Take a piece in: what of it is content, and what is a call of a tool."""
        choice = self._choices[piece.choice]
        choice.told += self._told(piece.tokens)
        choice.offsets += [len(choice.text)] * (len(choice.told) - len(choice.offsets))
        text, calls = piece.text, list[ToolCall]()
        if choice.reader is not None:
            text, calls = choice.reader.take(text, ended=piece.reason is not None)
        choice.text += text
        choice.calls += calls
        choice.reason = piece.reason
        self.written += len(piece.tokens)
        return text, calls

    def whole(self) -> Json:
        """All of it."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._whole(index, choice) for index, choice in enumerate(self._choices)]
        return {**self._head, "object": kind, "choices": choices, "usage": self.usage()}

    def first(self) -> list[bytes]:
        """What a stream begins with: whose words follow, or what is echoed."""
        if self.chat:
            delta = {"role": "assistant", "content": ""}
            return [self._chunk({"index": n, "delta": delta}) for n in range(len(self._choices))]
        return [self._chunk({"index": n, "text": one.text}) for n, one in enumerate(self._choices) if one.text]

    def piece(self, piece: Piece) -> bytes:
        """A piece as an event; nothing where it says nothing."""
        choice = self._choices[piece.choice]
        start, known = len(choice.text), len(choice.calls)
        text, calls = self.add(piece)
        if not text and not calls and piece.reason is None and self.asked.likeliest is None:
            return b""
        told = self._log_probs(list(self._told(piece.tokens)), start)
        body: dict[str, Json] = {"text": text}
        if self.chat:
            delta: dict[str, Json] = {"content": text} if text or (piece.reason is None and not calls) else {}
            if calls:
                delta["tool_calls"] = [call.to_json(known + index) for index, call in enumerate(calls)]
            body = {"delta": delta}
        return self._chunk({"index": piece.choice, **body, "logprobs": told, "finish_reason": choice.finish})

    def last(self) -> list[bytes]:
        """What a stream ends with."""
        options = self.asked.stream_options
        usage = [self._event({"choices": [], "usage": self.usage()})] if options and options.include_usage else []
        return [*usage, b"data: [DONE]\n\n"]

    def usage(self) -> Json:
        """How many tokens were read and written."""
        prompt = self._ordered.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": self.written, "total_tokens": prompt + self.written}

    def _told(self, tokens: Iterable[Token]) -> Iterable[Token]:
        return (each for each in tokens if each.reason != "stop" or each.token not in self._pipeline.stops)

    def _whole(self, index: int, choice: _Choice) -> Json:
        told = self._log_probs(choice.told, 0, choice.offsets)
        rest = {"index": index, "logprobs": told, "finish_reason": choice.finish}
        if self.chat:
            message: dict[str, Json] = {"role": "assistant", "content": choice.text, "refusal": None}
            if choice.calls:
                called = [call.to_json() for call in choice.calls]
                message |= {"content": choice.text or None, "tool_calls": called}
            return {**rest, "message": message}
        return {**rest, "text": choice.text}

    def _chunk(self, choice: Json) -> bytes:
        return self._event({"choices": [{"logprobs": None, "finish_reason": None, **choice}]})

    def _event(self, more: Json) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event({**self._head, "object": kind, **more})

    def _log_probs(self, tokens: Sequence[Token], start: int, offsets: Sequence[int] | None = None) -> Json:
        if self.asked.likeliest is None:
            return None
        if self.chat:
            return {"content": [self._entry(each) for each in tokens], "refusal": None}
        found = [each.likeliest for each in tokens if each.likeliest is not None]
        return {
            "tokens": [self._text(each.token) for each in tokens],
            "token_logprobs": [_finite(each.log_prob) for each in found],
            "top_logprobs": [
                {self._text(token): _finite(value) for token, value in reversed(each.tokens)} for each in found
            ],
            "text_offset": list(offsets) if offsets is not None else [start] * len(tokens),
        }

    def _entry(self, token: Token) -> Json:
        assert token.likeliest is not None
        top = [self._named(other, value) for other, value in token.likeliest.tokens]
        return {**self._named(token.token, token.likeliest.log_prob), "top_logprobs": top}

    def _named(self, token: int, log_prob: float) -> dict[str, Json]:
        text = self._text(token)
        return {"token": text, "logprob": _finite(log_prob), "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        return self._pipeline.tokenizer.decode([token])


def _reader(asked: Asked) -> CallReader | None:
    """What reads calls of tools, where any were offered."""
    if not isinstance(asked, ChatAsked) or not asked.offered:
        return None
    return CallReader(forced=bool(asked.called), most=1 if asked.parallel_tool_calls is False else None)


def _finite(value: float) -> float:
    # Also where it is no number.
    return value if value >= _NEVER else _NEVER
