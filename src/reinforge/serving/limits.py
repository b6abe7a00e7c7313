"""What one request may cost, and how many may wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of a request: bytes of its head and of its body, depth of its JSON, rows, and seconds until its head, and then
    its body, has arrived. Of a model: rows that are computed at once, rows that may wait, and seconds that they may
    wait. Of a language model: texts that are written at once, texts that may wait, and seconds after which a text is
    cut. `sending`: seconds that a client may leave a piece of its answer unread.

    A computation that should take less than `inline` seconds runs on the event loop itself, which spares it two changes
    of thread. One that takes more than `stuck` seconds makes its replica count as wedged.
    """

    head: int = 64 << 10
    body: int = 16 << 20
    depth: int = 16
    rows: int = 10_000
    seconds: float = 30.0
    batch: int = 256
    queue: int = 20_000
    wait: float = 30.0
    slots: int = 32
    texts: int = 256
    writing: float = 600.0
    sending: float = 30.0
    inline: float = 0.004
    stuck: float = 120.0
