"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Callable

from reinforge.errors import ReinforgeError
from reinforge.serving.refusals import Refused, status_of, told
from reinforge.storage.strict_json import Json

# Where errors are told in this shape.
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class BadParameter(Refused):
    """A parameter that can't be what it is; `code` is for programs."""

    def __init__(
        self, problem: str, *, param: str | None = None, code: str = "invalid_value", remedy: str | None = None
    ) -> None:
        self.param, self.code = param, code
        super().__init__(400, problem, where=param, remedy=remedy)


def shape_at(path: str) -> Callable[[ReinforgeError], Json]:
    """How errors are told at a path."""
    return openai_told if path in PATHS else told


def openai_told(error: ReinforgeError) -> Json:
    """What stands under "error"."""
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param, code = (error.param, error.code) if isinstance(error, BadParameter) else (None, None)
    message = f"{error.problem[:1].upper()}{error.problem[1:]}"
    message = message if message.endswith((".", "?", "!")) else f"{message}."
    whole = f"{message} {error.remedy}" if error.remedy else message
    return {"message": whole, "type": kind, "param": param, "code": code}


def openai_failed() -> Json:
    """What is told of a fault of ours."""
    return {"message": "The server failed; its log says more.", "type": "server_error", "param": None, "code": None}
