"""Rows of a language bundle: texts gone on with, in the same engine as all that it writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.inference import requests
from reinforge.inference.engine import unfit
from reinforge.serving.bodies import Rows, left
from reinforge.serving.models import Model
from reinforge.serving.refusals import told
from reinforge.serving.writing import Writing
from reinforge.storage.strict_json import Json


async def continued(model: Model, rows: Rows, request: Request | None = None) -> list[Json]:
    """What `Bundle.predict` gives for these rows, unless the request's client hangs up. Raises DataError that names the
    row, and Refused."""
    writer, form = model.writer, model.bundle.form
    assert writer is not None
    assert isinstance(form, TextForm)
    asked = await asyncio.to_thread(_asked, model.bundle, form, writer.context, rows)
    wanted = [each for each in asked if isinstance(each, requests.Request)]
    tokens: list[list[int]] = [[] for _each in wanted]
    stopped = [False] * len(wanted)
    if wanted:
        writing = writer.write(wanted)
        async with watched(request, writing):
            async for piece in writing:
                tokens[piece.choice] += [each.token for each in piece.tokens]
                stopped[piece.choice] = piece.reason == "stop"
    written = iter([form.told(*each) for each in zip(tokens, stopped)])
    return [next(written) if isinstance(each, requests.Request) else {"error": told(each)} for each in asked]


@contextlib.asynccontextmanager
async def watched(request: Request | None, writing: Writing) -> AsyncIterator[None]:
    """Whoever hangs up frees his places, within the block."""
    leaving = None if request is None else asyncio.ensure_future(left(request))
    if leaving is not None:
        leaving.add_done_callback(lambda done: None if done.cancelled() else writing.abandon())
    try:
        yield
    except BaseException:
        writing.abandon()
        raise
    finally:
        if leaving is not None:
            leaving.cancel()


def _asked(bundle: Bundle, form: TextForm, context: int, rows: Rows) -> list[requests.Request | DataError]:
    """By row, what is to be written, or with `partial` what is wrong with it. Raises DataError without."""
    found: list[requests.Request | DataError] = []
    for index, row in enumerate(rows.rows):
        origin = Origin(places=range(index, index + 1))
        try:
            (one,) = form.requests(form.inputs([row], origin), bundle.task)
            if not 0 < len(one.prompt) <= context:
                raise unfit(len(one.prompt), context, origin.at(0))
        except DataError as error:
            if not rows.partial:
                raise
            found.append(error)
        else:
            found.append(one)
    return found
