"""`serve`, the verb: it stands here because it needs this room, and imports run down."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reinforge.errors import MissingExtra
from reinforge.messages import _

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle
    from reinforge.bundle.network import Factory


@dataclass(frozen=True)
class Served:
    """Where a server listened until it was stopped, and what it served."""

    url: str
    model: str


def serve(
    bundle: Bundle | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
    threads: int = 1,
    ready: Callable[[str], None] | None = None,
) -> Served:
    """Serve a bundle over HTTP until SIGINT or SIGTERM; requests that are being answered are finished.

    Port 0 takes a free one. `ready` is called with the URL once it is bound; by default it is printed on standard
    error. Raises MissingExtra without the extra `serve`, BundleError, or ReinforgeError where the address can't be had.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "serve")
    from reinforge.serving.server import Server, model_name
    from reinforge.workflow.opened import opened

    loaded = opened(bundle, use, modules)
    name = model_name(loaded)
    server = Server({name: loaded}, host, port)
    url = server.url
    server.run(threads, ready or (lambda url: _announce(name, url)))
    return Served(url, name)


def _announce(name: str, url: str) -> None:
    told = _("Serving {name} at {url} (predict: POST {path}). Ctrl-C stops.")
    print(told.format(name=name, url=url, path=f"/v1/models/{name}/predict"), file=sys.stderr, flush=True)
