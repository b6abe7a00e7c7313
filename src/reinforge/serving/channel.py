"""What supervisor and replicas say to each other: a JSON object a line, over a pair of sockets."""

from __future__ import annotations

import asyncio
import json
import socket

from reinforge.storage.strict_json import Json

_LINE = 1 << 20


def line(message: Json) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


async def streams(of: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The same socket for an event loop."""
    return await asyncio.open_connection(sock=of, limit=_LINE)


async def receive(reader: asyncio.StreamReader) -> Json | None:
    """The next message; None where the other side is gone."""
    try:
        line = await reader.readline()
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    return json.loads(line) if line.endswith(b"\n") else None
