"""Components and a recipe to load, registered for these tests alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveFloat

from reinforge.recipe.component import OneOf
from reinforge.registry import REGISTRY, Options


class Lamp(Options):
    kind: Literal["lamp"] = "lamp"
    watts: PositiveFloat = 5.0
    shades: tuple[int, ...] | None = Field(None, min_length=1)


class Torch(Options):
    kind: Literal["torch"] = "torch"
    batteries: int = Field(description="No default.")


class Room(Options):
    kind: Literal["room"] = "room"
    light: Annotated[Options, OneOf("light")] = Lamp()
    more: dict[str, Annotated[Options, OneOf("light")]] = Field({})
    size: float | Literal["auto"] = "auto"


@pytest.fixture(autouse=True)
def house() -> Iterator[None]:
    """Lights and a room, so that no test hangs on the options of real components."""
    before = dict(REGISTRY._components)
    for kind, options in (("light", Lamp), ("light", Torch), ("model", Room)):
        REGISTRY.register(kind, "nowhere:build")(options)
    for kind in ("data", "objective"):
        REGISTRY.register(kind, "nowhere:build")(Lamp)
    list(REGISTRY.kinds())
    yield
    for key in set(REGISTRY._components) - set(before):
        if REGISTRY._components[key].target == "nowhere:build":
            del REGISTRY._components[key]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")


TEXT = """\
# A house.
seed: 3
data: lamp
model:
  kind: room
  light: {kind: torch, batteries: 2}
objective:
  kind: lamp
  watts: 7
learn:
  lr: 3e-4
  optimizer: {kind: sgd, momentum: 0.9}
"""
