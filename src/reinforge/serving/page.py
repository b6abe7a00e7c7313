"""The browser page: five files, sent as they stand, with headers that let them load nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib import resources

from starlette.responses import Response

from reinforge.serving.refusals import Refused

_TYPES = {
    "index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "talk.js": "text/javascript",
    "watch.js": "text/javascript",
}  # fmt: skip
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def response(name: str) -> Response:
    """A file of the page. Raises Refused (404) for another name."""
    if name not in _TYPES:
        raise Refused(404, "there is nothing at this path", where=f"/{name}"[:200])
    return Response(_content(name), 200, _HEADERS, _TYPES[name])


@cache
def _content(name: str) -> bytes:
    return resources.files("reinforge.serving").joinpath("pages", name).read_bytes()
