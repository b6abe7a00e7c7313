"""Options of optimisers and schedules, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from reinforge.recipe.sections import Unit
from reinforge.registry import Options, register

Beta = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class OptimizerOptions(Options):
    """What all optimisers share. `decay` says which weights decay: matrices only, or all."""

    weight_decay: NonNegativeFloat = Field(
        0.0, description="Weight decay, decoupled in AdamW, added to the gradient elsewhere."
    )
    decay: Literal["matrices", "all"] = Field(
        "matrices", description="Decay matrices only (no biases, no norms), or all."
    )


@register("optimizer", "reinforge.engine.optimizers:sgd")
class SGDOptions(OptimizerOptions):
    """Stochastic gradient descent, with momentum if wanted."""

    kind: Literal["sgd"] = "sgd"
    momentum: Beta = Field(0.0, description="Momentum; 0 is plain gradient descent.")
    nesterov: bool = Field(False, description="Nesterov's momentum.")


@register("optimizer", "reinforge.engine.optimizers:adam")
class AdamOptions(OptimizerOptions):
    """Adam (Kingma and Ba, 2015)."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of the first and second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the denominator.")


@register("optimizer", "reinforge.engine.optimizers:adamw")
class AdamWOptions(OptimizerOptions):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: NonNegativeFloat = Field(0.01, description="Decoupled weight decay.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of the first and second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the denominator.")


@register("optimizer", "reinforge.engine.optimizers:rmsprop")
class RMSpropOptions(OptimizerOptions):
    """RMSprop (Hinton, 2012)."""

    kind: Literal["rmsprop"] = "rmsprop"
    alpha: Beta = Field(0.99, description="Smoothing of the squared gradient.")
    eps: PositiveFloat = Field(1e-8, description="Added to the denominator.")
    momentum: Beta = Field(0.0, description="Momentum.")
    centered: bool = Field(False, description="Subtract the gradient's mean in the denominator.")


class ScheduleOptions(Options):
    """What all schedules share: a linear warm-up, then the schedule's own course up to its horizon."""

    warmup: NonNegativeFloat = Field(0.0, description="Length of the linear warm-up, in `unit`.")
    unit: Unit = Field("updates", description="What the horizon and the warm-up count.")
    horizon: PositiveFloat | None = Field(
        None, description="Where the schedule ends; without it, the stop of the same unit."
    )


@register("schedule", "reinforge.engine.schedules:constant")
class ConstantOptions(ScheduleOptions):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


@register("schedule", "reinforge.engine.schedules:linear")
class LinearOptions(ScheduleOptions):
    """A straight line down to `floor` times the learning rate."""

    kind: Literal["linear"] = "linear"
    floor: Fraction = Field(0.0, description="What is left at the horizon, as a part of the learning rate.")


@register("schedule", "reinforge.engine.schedules:cosine")
class CosineOptions(ScheduleOptions):
    """Half a cosine down to `floor` times the learning rate (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    floor: Fraction = Field(0.0, description="What is left at the horizon, as a part of the learning rate.")
