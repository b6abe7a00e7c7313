"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register


@register("objective", "reinforge.objectives.supervised:Supervised")
class SupervisedOptions(Options):
    """Learn targets from labels: one loss per target, their weighted sum; missing targets are left out."""

    kind: Literal["supervised"] = "supervised"
    losses: dict[str, Annotated[Options, OneOf("loss")]] = Field(
        {}, description="Losses by target; by default that of the model's head."
    )
    weights: dict[str, NonNegativeFloat] = Field({}, description="Weights of the losses by target; by default 1.")


@register("objective", "reinforge.objectives.gan:GAN")
class GANOptions(Options):
    """Generate what can't be told from the data: a generator (the model) against a discriminator."""

    kind: Literal["gan"] = "gan"
    discriminator: Annotated[Options, OneOf("model")] = Field(
        ComposedOptions(body=MLPOptions(sizes=(128, 128), activation="leaky-relu", norm="layer")),
        description="The model that tells real from generated.",
    )
