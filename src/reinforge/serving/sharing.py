"""Connections shared evenly between replicas that listen on one socket.

Left to themselves, whichever process wakes first takes what waits, and one of two may have nearly all connections that
are kept alive. Here each tells on the board how many it has, and one that has more than another lets that one go first.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sized

from reinforge.serving.board import Board

# So long others may take what this replica leaves to them; after that it takes it itself, one at a time.
LEFT_SECONDS = 0.02
# Where no descriptor is to be had.
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_FULL_SECONDS = 0.5


class Sharing:
    """Takes connections from a socket, as long as no other replica has fewer.

    `open` are this replica's connections; `make` gives each its protocol. All methods are called on the event loop.
    """

    def __init__(self, listener: socket.socket, board: Board, replica: int, tls: ssl.SSLContext | None) -> None:
        self._listener, self._board, self._replica, self._tls = listener, board, replica, tls
        self._opening: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None

    def begin(self, make: Callable[[], asyncio.Protocol], open_: Sized) -> None:
        """Take connections from now on."""
        self._make, self._open = make, open_
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener, self._come)

    def count(self) -> None:
        """Tell the others how many connections there are."""
        self._board.count(self._replica, len(self._open) + len(self._opening))

    def close(self) -> None:
        """Take no more."""
        if self._later is None:
            self._loop.remove_reader(self._listener)
        else:
            self._later.cancel()

    def _come(self) -> None:
        if len(self._open) + len(self._opening) > self._board.fewest(self._replica):
            self._pause(LEFT_SECONDS, self._take)
        else:
            self._take()

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)

        def over() -> None:
            self._later = None
            self._loop.add_reader(self._listener, self._come)
            then()

        self._later = self._loop.call_later(seconds, over)

    def _take(self) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError as error:
            # Another has taken it, or its client is gone.
            if error.errno in _FULL:
                self._pause(_FULL_SECONDS, lambda: None)
            return
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._connected)
        self.count()

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection, ssl=self._tls)
        except (OSError, ssl.SSLError):
            connection.close()

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self.count()
