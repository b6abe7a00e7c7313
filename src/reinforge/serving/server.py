"""A server process: its application on a socket, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, cast

import torch
import uvicorn

from reinforge.bundle.bundle import Bundle
from reinforge.errors import ReinforgeError
from reinforge.serving.app import Control, create_app
from reinforge.serving.board import Board
from reinforge.serving.changing import loaded
from reinforge.serving.gate import Gate, hosts_of
from reinforge.serving.heads import bounded
from reinforge.serving.limits import Limits
from reinforge.serving.listening import url_of
from reinforge.serving.metrics import Metrics
from reinforge.serving.models import Models
from reinforge.serving.queues.address import Address
from reinforge.serving.refusals import Refused
from reinforge.serving.sharing import Sharing
from reinforge.serving.task import GRACE_SECONDS, Access
from reinforge.serving.tokens import Tokens
from reinforge.serving.trials import Change

if TYPE_CHECKING:
    from reinforge.serving.queues.taking import Taking

# An idle connection is closed after so many seconds.
_IDLE_SECONDS = 75


@dataclass
class Server:
    """Bundles behind HTTP on one socket, and behind a queue where there is one. `control` stands for what lies outside
    this process; `share` is the part of a token's rate that falls to this replica; `keys` are those that bundles to
    come must be signed by. With a `board`, connections are shared evenly with the other replicas on it."""

    bundles: Mapping[str, Bundle]
    socket: socket.socket
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    control: Control | None = None
    share: float = 1.0
    queue: Address | None = None
    keys: tuple[str, ...] = ()
    board: Board | None = None
    replica: int = 0

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.models = Models(self.bundles, self.limits, self.metrics)
        self._log = _opened(self.access.log)
        tokens = None if self.access.tokens is None else Tokens(self.access.tokens, self.share)
        gate = Gate(
            create_app(self.models, self.control or Control(lambda: True, self._swap), self.access.watch),
            self.metrics,
            hosts=hosts_of(self.access.host, self.access.names),
            tokens=tokens,
            log=self._log,
        )
        config = uvicorn.Config(
            gate,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=self.access.certificate,
            ssl_keyfile=self.access.key,
        )
        # What can't be served ends here, before anybody is told that it is.
        config.load()
        config.http_protocol_class = bounded(config.http_protocol_class, self.limits)
        sharing = None
        if self.board is not None and self.board.replicas > 1:
            sharing = Sharing(self.socket, self.board, self.replica, config.ssl)
        self._server = _Quiet(config, self._taking, sharing)
        # What is loaded stays: looking through all of it for garbage again and again would stop the loop for 0.1 s.
        gc.collect()
        gc.freeze()

    def _taking(self) -> Taking | None:
        if self.queue is None:
            return None
        from reinforge.serving.queues.taking import Taking

        return Taking(self.queue, self.models, self.stop)

    @property
    def url(self) -> str:
        """Where it listens."""
        return url_of(self.socket, secure=self.access.certificate is not None)

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
                self._server.run(sockets=[self.socket])
        finally:
            torch.set_num_threads(before)
            self.close()

    async def serve(self) -> None:
        """The same in an event loop that runs already, until `stop`."""
        await self._server.serve(sockets=[self.socket])

    def stop(self) -> None:
        """Take no more connections, finish what is being answered, and end."""
        self._server.should_exit = True

    @contextlib.contextmanager
    def background(self) -> Iterator[str]:
        """Serve in a thread as long as the block lasts; its URL."""
        thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        thread.start()
        try:
            yield self.url
        finally:
            self.stop()
            thread.join(GRACE_SECONDS + 5)
            self.close()

    def close(self) -> None:
        """Give the socket, the threads and the log back."""
        gc.unfreeze()
        self.models.close()
        self.socket.close()
        if self._log is not None and self._log is not sys.stdout.buffer:
            self._log.close()

    async def _swap(self, change: Change) -> dict[str, str]:
        try:
            found = await loaded(self.models, change, self.keys)
        except ReinforgeError as error:
            raise Refused(409, error.problem, where=error.where, remedy=error.remedy) from None
        self.models.change(found, change.trials)
        return {name: bundle.digest for name, bundle in found.items()}


def _opened(log: str | None) -> BinaryIO | None:
    if log is None or log == "-":
        return sys.stdout.buffer if log else None
    # A line is written at once: replicas share the file, and nothing waits for a full disk.
    return cast(BinaryIO, open(log, "ab", buffering=0))


class _Quiet(uvicorn.Server):
    """uvicorn's server, but stopping by a signal is its ordinary end, and heard before the loop begins: the signal is
    not raised once more afterwards. What `taking` makes is begun with it, and stopped with it. With `sharing`, that
    takes the connections."""

    def __init__(self, config: uvicorn.Config, taking: Callable[[], Taking | None], sharing: Sharing | None) -> None:
        super().__init__(config)
        self._make, self._taking, self._sharing = taking, cast("Taking | None", None), sharing

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets if self._sharing is None else [])
        if self._sharing is not None:
            self._sharing.begin(self._protocol(self._sharing), self.server_state.connections)

    def _protocol(self, sharing: Sharing) -> Callable[[], asyncio.Protocol]:
        """Makes protocols as `startup` does, which tell when their connection ends."""
        kind = self.config.http_protocol_class
        given = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}

        class Counted(kind):  # type: ignore[misc, valid-type]
            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                sharing.count()

        return lambda: Counted(**given)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._taking = self._make()
        if self._taking is not None:
            self._taking.begin()
        await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sharing is not None:
            self._sharing.close()
        # Both at once: whoever waits for this process waits little longer than for requests alone.
        stopping = [] if self._taking is None else [self._taking.stop(GRACE_SECONDS - 4)]
        await asyncio.gather(super().shutdown(sockets), *stopping)

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
