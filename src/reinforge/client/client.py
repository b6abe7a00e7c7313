"""`Client` and `AsyncClient`: the same methods, one that waits and one to be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from reinforge.client.calls import (
    Answer,
    Call,
    Messages,
    Pieces,
    Retries,
    act_row,
    acted,
    answered,
    base_url,
    predict_call,
    written_call,
)
from reinforge.client.errors import ServerError, Unreachable, error_of
from reinforge.errors import MissingExtra

try:
    import httpx
except ModuleNotFoundError:
    raise MissingExtra("httpx", "client") from None


class Client:
    """A server of bundles at `url`.

    `token`: what `reinforge token` gave. `timeout`: seconds that the server may stay silent. A call that finds the
    server busy or not there is tried again, after the time that the server names or a growing pause; nothing that it
    asks for changes anything there, so that asking twice does no harm. Errors are those of `reinforge.client.errors`.
    """

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = 60.0, retries: Retries | None = None
    ) -> None:
        self.retries = retries or Retries()
        self._http = httpx.Client(base_url=base_url(url), headers=_headers(token), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def ready(self) -> bool:
        """Whether every replica answers."""
        try:
            return self._http.get("readyz").status_code == 200
        except httpx.TransportError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """What there is: names, digests, inputs and outputs."""
        found: list[dict[str, Any]] = self._ask(Call("v1/models"))["models"]
        return found

    def predict(self, model: str, rows: Any, *, partial: bool = False) -> list[dict[str, Any]]:
        """A prediction for each row (mappings by column, or a polars frame); values may be bytes or paths of images,
        and arrays. With `partial` a bad row gives {"error": ...} in its place."""
        found: list[dict[str, Any]] = self._ask(predict_call(model, rows, partial))["predictions"]
        return found

    def act(self, model: str, observation: Any) -> Any:
        """The action of a policy without a memory; `episode` is for those with one."""
        return Episode(self, model).act(observation)

    def episode(self, model: str) -> Episode:
        """An episode of a policy, which brings its memory along."""
        return Episode(self, model)

    def chat(self, model: str, messages: Messages, **settings: Any) -> Answer:
        """The answer to messages, or to a text of the user's. `settings` are the parameters of the interface."""
        return answered(self._ask(written_call(model, messages, settings, chat=True, stream=False)))

    def complete(self, model: str, prompt: str, **settings: Any) -> Answer:
        """How a text goes on."""
        return answered(self._ask(written_call(model, prompt, settings, chat=False, stream=False)))

    def stream(self, model: str, messages: Messages, **settings: Any) -> Iterator[str]:
        """`chat`, in pieces as they are written. Leaving the loop ends the writing."""
        yield from self._stream(written_call(model, messages, settings, chat=True, stream=True))

    def stream_completion(self, model: str, prompt: str, **settings: Any) -> Iterator[str]:
        """`complete`, in pieces as they are written."""
        yield from self._stream(written_call(model, prompt, settings, chat=False, stream=True))

    def _ask(self, call: Call) -> Any:
        tried = 0
        while True:
            tried += 1
            try:
                return _read(self._http.request(call.method, call.path, content=call.body))
            except httpx.TransportError as error:
                told: ServerError = _unreachable(error, self._http.base_url)
            except ServerError as error:
                told = error
            if (pause := self.retries.pause(tried, told)) is None:
                raise told
            time.sleep(pause)

    def _stream(self, call: Call) -> Iterator[str]:
        pieces, tried = Pieces(), 0
        while True:
            tried += 1
            try:
                with self._http.stream(call.method, call.path, content=call.body) as response:
                    if response.status_code != 200:
                        response.read()
                    _check(response)
                    for line in response.iter_lines():
                        if new := pieces.read(line):
                            yield new
                pieces.check()
                return
            except httpx.TransportError as error:
                told: ServerError = _unreachable(error, self._http.base_url)
            except ServerError as error:
                told = error
            # What was given can't be taken back.
            if pieces.text or (pause := self.retries.pause(tried, told)) is None:
                raise told
            time.sleep(pause)


class Episode:
    """One episode of a policy: its memory goes from step to step."""

    def __init__(self, client: Client, model: str) -> None:
        self._client, self.model = client, model
        self.memory: Any = None

    def act(self, observation: Any) -> Any:
        """The action for the next observation (an array, or a mapping by input)."""
        (found,) = self._client.predict(self.model, [act_row(observation, self.memory)])
        action, self.memory = acted(found)
        return action


