"""The body of a request: read within limits, and made rows of."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from reinforge.errors import IntegrityError
from reinforge.serving.limits import Limits
from reinforge.serving.refusals import Refused
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

if TYPE_CHECKING:
    import polars as pl

ARROW = "application/vnd.apache.arrow.stream"
_FIELDS = 1000


@dataclass(frozen=True)
class Rows:
    """What a request wants predicted; with `partial` a bad row fails alone."""

    rows: list[Any]
    partial: bool = False


def kind_of(request: Request) -> str:
    """The media type of the body, without its parameters."""
    return request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The bytes. Raises Refused where there are too many (413) or they take too long (408)."""
    _check_length(request, limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise _too_long(limits)
                parts.append(part)
    except TimeoutError:
        raise _too_slow(limits) from None
    except ClientDisconnect:
        raise _gone() from None
    return b"".join(parts)


async def left(request: Request) -> None:
    """Return when the client hangs up; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def json_rows(body: bytes, limits: Limits) -> Rows:
    """From {"rows": [...], "partial": false}. Raises Refused (400, 413)."""
    remedy = 'Send {"rows": [{...}, ...]}, and "partial": true where bad rows may fail alone.'
    try:
        value = strict_json.parse(body, "body", limit=limits.body, depth=limits.depth)
    except IntegrityError as error:
        raise Refused(400, error.problem, where=error.where, remedy=remedy) from None
    return rows_in(value, limits, "body", remedy)


def rows_in(value: Json, limits: Limits, where: str, remedy: str) -> Rows:
    """From {"rows": [...], "partial": false}, parsed. Raises Refused (400, 413)."""
    if not isinstance(value, dict) or not set(value) <= {"rows", "partial"} or "rows" not in value:
        raise Refused(400, f"the {where} is no object with `rows`", where=where, remedy=remedy)
    rows, partial = value["rows"], value.get("partial", False)
    if not isinstance(rows, list) or not rows or not isinstance(partial, bool):
        problem = "`rows` must be a list that is not empty, `partial` true or false"
        raise Refused(400, problem, where=where, remedy=remedy)
    _check_rows(len(rows), limits)
    return Rows(rows, partial)


async def form_rows(request: Request, limits: Limits) -> Rows:
    """From a form: a part per field, pictures as files; what comes several times makes several rows. Raises Refused."""
    _check_length(request, limits)
    received = 0

    async def bounded() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limits.body:
            raise _too_long(limits)
        return message

    try:
        async with asyncio.timeout(limits.seconds):
            form = await Request(request.scope, bounded).form(
                max_files=limits.rows, max_fields=_FIELDS, max_part_size=limits.body
            )
            columns: dict[str, list[object]] = {}
            for name, value in form.multi_items():
                columns.setdefault(name, []).append(await value.read() if isinstance(value, UploadFile) else value)
    except TimeoutError:
        raise _too_slow(limits) from None
    except ClientDisconnect:
        raise _gone() from None
    except HTTPException as error:
        # What Starlette makes of its MultiPartException inside an application.
        remedy = "Send multipart/form-data with its boundary, as every client makes it of a form: curl -F NAME=VALUE."
        raise Refused(400, f"the form is malformed: {error.detail}", where="body", remedy=remedy) from None
    counts = {len(column) for column in columns.values()}
    if len(counts) != 1:
        remedy = "Send each field once, or each as many times as there are rows."
        raise Refused(400, "the fields of the form make no rows", where="body", remedy=remedy)
    _check_rows(counts.pop(), limits)
    return Rows([dict(zip(columns, row)) for row in zip(*columns.values())])


def arrow_frame(body: bytes, limits: Limits) -> pl.DataFrame:
    """From an Arrow IPC stream. Raises Refused."""
    import polars as pl

    try:
        frame = pl.read_ipc_stream(io.BytesIO(body))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise Refused(400, f"it is no Arrow IPC stream: {str(error)[:200]}", where="body") from None
    if not len(frame):
        raise Refused(400, "the table has no rows", where="body")
    _check_rows(len(frame), limits)
    return frame


def _check_length(request: Request, limits: Limits) -> None:
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > limits.body:
        raise _too_long(limits)


def _check_rows(count: int, limits: Limits) -> None:
    if count > limits.rows:
        raise Refused(413, f"a request may have {limits.rows:,} rows at most", where="rows")


def _too_long(limits: Limits) -> Refused:
    return Refused(413, f"the body may have {limits.body:,} bytes at most")


def _gone() -> Refused:
    return Refused(499, "the client left before its body had arrived", where="body")


def _too_slow(limits: Limits) -> Refused:
    return Refused(408, f"the body did not arrive within {limits.seconds:g} seconds")
