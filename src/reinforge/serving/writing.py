"""What a language bundle writes for many clients at once: one generation engine, which requests join and leave between
two steps."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reinforge.data.text import TextPipeline
from reinforge.errors import ReinforgeError
from reinforge.inference.engine import GenerationEngine, unfit
from reinforge.inference.requests import Reason, Request, Token
from reinforge.inference.schemas import Schemas
from reinforge.inference.text import TextWriter
from reinforge.models.decoder import Decoder
from reinforge.serving.limits import Limits
from reinforge.serving.metrics import Metrics
from reinforge.serving.refusals import Refused

_SMOOTHING = 0.2


@dataclass(frozen=True)
class Piece:
    """What was added to one of a request's texts, by one token or several. `reason` with the last one."""

    choice: int
    text: str
    tokens: tuple[Token, ...]
    reason: Reason | None


class Writing:
    """The texts that one client asked for, while they are written: `async for piece in writing`.

    `abandon` gives up what is not written yet, and frees its places; a client that is gone is answered nothing.
    """

    def __init__(self, count: int) -> None:
        self.began: float | None = None
        self.since = time.monotonic()
        self.gone = False
        self._left = set(range(count))
        self._pieces: deque[Piece] = deque()
        self._error: ReinforgeError | Exception | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> Writing:
        return self

    async def __anext__(self) -> Piece:
        """Raises Refused where its turn does not come, and when the client is gone."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.gone:
                raise Refused(499, "the client is gone")
            if not self._left:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()

    @property
    def waiting(self) -> bool:
        """Whether the next piece has to be waited for."""
        return not self._pieces

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be written for it."""
        return self.gone or self._error is not None or not self._left

    def give(self, piece: Piece) -> None:
        """One more piece, unless its text was ended."""
        if piece.choice not in self._left:
            return
        self._pieces.append(piece)
        if piece.reason is not None:
            self._left.discard(piece.choice)
        self._news.set()

    def cut(self) -> None:
        """End all of its texts where they are."""
        for choice in sorted(self._left):
            self.give(Piece(choice, "", (), "length"))

    def fail(self, error: Exception) -> None:
        """It can't be gone on with."""
        self._error = error
        self._news.set()

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self.gone = True
        self._news.set()


@dataclass(eq=False)
class _Text:
    """One text in the engine, or on its way there."""

    writing: Writing
    choice: int
    request: Request
    writer: TextWriter | None
    number: int = -1
    began: float | None = None


class Writer:
    """Whatever is written with one model. All methods are called on the event loop; steps are computed in the pool's
    one thread, while what the step before gave is sent.

    A request that comes is read and joins before the next step. Whose turn does not come within `limits.wait` seconds
    is refused; what takes longer than `limits.writing` is cut; who went is let go.
    """

    def __init__(
        self,
        name: str,
        model: Decoder,
        pipeline: TextPipeline,
        limits: Limits,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self.name, self.model = name, model
        self.schemas = Schemas(pipeline.tokenizer.decode, pipeline.tokenizer.size, pipeline.stops)
        self._limits, self._pool, self._metrics = limits, pool, metrics
        self._engine = GenerationEngine(model, slots=limits.slots)
        self._coming: deque[_Text] = deque()
        self._texts: dict[int, _Text] = {}
        self._task: asyncio.Task[None] | None = None
        self._stepping: float | None = None
        # Seconds that a text takes from its first token to its last, as a moving average.
        self._seconds = 1.0

    @property
    def context(self) -> int:
        """Tokens of prompt and text together."""
        return self.model.options.context

    @property
    def waiting(self) -> int:
        """Texts that are not begun."""
        return len(self._coming) + len(self._engine.waiting)

    @property
    def running(self) -> int:
        """Texts that are being written."""
        return len(self._engine.running)

    @property
    def stuck(self) -> bool:
        """Whether a step takes so long that it will hardly end."""
        return self._stepping is not None and time.monotonic() - self._stepping > self._limits.stuck

    def write(self, requests: Sequence[Request], writers: Sequence[TextWriter | None] | None = None) -> Writing:
        """The texts to come, by choice in the order of the requests; `writers` make text of each one's tokens, and must
        be its `watch`. Raises DataError for a prompt that does not fit, Refused (429) where too much waits."""
        for request in requests:
            if not 0 < len(request.prompt) <= self.context:
                raise unfit(len(request.prompt), self.context)
        if self.waiting and self.waiting + len(requests) > self._limits.texts:
            after = self._seconds * self.waiting / self._limits.slots
            problem = f"{self.waiting:,} texts wait already"
            raise Refused(429, problem, remedy="Try again later.", after=min(after, 60.0))
        writing = Writing(len(requests))
        own = writers if writers is not None else [None] * len(requests)
        for choice, (request, writer) in enumerate(zip(requests, own, strict=True)):
            self._coming.append(_Text(writing, choice, request, writer))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return writing

    async def _run(self) -> None:
        """Until nothing is left to write."""
        loop = asyncio.get_running_loop()
        found: list[tuple[_Text, str, Token]] = []
        while True:
            computed = None
            try:
                self._settle()
                idle = self._engine.idle
                self._stepping = None if idle else time.monotonic()
                computed = None if idle else loop.run_in_executor(self._pool, self._step)
                # What the step before gave is sent while this one is computed.
                self._deliver(found)
                found = [] if computed is None else await computed
            except Exception as error:  # noqa: BLE001 (a fault of ours is told to each, and others are served)
                found = []
                self._start_anew(error)
            if computed is None and not self._coming:
                return

    def _settle(self) -> None:
        """Between two steps: let go of what is over, take what came."""
        now = time.monotonic()
        for text in list(self._texts.values()):
            if self._over(text, now):
                self._engine.cancel(text.number)
                del self._texts[text.number]
        while self._coming:
            text = self._coming.popleft()
            if not self._over(text, now):
                text.number = self._engine.add(text.request)
                self._texts[text.number] = text

    def _over(self, text: _Text, now: float) -> bool:
        writing, limits = text.writing, self._limits
        if writing.ended:
            return True
        if writing.began is None and now - writing.since > limits.wait:
            problem = f"its turn did not come within {limits.wait:g} seconds"
            writing.fail(Refused(503, problem, remedy="Try again later.", after=limits.wait))
            return True
        if text.began is not None and now - text.began > limits.writing:
            writing.cut()
            return True
        return False

    def _step(self) -> list[tuple[_Text, str, Token]]:
        """In the pool's thread: a token more of each, and the text that it adds."""
        found = []
        for token in self._engine.step():
            text = self._texts[token.request]
            if text.writer is None:
                found.append((text, "", token))
                continue
            if token.reason is not None:
                text.writer.finish()
            found.append((text, text.writer.take(), token))
        return found

    def _deliver(self, found: Iterable[tuple[_Text, str, Token]]) -> None:
        now = time.monotonic()
        for text, new, token in found:
            if text.began is None:
                text.began = now
                self._metrics.began(self.name, now - text.writing.since)
            if text.writing.began is None:
                text.writing.began = now
            text.writing.give(Piece(text.choice, new, (token,), token.reason))
            self._metrics.tokens.labels(self.name).inc()
            if token.reason is not None:
                self._texts.pop(token.request, None)
                self._seconds += _SMOOTHING * (now - text.began - self._seconds)

    def _start_anew(self, error: Exception) -> None:
        for text in self._texts.values():
            text.writing.fail(error)
        self._texts.clear()
        self._engine = GenerationEngine(self.model, slots=self._limits.slots)
