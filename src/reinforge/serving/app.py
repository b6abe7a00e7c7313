"""The HTTP interface: what may be asked, and what it is answered."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from reinforge.bundle.bundle import outputs_of
from reinforge.errors import IntegrityError, ReinforgeError
from reinforge.serving import page
from reinforge.serving.asked import asked, example
from reinforge.serving.bodies import ARROW, Rows, arrow_frame, form_rows, json_rows, kind_of, left, read_body
from reinforge.serving.continuing import continued
from reinforge.serving.description import describe, listing, openapi
from reinforge.serving.gate import NOTED
from reinforge.serving.models import Model, Models
from reinforge.serving.openai.errors import PATHS, openai_failed, shape_at
from reinforge.serving.openai.routes import add_routes
from reinforge.serving.refusals import Refused, answer, refusal
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

# By name, the folders of bundles to serve from now on: their digests.
Swap = Callable[[Mapping[str, str]], Awaitable[dict[str, str]]]


@dataclass(frozen=True)
class Control:
    """What the application can't do alone: say whether all replicas are ready, and replace bundles in each."""

    ready: Callable[[], bool]
    swap: Swap


def create_app(models: Models, control: Control) -> FastAPI:
    """An application that serves models.

    GET /, /healthz, /readyz, /metrics, /v1/models, /v1/models/NAME, /openapi.json; POST /v1/models/NAME/predict with
    {"rows": [...]} and optionally "partial": true, by which a bad row fails alone, or with an Arrow IPC stream, or with
    a form; POST /admin/models/NAME with {"bundle": FOLDER}. Errors are {"error": {"type", "problem", "where",
    "remedy"}}.
    """
    limits = models.limits
    app = FastAPI(title="Reinforge", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return answer(200, {"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = control.ready()
        return answer(200 if ready else 503, {"status": "ready" if ready else "not ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        models.measure()
        return Response(models.metrics.text(), 200, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json")
    async def document() -> Response:
        return answer(200, openapi({name: model.bundle for name, model in models.items()}, limits.rows))

    @app.get("/v1/models")
    async def listed() -> Response:
        told = [describe(name, model.bundle) for name, model in models.items()]
        # "data" is what OpenAI's clients read.
        return answer(200, {"object": "list", "data": [listing(name) for name in models], "models": told})

    @app.get("/v1/models/{name}")
    async def described(name: str) -> Response:
        bundle = models.named(name).bundle
        return answer(
            200,
            {**listing(name), **describe(name, bundle, whole=True), "asked": asked(bundle), "example": example(bundle)},
        )

    @app.post("/v1/models/{name}/predict")
    async def predict(name: str, request: Request) -> Response:
        model = models.named(name)
        noted = request.scope.get(NOTED, {})
        noted["model"] = name
        match kind_of(request):
            case "application/json" | "text/plain" | "application/x-www-form-urlencoded" | "":
                rows = json_rows(await read_body(request, limits), limits)
            case "multipart/form-data":
                rows = await form_rows(request, limits)
            case kind if kind == ARROW:
                return await _arrow(model, models, await read_body(request, limits))
            case kind:
                remedy = f"Send application/json, multipart/form-data or {ARROW}."
                raise Refused(415, f"the media type {kind[:80]!r} is not read", where="Content-Type", remedy=remedy)
        noted["rows"] = len(rows.rows)
        predicted = _predictions if model.writer is None else continued
        return answer(200, {"predictions": await predicted(model, rows, request)})

    @app.post("/admin/models/{name}")
    async def swap(name: str, request: Request) -> Response:
        models.named(name)
        given = _object(await read_body(request, limits), {"bundle"})
        return answer(200, {"models": await control.swap({name: given["bundle"]})})

    @app.get("/{file}")
    async def file(file: str) -> Response:
        return page.response(file)

    @app.get("/")
    async def index() -> Response:
        return page.response("index.html")

    @app.exception_handler(ReinforgeError)
    async def refused(request: Request, error: ReinforgeError) -> Response:
        return refusal(error, shape_at(request.url.path))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        problem = {404: "there is nothing at this path", 405: "this path does not take that method"}
        text = problem.get(error.status_code, str(error.detail))
        where = request.url.path
        return refusal(Refused(error.status_code, text, where=where), shape_at(where))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        ours = {"type": "InternalError", "problem": "the server failed; its log says more"}
        return answer(500, {"error": openai_failed() if request.url.path in PATHS else ours})

    add_routes(app, models)

    return app


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


async def _arrow(model: Model, models: Models, body: bytes) -> Response:
    """A table in, a table of flat columns out, off the event loop."""

    def computed() -> bytes:
        import polars as pl

        frame = arrow_frame(body, models.limits)
        found = [outputs_of(prediction) for prediction in model.bundle.predict(frame)]
        models.metrics.computed(model.name, len(found), 0.0)
        file = io.BytesIO()
        pl.DataFrame(found, infer_schema_length=None).write_ipc_stream(file)
        return file.getvalue()

    if model.bundle.form.kind != "table":
        raise Refused(415, "rows of this model are no table", where="Content-Type", remedy="Send application/json.")
    content = await asyncio.get_running_loop().run_in_executor(models.pool, computed)
    return Response(content, 200, media_type=ARROW)


def _object(body: bytes, keys: set[str]) -> dict[str, Any]:
    try:
        value = strict_json.parse(body, "body", limit=1 << 16, depth=4)
    except IntegrityError as error:
        raise Refused(400, error.problem, where=error.where) from None
    if not isinstance(value, dict) or set(value) != keys or not all(isinstance(text, str) for text in value.values()):
        raise Refused(400, f"the body must be an object with {', '.join(sorted(keys))} as text", where="body")
    return value
