"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt

from reinforge.registry import Options, register


class ImageOptions(Options):
    """What a policy sees of images of bytes. The bundle does the same to a raw image."""

    size: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="Height and width; a new pixel is the mean of the area that it covers. As it is where null."
    )
    grey: bool = Field(False, description="One channel in place of red, green and blue.")


class RewardOptions(Options):
    """Rewards as learning sees them; returns of episodes and evaluations are the true ones."""

    scale: PositiveFloat = Field(1.0, description="Factor of every reward.")
    normalise: bool = Field(
        False, description="Divide by the running deviation of the discounted sum of rewards, kept in the run's state."
    )
    gamma: Annotated[float, Field(ge=0, le=1)] = Field(0.99, description="Discount of that sum.")
    clip: PositiveFloat | None = Field(None, description="Last of all, clip to [-clip, clip].")


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
    time_limit: PositiveInt | None = Field(
        None, description="Steps of the policy after which an episode is truncated, in place of the environment's own."
    )
    frame_skip: PositiveInt = Field(1, description="Times that each action is taken; the rewards are summed.")
    images: ImageOptions = Field(ImageOptions(), description="Size and colour of images.")
    reward: RewardOptions = Field(RewardOptions(), description="Scale of rewards while learning.")
    vectorization: Literal["auto", "native", "synchronous", "processes"] = Field(
        "auto",
        description="`native` uses the environment's own vectorised form; `synchronous` steps copies in turn, "
        "`processes` in as many processes as there are processors, with the same result. `auto` is native where there "
        "is such a form, else synchronous.",
    )
