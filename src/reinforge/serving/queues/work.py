"""What is done with a message: from its bytes to its result, or to the reason why there is none."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from reinforge.errors import DataError, IntegrityError, ReinforgeError
from reinforge.serving.bodies import Rows, rows_in
from reinforge.serving.continuing import continued
from reinforge.serving.models import Models
from reinforge.serving.queues.broker import Delivery, Handler
from reinforge.serving.refusals import Refused, told
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

_LONGEST_ID = 200
_REMEDY = 'Send {"id": "...", "rows": [{...}, ...]}, with "model" where several are served.'
# What a queue is full of is taken on later.
_BUSY = (429, 503)
_PAUSE = 0.2


@dataclass(frozen=True)
class Asked:
    """A message's id, the model that it asks, and the rows."""

    identity: str
    model: str
    rows: Rows


def asked(body: bytes, models: Models) -> Asked:
    """From {"id", "model", "rows", "partial"}. Raises Refused."""
    limits = models.limits
    if len(body) > limits.body:
        raise Refused(413, f"a message may have {limits.body:,} bytes at most")
    try:
        value = strict_json.parse(body, "message", limit=limits.body, depth=limits.depth)
    except IntegrityError as error:
        raise Refused(400, error.problem, where=error.where, remedy=_REMEDY) from None
    identity = identity_in(value)
    if identity is None:
        raise Refused(400, f"`id` must be a text of 1 to {_LONGEST_ID} bytes", where="message", remedy=_REMEDY)
    rest = {name: part for name, part in value.items() if name not in ("id", "model")}
    name = value.get("model", next(iter(models)) if len(models) == 1 else None)
    if not isinstance(name, str):
        problem = "`model` must name one of the models that are served"
        raise Refused(400, problem, where="message", remedy=f"There are: {', '.join(models)}.")
    return Asked(identity, models.named(name).name, rows_in(rest, limits, "message", _REMEDY))


def identity_in(value: Json) -> str | None:
    """The id of a message that was parsed; None where it has none."""
    identity = value.get("id") if isinstance(value, dict) else None
    return identity if isinstance(identity, str) and 0 < len(identity.encode()) <= _LONGEST_ID else None


def handler(models: Models, attempts: int) -> Handler:
    """What takes deliveries to their end: results are computed with whatever else waits for the model, over HTTP too.

    A message that can't be read, asks for what is not there, or has a bad row is buried, and so is one that was taken
    more than `attempts` times: it has ended whoever took it.
    """

    async def handle(delivery: Delivery) -> None:
        if delivery.attempts > attempts:
            identity = _identity_of(delivery.body)
            problem = f"it was taken {attempts} times and never finished"
            await _bury(delivery, identity, ReinforgeError(problem), models)
            return
        try:
            if delivery.fault is not None:
                raise Refused(400, delivery.fault, where="message", remedy=_REMEDY)
            request = asked(delivery.body, models)
        except Refused as error:
            await _bury(delivery, _identity_of(delivery.body), error, models)
            return
        if await delivery.known(request.identity):
            models.metrics.queued.labels(request.model, "known").inc()
            await delivery.drop()
            return
        try:
            predictions = await _predicted(models, request)
        except (DataError, Refused) as error:
            await _bury(delivery, request.identity, error, models, request.model)
            return
        answer = {"id": request.identity, "model": request.model, "predictions": predictions}
        await delivery.finish(request.identity, _bytes(answer))
        models.metrics.queued.labels(request.model, "done").inc()

    return handle


async def _predicted(models: Models, request: Asked) -> list[Json]:
    """Its predictions; where too much waits, it waits with them."""
    while True:
        model = models.named(request.model)
        try:
            if model.writer is not None:
                return await continued(model, request.rows)
            return await model.batcher.submit(request.rows.rows, request.rows.partial)
        except Refused as error:
            if error.status not in _BUSY:
                raise
            await asyncio.sleep(_PAUSE)


async def _bury(
    delivery: Delivery, identity: str | None, error: ReinforgeError, models: Models, model: str = ""
) -> None:
    answer = {"error": told(error), "id": identity}
    await delivery.bury(identity, _bytes(answer), str(error))
    models.metrics.queued.labels(model, "buried").inc()


def _identity_of(body: bytes) -> str | None:
    try:
        return identity_in(strict_json.parse(body, "message", limit=len(body), depth=16))
    except IntegrityError:
        return None


def _bytes(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
