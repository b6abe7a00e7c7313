"""/v1/embeddings: texts as vectors, by what a language model makes of them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from reinforge.bundle.text_form import TextForm
from reinforge.core.modes import evaluating
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.serving.bodies import left, read_body
from reinforge.serving.gate import NOTED
from reinforge.serving.models import Model, Models
from reinforge.serving.openai.asked import parsed, tokens_of
from reinforge.serving.openai.errors import BadParameter
from reinforge.serving.refusals import Refused, answer
from reinforge.storage.strict_json import Json

# Texts of a request, tokens of all of them, and tokens that are computed at once.
_MOST_TEXTS, _MOST_TOKENS, _AT_ONCE = 2048, 300_000, 1024
# So many tokens may wait for a replica.
_WAITING = 2 * _MOST_TOKENS


class EmbeddingsAsked(BaseModel):
    """The body of /v1/embeddings."""

    model_config = ConfigDict(extra="forbid", strict=True)
    PASSED: ClassVar[frozenset[str]] = frozenset({"user"})

    model: Annotated[str, Field(description="The bundle's name.")]
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1, max_length=_MOST_TOKENS)]
    )
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise BadParameter("the body must be a JSON object")
        return {name: given for name, given in value.items() if name not in cls.PASSED}


class Embedder:
    """Answers at /v1/embeddings. Requests are computed one after another, between the steps of what is written; the
    tokens that wait are bounded."""

    def __init__(self, models: Models) -> None:
        self._models, self._waiting = models, 0

    async def __call__(self, request: Request) -> Response:
        """Raises Refused."""
        body = await read_body(request, self._models.limits)
        asked = parsed(body, self._models.limits, EmbeddingsAsked)
        model, decoder, form = self._model(asked.model)
        noted = request.scope.get(NOTED, {})
        noted["model"] = model.name
        if asked.dimensions not in (None, decoder.options.width):
            problem = f"its vectors have {decoder.options.width} numbers"
            raise BadParameter(problem, param="dimensions", remedy="Leave it out.")
        texts = await asyncio.to_thread(_texts, asked, form, decoder.options.context)
        count = sum(map(len, texts))
        if count > _MOST_TOKENS:
            raise BadParameter(f"a request may have {_MOST_TOKENS:,} tokens at most", param="input")
        if self._waiting and self._waiting + count > _WAITING:
            raise Refused(429, f"{self._waiting:,} tokens wait already", remedy="Try again later.", after=5)
        self._waiting += count
        try:
            vectors = await self._vectors(request, decoder, _parts(texts))
        finally:
            self._waiting -= count
        noted["rows"] = len(texts)
        headers = self._models.served_by(asked.model, model)
        return await asyncio.to_thread(_answered, asked, vectors, count, headers)

    async def _vectors(
        self, request: Request, decoder: Decoder, parts: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[Tensor]:
        """Part after part: whatever is written takes its turn between two. Raises Refused where the turn of one does
        not come within `limits.wait` seconds, and when the client is gone."""
        loop, wait = asyncio.get_running_loop(), self._models.limits.wait
        vectors: list[Tensor] = []
        leaving = asyncio.ensure_future(left(request))
        try:
            for part in parts:
                computed = loop.run_in_executor(self._models.pool, _in_turn, decoder, part, time.monotonic() + wait)
                await asyncio.wait((computed, leaving), return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    computed.cancel()
                    raise Refused(499, "the client is gone")
                if (found := computed.result()) is None:
                    problem = f"its turn did not come within {wait:g} seconds"
                    raise Refused(503, problem, remedy="Try again later.", after=wait)
                vectors.append(found)
        finally:
            leaving.cancel()
        return vectors

    def _model(self, name: str) -> tuple[Model, Decoder, TextForm]:
        if name not in self._models:
            raise Refused(404, f"there is no model {name[:80]!r}", remedy=f"There are: {', '.join(self._models)}.")
        model = self._models.chosen(name)
        decoder, form = model.bundle.model, model.bundle.form
        if not isinstance(decoder, Decoder) or not isinstance(form, TextForm):
            raise BadParameter(f"the model {name!r} reads no text alone", param="model", code="unsupported_model")
        return model, decoder, form


def embedded(decoder: Decoder, texts: Sequence[Sequence[int]]) -> Tensor:
    """(texts, width) float32, each of length 1: the mean of the normalised stream before the head over a text's tokens,
    none of which sees another text."""
    tokens_n = torch.tensor([token for text in texts for token in text], dtype=torch.int64)
    layout = Layout(tuple(map(len, texts)), None, tokens_n.device)
    with torch.inference_mode(), evaluating(decoder):
        hidden_nd = decoder.hidden_of(tokens_n, layout).float()
    means = torch.stack([part.mean(0) for part in torch.split(hidden_nd, list(layout.lengths))])
    return torch.nn.functional.normalize(means, dim=-1)


def _in_turn(decoder: Decoder, texts: Sequence[Sequence[int]], end: float) -> Tensor | None:
    """None where its turn came too late."""
    return embedded(decoder, texts) if time.monotonic() <= end else None


def _answered(asked: EmbeddingsAsked, vectors: list[Tensor], count: int, headers: Mapping[str, str]) -> Response:
    """Many vectors are a long text: not for the event loop."""
    data = [
        {"object": "embedding", "index": index, "embedding": _told(row, asked.encoding_format)}
        for index, row in enumerate(torch.cat(vectors))
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return answer(200, {"object": "list", "data": data, "model": asked.model, "usage": usage}, headers)


def _texts(asked: EmbeddingsAsked, form: TextForm, context: int) -> list[tuple[int, ...]]:
    """Their tokens. Raises BadParameter."""
    single = isinstance(asked.input, str) or isinstance(asked.input[0], int)
    given = [asked.input] if single else asked.input
    if len(given) > _MOST_TEXTS:
        raise BadParameter(f"a request may have {_MOST_TEXTS:,} texts at most", param="input")
    found = []
    for place, one in enumerate(given):
        if not one:
            raise BadParameter(f"text {place} is empty", param="input")
        _text, tokens = tokens_of(one, form.pipeline, place, "input")
        if len(tokens) > context:
            raise BadParameter(
                f"text {place} has {len(tokens):,} tokens, and the model's context {context:,}", param="input",
                code="context_length_exceeded", remedy="Shorten it.",
            )  # fmt: skip
        found.append(tokens)
    return found


def _parts(texts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    parts: list[list[tuple[int, ...]]] = [[]]
    for text in texts:
        if parts[-1] and sum(map(len, parts[-1])) + len(text) > _AT_ONCE:
            parts.append([])
        parts[-1].append(text)
    return parts


def _told(row: Tensor, how: str | None) -> Json:
    """Numbers, or the bytes of float32, least significant first."""
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() if how == "base64" else row.tolist()
