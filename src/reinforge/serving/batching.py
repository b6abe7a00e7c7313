"""Rows of many requests computed together: a lone request starts at once; while a computation runs the others wait, and
the next one takes what waits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from reinforge.bundle.bundle import Bundle
from reinforge.errors import DataError
from reinforge.serving.limits import Limits
from reinforge.serving.refusals import Refused, told
from reinforge.storage.strict_json import Json

_SMOOTHING = 0.2


@dataclass
class Waiting:
    """A request's rows, and where its predictions go."""

    rows: Sequence[Json]
    partial: bool
    future: asyncio.Future[list[Json]]
    since: float = field(default_factory=time.monotonic)


class Pace:
    """How long computations take, by the number of rows to the next power of two, as a moving average of seconds."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def expected(self, rows: int) -> float:
        """Seconds for so many rows; infinite before anything was computed."""
        size = rows.bit_length()
        if size in self._seconds:
            return self._seconds[size]
        known = [other for other in self._seconds if other < size]
        return self._seconds[max(known)] * 2.0 ** (size - max(known)) if known else float("inf")

    def observe(self, rows: int, seconds: float) -> None:
        """Take a measurement in."""
        size = rows.bit_length()
        before = self._seconds.get(size, seconds)
        self._seconds[size] = before + _SMOOTHING * (seconds - before)


class Batcher:
    """What waits for one bundle, and its computations, one at a time.

    Requests that came in the same turn of the event loop are computed together, and so are those that came while
    another computation ran, up to `limits.batch` rows. A request with a bad row fails alone. All methods are called on
    the event loop. `observe` is told the rows and seconds of each computation.
    """

    def __init__(
        self,
        bundle: Bundle,
        limits: Limits,
        pool: ThreadPoolExecutor,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self.bundle, self._limits, self.pool, self._observe = bundle, limits, pool, observe
        self._waiting: deque[Waiting] = deque()
        self._busy = False
        self._began: float | None = None
        self._pace = Pace()
        self.rows_waiting = 0

    @property
    def busy(self) -> bool:
        """Whether a new request has to wait."""
        return self._busy

    @property
    def stuck(self) -> bool:
        """Whether a computation takes so long that it will hardly end."""
        return self._began is not None and time.monotonic() - self._began > self._limits.stuck

    def submit(self, rows: Sequence[Json], partial: bool) -> asyncio.Future[list[Json]]:
        """The predictions to come; cancelling gives up what has not begun. Raises Refused (429) where too much waits.

        With `partial` a bad row's error stands in its place; otherwise it is the request's: DataError.
        """
        if self.rows_waiting and self.rows_waiting + len(rows) > self._limits.queue:
            after = self._pace.expected(self._limits.batch) * self.rows_waiting / self._limits.batch
            raise Refused(
                429, f"{self.rows_waiting:,} rows wait already", remedy="Try again later.", after=min(after, 60.0)
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Json]] = loop.create_future()
        self._waiting.append(Waiting(rows, partial, future))
        self.rows_waiting += len(rows)
        if not self._busy:
            self._busy = True
            # One turn later, when all that came with it has been read.
            loop.call_soon(self._next)
        return future

    def _next(self) -> None:
        group = self._take()
        if not group:
            self._busy = False
            return
        loop = asyncio.get_running_loop()
        rows = sum(len(one.rows) for one in group)
        self._began = time.monotonic()
        if self._pace.expected(rows) <= self._limits.inline:
            self._give(group, self._compute(group))
            loop.call_soon(self._next)
        else:
            computed = loop.run_in_executor(self.pool, self._compute, group)
            computed.add_done_callback(lambda done: self._computed(group, done))

    def _computed(self, group: list[Waiting], done: asyncio.Future[list[list[Json] | Exception]]) -> None:
        if not done.cancelled():
            self._give(group, done.result())
        self._next()

    def _take(self) -> list[Waiting]:
        group: list[Waiting] = []
        rows, now = 0, time.monotonic()
        while self._waiting and (not group or rows + len(self._waiting[0].rows) <= self._limits.batch):
            one = self._waiting.popleft()
            self.rows_waiting -= len(one.rows)
            if one.future.done():
                continue
            if now - one.since > self._limits.wait:
                problem = f"its turn did not come within {self._limits.wait:g} seconds"
                one.future.set_exception(Refused(503, problem, remedy="Try again later.", after=self._limits.wait))
                continue
            group.append(one)
            rows += len(one.rows)
        return group

    def _compute(self, group: list[Waiting]) -> list[list[Json] | Exception]:
        """By request, its predictions or its error. Runs on the loop or in a thread."""
        began = time.perf_counter()
        found = self._together(group)
        seconds, rows = time.perf_counter() - began, sum(len(one.rows) for one in group)
        self._pace.observe(rows, seconds)
        if self._observe is not None:
            self._observe(rows, seconds)
        return found

    def _together(self, group: list[Waiting]) -> list[list[Json] | Exception]:
        if len(group) > 1:
            try:
                together = self.bundle.predict([row for one in group for row in one.rows])
            except Exception:  # noqa: BLE001 (one of them is bad, or brings out a fault of ours: each by itself)
                pass
            else:
                ends, start = [], 0
                for one in group:
                    ends.append(together[start : start + len(one.rows)])
                    start += len(one.rows)
                return list(ends)
        return [self._alone(one) for one in group]

    def _alone(self, one: Waiting) -> list[Json] | Exception:
        try:
            if not one.partial:
                return self.bundle.predict(one.rows)
            each = self.bundle.predict_each(one.rows)
            return [{"error": told(row)} if isinstance(row, DataError) else row for row in each]
        except Exception as error:  # noqa: BLE001 (a fault of ours is the request's own, and told by its handler)
            return error

    def _give(self, group: list[Waiting], found: list[list[Json] | Exception]) -> None:
        self._began = None
        for one, outcome in zip(group, found):
            if one.future.done():
                continue
            if isinstance(outcome, Exception):
                one.future.set_exception(outcome)
            else:
                one.future.set_result(outcome)
