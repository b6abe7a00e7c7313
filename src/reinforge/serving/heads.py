"""The head of a request: no larger than it may be, and there in time.

httptools bounds neither, and copies what has come of a header each time that more of it comes, so that one endless
header would hold a replica for minutes.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from reinforge.serving.limits import Limits
from reinforge.serving.refusals import Refused, told


def bounded(kind: type[asyncio.Protocol], limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol of httptools within limits: 431 for a head that is too large, 408 for one that takes too long;
    a connection that never says anything is closed."""

    class Bounded(kind):  # type: ignore[misc, valid-type]
        # A head that has begun and not ended; whether it began in the last piece; what has come of it since.
        _begun = _fresh = False
        _size = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, error: Exception | None) -> None:
            self._came()
            super().connection_lost(error)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Nearly every head comes in one piece, and costs nothing here.
            if self._begun:
                if self._fresh:
                    self._fresh, self._size = False, 0
                    self._wait()
                    return
                self._size += len(data)
                if self._size > limits.head and not self.transport.is_closing():
                    self._refuse(Refused(431, f"the head of a request may have {limits.head:,} bytes at most"))

        def on_message_begin(self) -> None:
            self._begun = self._fresh = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._begun = False
            if self._timer is not None:
                self._came()
            super().on_headers_complete()

        def _wait(self) -> None:
            self._came()
            self._timer = self.loop.call_later(limits.seconds, self._late)

        def _came(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            if self._begun and not self.transport.is_closing():
                self._refuse(Refused(408, f"the head did not arrive within {limits.seconds:g} seconds"))
            else:
                self.transport.close()

        def _refuse(self, error: Refused) -> None:
            reason = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[error.status]
            body = json.dumps({"error": told(error)}).encode()
            kind = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(body)
            self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n\r\n%s" % (error.status, reason, kind, body))
            self.transport.close()

    return Bounded
