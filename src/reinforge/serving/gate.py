"""What every request passes, whatever it asks: the name of the host, the token, and what is noted of it."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, MutableMapping
from typing import Any, BinaryIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reinforge.serving.metrics import Metrics
from reinforge.serving.openai.errors import shape_at
from reinforge.serving.refusals import Refused, refusal
from reinforge.serving.tokens import Token, Tokens

# What needs no token: whether it is alive, and the page, which asks for one itself.
OPEN = frozenset({"/", "/healthz", "/readyz", "/page.js", "/talk.js", "/watch.js", "/page.css", "/favicon.ico"})
NOTED = "reinforge"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def hosts_of(host: str, named: Iterable[str]) -> frozenset[str] | None:
    """The names by which a server may be called, None for any: those of this machine where it listens on them alone, so
    that a page from elsewhere, whose name was made to point here, gets no answer."""
    names = frozenset(name.lower() for name in named)
    if "*" in names:
        return None
    if host.lower() in _LOOPBACK:
        return names | _LOOPBACK
    return names | {host.lower()} if names else None


class Gate:
    """An ASGI application around another one.

    `hosts`: the names it may be called by (None: any). `tokens`: who may do what (None: anybody, but administer).
    `log`: where a line of JSON per request goes.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        hosts: frozenset[str] | None = None,
        tokens: Tokens | None = None,
        log: BinaryIO | None = None,
    ) -> None:
        self._app, self._metrics = app, metrics
        self._hosts, self._tokens, self._log = hosts, tokens, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), 500, 0
        headers = _headers(scope)
        given = headers.get(b"x-request-id", b"")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()
        noted: MutableMapping[str, Any] = {"id": name.decode()}
        scope[NOTED] = noted

        async def watched(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", name)]}
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            refused = self._refused(scope["path"], headers, noted)
            app = self._app if refused is None else refusal(refused, shape_at(scope["path"]))
            await app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.answered(noted.get("model", ""), status, seconds)
            if self._log is not None:
                self._note(scope, noted, status, size, seconds)

    def _refused(self, path: str, headers: dict[bytes, bytes], noted: MutableMapping[str, Any]) -> Refused | None:
        if self._hosts is not None and _host(headers.get(b"host", b"")) not in self._hosts:
            remedy = "Call it by its own name, or start it with --allow-host NAME."
            return Refused(421, "this server does not go by that name", where="Host", remedy=remedy)
        scope = "admin" if path.startswith("/admin/") else "metrics" if path == "/metrics" else "predict"
        if path in OPEN or (self._tokens is None and scope != "admin"):
            return None
        if self._tokens is None:
            return Refused(404, "there is nothing at this path", where=path)
        token = self._tokens.known(headers.get(b"authorization", b"").decode("latin-1"))
        if token is None:
            remedy = "Send the header `Authorization: Bearer TOKEN`."
            return Refused(401, "a token is needed that this server knows", where="Authorization", remedy=remedy)
        noted["token"] = token.name
        return self._limited(token, scope)

    def _limited(self, token: Token, scope: str) -> Refused | None:
        if scope not in token.scopes:
            return Refused(403, f"the token {token.name!r} does not open this", where="Authorization")
        assert self._tokens is not None
        after = self._tokens.wait(token)
        if after:
            problem = f"the token {token.name!r} may make {token.rate:g} requests a second"
            return Refused(429, problem, remedy="Try again later.", after=after)
        return None

    def _note(self, scope: Scope, noted: MutableMapping[str, Any], status: int, size: int, seconds: float) -> None:
        assert self._log is not None
        known = {key: noted[key] for key in ("model", "rows", "tokens", "token") if key in noted}
        line = {
            "time": time.time(), "id": noted["id"], "client": (scope.get("client") or [None])[0],
            "method": scope["method"], "path": scope["path"], "status": status, "bytes": size,
            "ms": round(1000 * seconds, 3), **known,
        }  # fmt: skip
        try:
            self._log.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
            self._log.flush()
        except OSError:
            # A full disk is no reason to answer nobody.
            self._metrics.lost.inc()


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def _host(header: bytes) -> str:
    """The name in a Host header, without its port."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if ":" in text else text
