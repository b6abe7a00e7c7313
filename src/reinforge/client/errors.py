"""What a server's answer may be instead of what was asked for; each is a ReinforgeError of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reinforge.errors import ReinforgeError


class ServerError(ReinforgeError):
    """A server did not answer as it was asked to. `status` is that of HTTP, None where there was no answer; `request`
    is the id under which its log has the request."""

    exit_status = 1

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        status: int | None = None,
        request: str | None = None,
    ) -> None:
        self.status, self.request = status, request
        super().__init__(problem, where=where, remedy=remedy)


class Unreachable(ServerError):
    """There is no server, or the connection broke."""


class BadRequest(ServerError):
    """What was sent is malformed, too large, or does not fit the model. `row` is the number of the bad row, where it is
    one's."""

    exit_status = 2
    row: int | None = None


class NotPermitted(ServerError):
    """There is no token, or one that does not open this."""

    exit_status = 2


class NotFound(ServerError):
    """There is no such model."""

    exit_status = 2


class Busy(ServerError):
    """Too much waits. `after`: seconds after which to try again, where the server said."""

    after: float | None = None


class Failed(ServerError):
    """A fault of the server's own."""


_KINDS: Mapping[int, type[ServerError]] = {
    401: NotPermitted, 403: NotPermitted, 404: NotFound, 429: Busy, 502: Busy, 503: Busy, 504: Busy,
}  # fmt: skip


def error_of(status: int, headers: Mapping[str, str], body: Any) -> ServerError:
    """The error that an answer tells, in Reinforge's shape or in OpenAI's."""
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {}
    kind = _KINDS.get(status, BadRequest if status < 500 else Failed)
    problem = told.get("problem") or told.get("message") or f"HTTP {status}"
    where = told.get("where") or told.get("param")
    found = kind(
        str(problem), where=where, remedy=told.get("remedy"), status=status, request=headers.get("x-request-id")
    )
    if isinstance(found, BadRequest) and isinstance(told.get("row"), int):
        found.row = told["row"]
    if isinstance(found, Busy):
        found.after = _seconds(headers.get("retry-after"))
    return found


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
