"""The HTTP interface: what a request may say, and what it is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from reinforge.bundle.bundle import Bundle
from reinforge.data.values import place_in
from reinforge.errors import DataError, IntegrityError, ReinforgeError
from reinforge.serving.description import describe, openapi
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json


@dataclass(frozen=True)
class Limits:
    """What one request may cost: bytes and depth of its JSON, rows, and seconds until its body has arrived.

    Up to `inline` rows are answered on the event loop itself, which spares them two changes of thread; larger requests,
    and text, go to one worker thread, so that others are still heard.
    """

    body: int = 16 << 20
    depth: int = 16
    rows: int = 10_000
    seconds: float = 30.0
    inline: int = 16


class Refused(ReinforgeError):
    """A request that can't be answered, with its HTTP status."""

    def __init__(self, status: int, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.status = status
        super().__init__(problem, where=where, remedy=remedy)


def create_app(bundles: Mapping[str, Bundle], limits: Limits | None = None) -> FastAPI:
    """An application that serves bundles by name.

    GET /healthz, /v1/models, /v1/models/NAME, /openapi.json; POST /v1/models/NAME/predict with {"rows": [...]} and
    optionally "partial": true, by which a bad row fails alone. Errors are {"error": {"type", "problem", "where",
    "remedy"}}.
    """
    bounds = limits or Limits()
    worker = ThreadPoolExecutor(1, "predict")
    app = FastAPI(title="Reinforge", docs_url=None, redoc_url=None)
    document = openapi(bundles, bounds.rows)
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.state.worker = worker

    def bundle_of(name: str) -> Bundle:
        if name not in bundles:
            raise Refused(404, f"there is no model {name[:80]!r}", remedy=f"There are: {', '.join(bundles)}.")
        return bundles[name]

    @app.get("/healthz")
    async def healthz() -> Response:
        return _answer(200, {"status": "ok"})

    @app.get("/v1/models")
    async def models() -> Response:
        return _answer(200, {"models": [describe(name, bundle) for name, bundle in bundles.items()]})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        return _answer(200, describe(name, bundle_of(name), whole=True))

    @app.post("/v1/models/{name}/predict")
    async def predict(name: str, request: Request) -> Response:
        bundle = bundle_of(name)
        rows, partial = _request(await _body(request, bounds), bounds)
        if len(rows) <= bounds.inline and bundle.form.kind != "text":
            return _answer(200, {"predictions": _predict(bundle, rows, partial)})
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(worker, lambda: _predict(bundle, rows, partial))
        return _answer(200, {"predictions": found})

    @app.exception_handler(ReinforgeError)
    async def refused(request: Request, error: ReinforgeError) -> Response:
        return _answer(_status(error), {"error": _told(error)})

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        problem = {404: "there is nothing at this path", 405: "this path does not take that method"}
        told = {
            "type": "Refused",
            "problem": problem.get(error.status_code, str(error.detail)),
            "where": request.url.path,
        }
        return _answer(error.status_code, {"error": told})

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _answer(500, {"error": {"type": "InternalError", "problem": "the server failed; its log says more"}})

    return app


def _predict(bundle: Bundle, rows: list[Any], partial: bool) -> list[Json]:
    if not partial:
        return bundle.predict(rows)
    found = bundle.predict_each(rows)
    return [{"error": _told(one)} if isinstance(one, DataError) else one for one in found]


async def _body(request: Request, limits: Limits) -> bytes:
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > limits.body:
        raise Refused(413, f"the body may have {limits.body:,} bytes at most")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise Refused(413, f"the body may have {limits.body:,} bytes at most")
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {limits.seconds:g} seconds") from None
    return b"".join(parts)


def _request(body: bytes, limits: Limits) -> tuple[list[Any], bool]:
    remedy = 'Send {"rows": [{...}, ...]}, and "partial": true where bad rows may fail alone.'
    try:
        value = strict_json.parse(body, "body", limit=limits.body, depth=limits.depth)
    except IntegrityError as error:
        raise Refused(400, error.problem, where=error.where, remedy=remedy) from None
    if not isinstance(value, dict) or not set(value) <= {"rows", "partial"} or "rows" not in value:
        raise Refused(400, "the body is no object with `rows`", where="body", remedy=remedy)
    rows, partial = value["rows"], value.get("partial", False)
    if not isinstance(rows, list) or not rows or not isinstance(partial, bool):
        raise Refused(
            400, "`rows` must be a list that is not empty, `partial` true or false", where="body", remedy=remedy
        )
    if len(rows) > limits.rows:
        raise Refused(413, f"a request may have {limits.rows:,} rows at most", where="rows")
    return rows, partial


def _status(error: ReinforgeError) -> int:
    match error:
        case Refused():
            return error.status
        case DataError():
            return 422
        case IntegrityError():
            return 400
    return 500


def _told(error: ReinforgeError) -> Json:
    told: dict[str, Json] = {"type": type(error).__name__, "problem": error.problem}
    told |= {"where": error.where, "remedy": error.remedy}
    if isinstance(error, DataError) and (found := place_in(error.where or "", "row")):
        told["row"] = found[0]
    return told


def _answer(status: int, value: Json) -> Response:
    content = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    # What is left of a body that is too long, or too slow, is not waited for.
    headers = {"connection": "close"} if status in (408, 413) else None
    return Response(content, status, headers, "application/json")
