"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, PositiveInt

from reinforge.registry import Options, register


@register("data", "reinforge.environments.build:build")
class EnvironmentOptions(Options):
    """A Gymnasium environment, run as a vector of `count` copies."""

    kind: Literal["environment"] = "environment"
    # No "module:Name", which Gymnasium would import: a recipe can't import code.
    id: str = Field(
        pattern=r"^[\w./-]+$",
        description="Gymnasium's name of the environment; register your own in a file given by --use.",
    )
    count: PositiveInt = Field(8, description="Copies stepped together while collecting experience.")
    options: dict[str, JsonValue] = Field({}, description="Keyword arguments of the environment itself.")
    inputs: tuple[str, ...] | None = Field(
        None, description="Parts of a Dict observation that the policy sees; all of them where null."
    )
    vectorization: Literal["auto", "native", "synchronous", "processes"] = Field(
        "auto",
        description="`native` uses the environment's own vectorised form; `synchronous` steps copies in turn, "
        "`processes` in as many processes as there are processors, with the same result. `auto` is native where there "
        "is such a form, else synchronous.",
    )