class AsyncClient:
    """`Client`, to be awaited."""

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = 60.0, retries: Retries | None = None
    ) -> None:
        self.retries = retries or Retries()
        self._http = httpx.AsyncClient(base_url=base_url(url), headers=_headers(token), timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether every replica answers."""
        try:
            return (await self._http.get("readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def models(self) -> list[dict[str, Any]]:
        """What there is: names, digests, inputs and outputs."""
        found: list[dict[str, Any]] = (await self._ask(Call("v1/models")))["models"]
        return found

    async def predict(self, model: str, rows: Any, *, partial: bool = False) -> list[dict[str, Any]]:
        """A prediction for each row, as `Client.predict`."""
        found: list[dict[str, Any]] = (await self._ask(predict_call(model, rows, partial)))["predictions"]
        return found

    async def act(self, model: str, observation: Any) -> Any:
        """The action of a policy without a memory; `episode` is for those with one."""
        return await AsyncEpisode(self, model).act(observation)

    def episode(self, model: str) -> AsyncEpisode:
        """An episode of a policy, which brings its memory along."""
        return AsyncEpisode(self, model)

    async def chat(self, model: str, messages: Messages, **settings: Any) -> Answer:
        """The answer to messages, or to a text of the user's."""
        return answered(await self._ask(written_call(model, messages, settings, chat=True, stream=False)))

    async def complete(self, model: str, prompt: str, **settings: Any) -> Answer:
        """How a text goes on."""
        return answered(await self._ask(written_call(model, prompt, settings, chat=False, stream=False)))

    def stream(self, model: str, messages: Messages, **settings: Any) -> AsyncIterator[str]:
        """`chat`, in pieces as they are written. Leaving the loop ends the writing."""
        return self._stream(written_call(model, messages, settings, chat=True, stream=True))

    def stream_completion(self, model: str, prompt: str, **settings: Any) -> AsyncIterator[str]:
        """`complete`, in pieces as they are written."""
        return self._stream(written_call(model, prompt, settings, chat=False, stream=True))

    async def _ask(self, call: Call) -> Any:
        tried = 0
        while True:
            tried += 1
            try:
                return _read(await self._http.request(call.method, call.path, content=call.body))
            except httpx.TransportError as error:
                told: ServerError = _unreachable(error, self._http.base_url)
            except ServerError as error:
                told = error
            if (pause := self.retries.pause(tried, told)) is None:
                raise told
            await asyncio.sleep(pause)

    async def _stream(self, call: Call) -> AsyncIterator[str]:
        pieces, tried = Pieces(), 0
        while True:
            tried += 1
            try:
                async with self._http.stream(call.method, call.path, content=call.body) as response:
                    if response.status_code != 200:
                        await response.aread()
                    _check(response)
                    async for line in response.aiter_lines():
                        if new := pieces.read(line):
                            yield new
                pieces.check()
                return
            except httpx.TransportError as error:
                told: ServerError = _unreachable(error, self._http.base_url)
            except ServerError as error:
                told = error
            if pieces.text or (pause := self.retries.pause(tried, told)) is None:
                raise told
            await asyncio.sleep(pause)


class AsyncEpisode:
    """`Episode`, to be awaited."""

    def __init__(self, client: AsyncClient, model: str) -> None:
        self._client, self.model = client, model
        self.memory: Any = None

    async def act(self, observation: Any) -> Any:
        """The action for the next observation (an array, or a mapping by input)."""
        (found,) = await self._client.predict(self.model, [act_row(observation, self.memory)])
        action, self.memory = acted(found)
        return action


def _headers(token: str | None) -> Mapping[str, str]:
    return {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}


def _check(response: httpx.Response) -> None:
    if response.status_code != 200:
        try:
            body = response.json()
        except ValueError:
            body = None
        raise error_of(response.status_code, response.headers, body)


def _read(response: httpx.Response) -> Any:
    _check(response)
    return response.json()


def _unreachable(error: httpx.TransportError, url: httpx.URL) -> Unreachable:
    problem = "it stayed silent for too long" if isinstance(error, httpx.TimeoutException) else "it can't be reached"
    reason = f" ({error})" if str(error) else ""
    return Unreachable(f"{problem}{reason}", where=str(url), remedy="Is `reinforge serve` running there?")
