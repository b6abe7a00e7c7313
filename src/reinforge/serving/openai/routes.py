"""/v1/chat/completions, /v1/completions and /v1/embeddings."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from reinforge.bundle.text_form import TextForm
from reinforge.data.text import TextPipeline
from reinforge.errors import DataError, ReinforgeError
from reinforge.serving.bodies import kind_of, read_body
from reinforge.serving.continuing import watched
from reinforge.serving.events import event
from reinforge.serving.gate import NOTED
from reinforge.serving.models import Model, Models
from reinforge.serving.openai.answers import Answer
from reinforge.serving.openai.asked import (
    Asked,
    ChatAsked,
    CompletionAsked,
    Kind,
    Ordered,
    chat_ordered,
    completion_ordered,
    parsed,
)
from reinforge.serving.openai.embeddings import Embedder
from reinforge.serving.openai.errors import PATHS, BadParameter, openai_failed, openai_told
from reinforge.serving.refusals import Refused, answer
from reinforge.serving.writing import Piece, Writer, Writing

# Longer bodies are made tokens of beside the event loop, and schemas are read there.
_LONG = 1 << 15
_READ = ("application/json", "text/plain", "application/x-www-form-urlencoded", "")


def openai_routes(models: Models) -> list[Route]:
    """What an application answers at these paths."""

    async def chat(request: Request) -> Response:
        return await _written(request, models, ChatAsked, chat_ordered)

    async def completions(request: Request) -> Response:
        return await _written(request, models, CompletionAsked, completion_ordered)

    embedder = Embedder(models)

    async def embeddings(request: Request) -> Response:
        _check_kind(request)
        return await embedder(request)

    paths = zip(PATHS, (chat, completions, embeddings), strict=True)
    return [Route(path, answered, methods=["POST"]) for path, answered in paths]


def _check_kind(request: Request) -> None:
    if kind_of(request) not in _READ:
        raise Refused(415, "the media type is not read", where="Content-Type", remedy="Send application/json.")


async def _written(
    request: Request, models: Models, kind: type[Kind], order: Callable[[Kind, TextPipeline, Writer], Ordered]
) -> Response:
    _check_kind(request)
    body = await read_body(request, models.limits)
    asked = parsed(body, models.limits, kind)
    model, writer, pipeline = _writer(models, asked)
    noted = request.scope.get(NOTED, {})
    noted["model"] = model.name
    if len(body) > _LONG or b"json_" in body or b"tool_choice" in body:
        ordered = await asyncio.to_thread(order, asked, pipeline, writer)
    else:
        ordered = order(asked, pipeline, writer)
    try:
        writing = writer.write(ordered.requests, ordered.writers)
    except DataError as error:
        raise BadParameter(error.problem, remedy=error.remedy) from None
    growing = Answer(asked, ordered, pipeline, model.bundle.digest[:16])
    headers = models.served_by(asked.model, model)
    async with watched(request, writing):
        # What is refused only when its turn comes is told by a status all the same.
        first = await anext(writing)
        if asked.stream:
            return EventStream(growing, writing, first, models.limits.sending, noted, headers)
        growing.add(first)
        async for piece in writing:
            growing.add(piece)
    noted["tokens"] = growing.written
    return answer(200, growing.whole(), headers)


def _writer(models: Models, asked: Asked) -> tuple[Model, Writer, TextPipeline]:
    if asked.model not in models:
        raise Refused(404, f"there is no model {asked.model[:80]!r}", remedy=f"There are: {', '.join(models)}.")
    model = models.chosen(asked.model)
    if model.writer is None or not isinstance(model.bundle.form, TextForm):
        raise BadParameter(
            f"the model {model.name!r} writes no text", param="model", code="unsupported_model",
            remedy=f"Ask it for predictions: POST /v1/models/{model.name}/predict.",
        )  # fmt: skip
    return model, model.writer, model.bundle.form.pipeline


class EventStream(Response):
    """Pieces as they are written, as server-sent events; what came while a client read is one piece of the stream."""

    media_type = "text/event-stream"

    def __init__(
        self,
        growing: Answer,
        writing: Writing,
        first: Piece,
        seconds: float,
        noted: MutableMapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._growing, self._writing, self._first = growing, writing, first
        self._seconds, self._noted = seconds, noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(content: bytes, more: bool = True) -> None:
            if content or not more:
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.body", "body": content, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with watched(Request(scope, receive, send), self._writing):
                async for content in self._contents():
                    await put(content)
            await put(b"", more=False)
        except TimeoutError:
            # It left what it was sent unread: the connection is closed without an end.
            self._writing.abandon()
        except Refused as refused:
            if refused.status != 499:
                raise
        finally:
            self._noted["tokens"] = self._growing.written

    async def _contents(self) -> AsyncIterator[bytes]:
        growing, writing = self._growing, self._writing
        yield b"".join([*growing.first(), growing.piece(self._first)])
        try:
            async for piece in writing:
                events = [growing.piece(piece)]
                while not writing.waiting:
                    events.append(growing.piece(await anext(writing)))
                yield b"".join(events)
        except ReinforgeError as error:
            if writing.gone:
                raise
            yield event({"error": openai_told(error)})
        except Exception:  # noqa: BLE001 (its log says what it was; the client is told that it was ours)
            traceback.print_exc(file=sys.stderr)
            yield event({"error": openai_failed()})
        else:
            yield b"".join(growing.last())
