"""The HTTP interface: what may be asked, and what it is answered."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reinforge.bundle.bundle import outputs_of
from reinforge.errors import IntegrityError, ReinforgeError
from reinforge.serving import page
from reinforge.serving.asked import asked, example
from reinforge.serving.bodies import ARROW, Rows, arrow_frame, form_rows, json_rows, kind_of, left, read_body
from reinforge.serving.changing import Shadows, change_of
from reinforge.serving.continuing import continued
from reinforge.serving.description import describe, listing, openapi
from reinforge.serving.gate import NOTED
from reinforge.serving.models import Model, Models
from reinforge.serving.openai.errors import PATHS, openai_failed, shape_at
from reinforge.serving.openai.routes import openai_routes
from reinforge.serving.refusals import Refused, answer, refusal
from reinforge.serving.showing import Stage, environment_of
from reinforge.serving.trials import Change
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

# What is to be served from now on: the digests of what was loaded for it.
Swap = Callable[[Change], Awaitable[dict[str, str]]]


@dataclass(frozen=True)
class Control:
    """What the application can't do alone: say whether all replicas are ready, and replace bundles in each."""

    ready: Callable[[], bool]
    swap: Swap


def create_app(models: Models, control: Control, watching: bool = False) -> Starlette:
    """An application that serves models; with `watching`, policies are shown in their environments.

    GET /, /healthz, /readyz, /metrics, /v1/models, /v1/models/NAME, /openapi.json; POST /v1/models/NAME/predict with
    {"rows": [...]} and optionally "partial": true, by which a bad row fails alone, or with an Arrow IPC stream, or with
    a form; POST /admin/models/NAME with {"bundle": FOLDER}. Errors are {"error": {"type", "problem", "where",
    "remedy"}}.
    """
    shadows = Shadows()
    limits, stage = models.limits, Stage() if watching else None

    async def healthz(_request: Request) -> Response:
        return answer(200, {"status": "ok"})

    async def readyz(_request: Request) -> Response:
        ready = control.ready()
        return answer(200 if ready else 503, {"status": "ready" if ready else "not ready"})

    async def metrics(_request: Request) -> Response:
        models.measure()
        return Response(models.metrics.text(), 200, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(_request: Request) -> Response:
        return answer(200, openapi({name: model.bundle for name, model in models.items()}, limits.rows))

    async def listed(_request: Request) -> Response:
        told = [describe(name, model.bundle) for name, model in models.items()]
        # "data" is what OpenAI's clients read.
        return answer(200, {"object": "list", "data": [listing(name) for name in models], "models": told})

    async def described(request: Request) -> Response:
        name = request.path_params["name"]
        bundle = models.named(name).bundle
        told = {**listing(name), **describe(name, bundle, whole=True), "asked": asked(bundle)}
        shown = environment_of(bundle) if stage is not None else None
        return answer(200, {**told, "example": example(bundle), "environment": shown})

    async def predict(request: Request) -> Response:
        name = request.path_params["name"]
        model = models.chosen(name)
        noted = request.scope.get(NOTED, {})
        noted["model"] = model.name
        match kind_of(request):
            case "application/json" | "text/plain" | "application/x-www-form-urlencoded" | "":
                rows = json_rows(await read_body(request, limits), limits)
            case "multipart/form-data":
                rows = await form_rows(request, limits)
            case kind if kind == ARROW:
                return await _arrow(name, model, models, await read_body(request, limits), shadows)
            case kind:
                remedy = f"Send application/json, multipart/form-data or {ARROW}."
                raise Refused(415, f"the media type {kind[:80]!r} is not read", where="Content-Type", remedy=remedy)
        noted["rows"] = len(rows.rows)
        predicted = _predictions if model.writer is None else continued
        found = await predicted(model, rows, request)
        shadows.show(models, name, rows, found)
        return answer(200, {"predictions": found}, models.served_by(name, model))

    async def watch(request: Request) -> Response:
        model = models.named(request.path_params["name"])
        if stage is None:
            raise Refused(404, "this server shows no environments", remedy="Start it with --watch.")
        return await stage.show(model.bundle, _seed(request.query_params.get("seed", "0")))

    async def swap(request: Request) -> Response:
        name = request.path_params["name"]
        models.named(name)
        given = _object(await read_body(request, limits))
        return answer(200, {"models": await control.swap(change_of(models, name, given))})

    async def file(request: Request) -> Response:
        return page.response(request.path_params["file"])

    async def index(_request: Request) -> Response:
        return page.response("index.html")

    routes = [
        Route("/v1/models/{name}/predict", predict, methods=["POST"]),
        *openai_routes(models),
        Route("/v1/models/{name}/watch", watch),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/openapi.json", document),
        Route("/v1/models", listed),
        Route("/v1/models/{name}", described),
        Route("/admin/models/{name}", swap, methods=["POST"]),
        Route("/{file}", file),
        Route("/", index),
    ]
    return Starlette(
        routes=routes, exception_handlers={ReinforgeError: _refused, HTTPException: _unknown, Exception: _failed}
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReinforgeError)
    return refusal(error, shape_at(request.url.path))


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = {404: "there is nothing at this path", 405: "this path does not take that method"}
    text = problem.get(error.status_code, str(error.detail))
    where = request.url.path
    headers = dict(error.headers or {})
    remedy = f"It takes {headers['Allow']}." if "Allow" in headers else None
    return refusal(Refused(error.status_code, text, where=where, remedy=remedy), shape_at(where), headers)


async def _failed(request: Request, _error: Exception) -> Response:
    ours = {"type": "InternalError", "problem": "the server failed; its log says more"}
    return answer(500, {"error": openai_failed() if request.url.path in PATHS else ours})


async def _predictions(model: Model, rows: Rows, request: Request) -> list[Json]:
    had_to_wait = model.batcher.busy
    future = model.batcher.submit(rows.rows, rows.partial)
    if not had_to_wait:
        return await future
    # Whoever hangs up while he waits frees his place.
    leaving = asyncio.ensure_future(left(request))
    either: tuple[asyncio.Future[Any], ...] = (future, leaving)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            future.cancel()
            raise Refused(499, "the client is gone")
        return future.result()
    finally:
        leaving.cancel()


async def _arrow(name: str, model: Model, models: Models, body: bytes, shadows: Shadows) -> Response:
    """A table in, a table of flat columns out, off the event loop."""

    def computed() -> tuple[bytes, Rows, list[Json]]:
        import polars as pl

        frame = arrow_frame(body, models.limits)
        predictions = model.bundle.predict(frame)
        found = [outputs_of(prediction) for prediction in predictions]
        models.metrics.computed(model.name, len(found), 0.0)
        file = io.BytesIO()
        pl.DataFrame(found, infer_schema_length=None).write_ipc_stream(file)
        shadowed = name in models.trials and models.trials[name].shadow
        return file.getvalue(), Rows(frame.to_dicts() if shadowed else []), predictions

    if model.bundle.form.kind != "table":
        raise Refused(415, "rows of this model are no table", where="Content-Type", remedy="Send application/json.")
    content, rows, predictions = await asyncio.get_running_loop().run_in_executor(model.batcher.pool, computed)
    shadows.show(models, name, rows, predictions)
    return Response(content, 200, models.served_by(name, model), ARROW)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Refused(400, "the seed must be a whole number from 0 on, of 18 digits at most", where="seed")
    return int(text)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = strict_json.parse(body, "body", limit=1 << 16, depth=4)
    except IntegrityError as error:
        raise Refused(400, error.problem, where=error.where) from None
    if not isinstance(value, dict):
        raise Refused(400, "the body must be an object", where="body")
    return value
