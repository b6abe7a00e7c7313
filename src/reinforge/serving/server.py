"""A server process: its socket, its threads, and how it stops."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import torch
import uvicorn

from reinforge.bundle.bundle import Bundle
from reinforge.errors import ReinforgeError
from reinforge.messages import _
from reinforge.serving.app import Limits, create_app

# How long requests that are being answered may take after the server was told to stop.
GRACE_SECONDS = 10


class Server:
    """Bundles behind HTTP on one socket, which is bound at once: `url` is right even for port 0.

    Raises ReinforgeError where the address can't be had.
    """

    def __init__(
        self, bundles: Mapping[str, Bundle], host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None
    ) -> None:
        self._app = create_app(bundles, limits)
        self._socket = _bind(host, port)
        config = uvicorn.Config(
            self._app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self._server = _Quiet(config)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, threads: int = 1, ready: Callable[[str], None] | None = None) -> None:
        """Serve until SIGINT or SIGTERM, then finish what is being answered. `threads`: of each computation.

        `ready` is called with the URL once these signals are heard.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with self._server.stopped_by_signals():
                if ready is not None:
                    ready(self.url)
                self._server.run(sockets=[self._socket])
        finally:
            torch.set_num_threads(before)
            self.close()

    @contextlib.contextmanager
    def background(self) -> Iterator[str]:
        """Serve in a thread as long as the block lasts; its URL."""
        thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        thread.start()
        try:
            yield self.url
        finally:
            self._server.should_exit = True
            thread.join(GRACE_SECONDS + 5)
            self.close()

    def close(self) -> None:
        """Give the socket and the worker back."""
        self._app.state.worker.shutdown(wait=False, cancel_futures=True)
        self._socket.close()


def model_name(bundle: Bundle) -> str:
    """A name for URLs: what the recipe calls itself, else the folder's name."""
    stated = bundle.provenance.get("name") if isinstance(bundle.provenance, dict) else None
    text = stated if isinstance(stated, str) else bundle.path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"


def _bind(host: str, port: int) -> socket.socket:
    where = f"{host}:{port}"
    try:
        family, kind, _protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Without this, small answers wait for the client's delayed acknowledgement.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            bound.bind(address)
            # From here on connections wait to be taken, so the URL may be told.
            bound.listen(2048)
        except BaseException:
            bound.close()
            raise
    except (socket.gaierror, UnicodeError):
        remedy = _("Give --host an address of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for the network.")
        raise ReinforgeError(_("there is no such host"), where=where, remedy=remedy) from None
    except (OSError, OverflowError) as error:
        problem = _("can't listen there: {reason}").format(reason=getattr(error, "strerror", None) or error)
        raise ReinforgeError(problem, where=where, remedy=_("Choose another --port; 0 takes a free one.")) from None
    return bound


class _Quiet(uvicorn.Server):
    """uvicorn's server, but stopping by a signal is its ordinary end, and heard before the loop begins: the signal is
    not raised once more afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
