"""Requests that can't be answered, and how errors are told over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from starlette.responses import Response

from reinforge.data.values import place_in
from reinforge.errors import DataError, IntegrityError, ReinforgeError
from reinforge.storage.strict_json import Json


class Refused(ReinforgeError):
    """A request that can't be answered, with its HTTP status; `after`: seconds after which to try again."""

    def __init__(
        self,
        status: int,
        problem: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        after: float | None = None,
    ) -> None:
        self.status, self.after = status, after
        super().__init__(problem, where=where, remedy=remedy)


def status_of(error: ReinforgeError) -> int:
    """The HTTP status that says what kind of error it is."""
    match error:
        case Refused():
            return error.status
        case DataError():
            return 422
        case IntegrityError():
            return 400
    return 500


def told(error: ReinforgeError) -> Json:
    """The error as JSON, with the number of the bad row where it has one."""
    found: dict[str, Json] = {"type": type(error).__name__, "problem": error.problem}
    found |= {"where": error.where, "remedy": error.remedy}
    if isinstance(error, DataError) and (place := place_in(error.where or "", "row")):
        found["row"] = place[0]
    return found


def refusal(
    error: ReinforgeError, shape: Callable[[ReinforgeError], Json] = told, given: Mapping[str, str] | None = None
) -> Response:
    """The response that tells an error; `shape` makes what stands under "error", `given` are headers of its own."""
    status = status_of(error)
    headers = dict(given or {})
    if isinstance(error, Refused) and error.after is not None:
        headers["retry-after"] = str(max(1, round(error.after)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (408, 413):
        # What is left of a body that is too long, or too slow, is not waited for.
        headers["connection"] = "close"
    return answer(status, {"error": shape(error)}, headers)


def answer(status: int, value: Json, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    content = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return Response(content, status, dict(headers or {}), "application/json")
