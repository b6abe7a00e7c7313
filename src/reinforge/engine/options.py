"""Options of optimisers, schedules and averages of weights, free of torch."""

from __future__ import annotations

import fnmatch
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

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

    def takes_whole(self, name: str, dimensions: int) -> bool:
        """Whether it updates that weight as the matrix it is; element by element otherwise."""
        return False


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


@register("optimizer", "reinforge.engine.optimizers:adagrad")
class AdagradOptions(OptimizerOptions):
    """Adagrad (Duchi, Hazan and Singer, 2011): rates only shrink, most where gradients were large."""

    kind: Literal["adagrad"] = "adagrad"
    initial: NonNegativeFloat = Field(0.0, description="What the sums of squared gradients begin with.")
    eps: PositiveFloat = Field(1e-10, description="Added to the denominator.")


@register("optimizer", "reinforge.engine.optimizers:adadelta")
class AdadeltaOptions(OptimizerOptions):
    """Adadelta (Zeiler, 2012): steps in the weights' own units; its natural learning rate is 1."""

    kind: Literal["adadelta"] = "adadelta"
    rho: Beta = Field(0.9, description="Smoothing of squared gradients and squared steps.")
    eps: PositiveFloat = Field(1e-6, description="Added to both.")


@register("optimizer", "reinforge.engine.optimizers:radam")
class RAdamOptions(OptimizerOptions):
    """Rectified Adam (Liu et al., 2020): no adaptive steps until their variance is bounded, a warm-up of its own."""

    kind: Literal["radam"] = "radam"
    decoupled: bool = Field(False, description="Decay weights as AdamW does.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of the first and second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the denominator.")


@register("optimizer", "reinforge.engine.optimizers:nadam")
class NAdamOptions(OptimizerOptions):
    """Adam with Nesterov's momentum (Dozat, 2016)."""

    kind: Literal["nadam"] = "nadam"
    decoupled: bool = Field(False, description="Decay weights as AdamW does.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of the first and second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the denominator.")
    momentum_decay: NonNegativeFloat = Field(4e-3, description="How fast the first moment's decay rises to its value.")


@register("optimizer", "reinforge.engine.optimizers:muon")
class MuonOptions(OptimizerOptions):
    """Muon (Jordan, 2024) for the matrices of hidden layers: momentum, made orthogonal; AdamW for all else.

    Steps are as large as AdamW's (arXiv:2502.16982), so that both share one learning rate. `others` are matrices whose
    rows or columns stand for single tokens, categories or classes.
    """

    kind: Literal["muon"] = "muon"
    weight_decay: NonNegativeFloat = Field(0.01, description="Decoupled weight decay, of both.")
    momentum: Beta = Field(0.95, description="Momentum of matrices.")
    nesterov: bool = Field(True, description="Nesterov's momentum.")
    iterations: PositiveInt = Field(5, lt=100, description="Newton-Schulz iterations that make a step orthogonal.")
    others: tuple[str, ...] = Field(
        ("*embed*", "*table*", "*head*"), description="Patterns of matrices that AdamW updates."
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="AdamW's decay of the first and second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to AdamW's denominator.")

    def takes_whole(self, name: str, dimensions: int) -> bool:
        """Matrices that `others` doesn't name."""
        return dimensions == 2 and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.others)


@register("sparse-optimizer", "reinforge.engine.sparse:sparse_adam")
class SparseAdamOptions(Options):
    """Adam whose moments change only in the rows that a batch looked up."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of the first and second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the denominator.")


@register("sparse-optimizer", "reinforge.engine.sparse:sparse_adagrad")
class SparseAdagradOptions(Options):
    """Adagrad: rows that are looked up rarely keep a large rate."""

    kind: Literal["adagrad"] = "adagrad"
    eps: PositiveFloat = Field(1e-10, description="Added to the denominator.")


@register("sparse-optimizer", "reinforge.engine.sparse:sparse_sgd")
class SparseSGDOptions(Options):
    """Plain gradient descent."""

    kind: Literal["sgd"] = "sgd"


class ScheduleOptions(Options):
    """What all schedules share: what they count, and where they end."""

    unit: Unit | None = Field(
        None, description="What the horizon and all other lengths count; by default what learn.stop limits."
    )
    horizon: PositiveFloat | None = Field(
        None, description="Where the schedule ends; without it, the stop of the same unit."
    )


class WarmedOptions(ScheduleOptions):
    """A linear warm-up, then the schedule's own course up to its horizon."""

    warmup: NonNegativeFloat = Field(0.0, description="Length of the linear warm-up, in `unit`.")


@register("schedule", "reinforge.engine.schedules:constant")
class ConstantOptions(WarmedOptions):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


@register("schedule", "reinforge.engine.schedules:linear")
class LinearOptions(WarmedOptions):
    """A straight line down to `floor` times the learning rate."""

    kind: Literal["linear"] = "linear"
    floor: Fraction = Field(0.0, description="What is left at the horizon, as a part of the learning rate.")


@register("schedule", "reinforge.engine.schedules:cosine")
class CosineOptions(WarmedOptions):
    """Half a cosine down to `floor` times the learning rate (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    floor: Fraction = Field(0.0, description="What is left at the horizon, as a part of the learning rate.")


@register("schedule", "reinforge.engine.schedules:step")
class StepOptions(WarmedOptions):
    """The rate drops at once, time and again."""

    kind: Literal["step"] = "step"
    factor: Fraction = Field(0.1, description="What is left of the rate after each drop.")
    every: PositiveFloat | None = Field(
        None, description="From one drop to the next, in `unit`; by default a third of the horizon."
    )
    at: tuple[PositiveFloat, ...] = Field((), description="Where it drops, in `unit`; instead of `every`.")


@register("schedule", "reinforge.engine.schedules:one_cycle")
class OneCycleOptions(ScheduleOptions):
    """Up to the learning rate and further down than it began, each as half a cosine (Smith and Topin, 2018)."""

    kind: Literal["one-cycle"] = "one-cycle"
    rise: Annotated[float, Field(gt=0, lt=1)] = Field(0.3, description="The part of the horizon in which it rises.")
    start: Annotated[float, Field(gt=0, le=1)] = Field(0.04, description="Its beginning, as a part of the rate.")
    floor: Fraction = Field(4e-6, description="Its end, as a part of the rate.")


@register("schedule", "reinforge.engine.schedules:plateau")
class PlateauOptions(WarmedOptions):
    """The rate drops when evaluate.monitor has not improved for some evaluations."""

    kind: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.3, description="What is left of the rate after each drop.")
    patience: Annotated[int, Field(ge=0)] = Field(5, description="Evaluations without improvement that are borne.")
    delta: NonNegativeFloat = Field(0.0, description="What counts as improvement.")
    cooldown: Annotated[int, Field(ge=0)] = Field(0, description="Evaluations after a drop that do not count.")
    floor: Fraction = Field(0.0, description="The smallest part of the rate.")


@register("schedule", "reinforge.engine.schedules:adaptive")
class AdaptiveOptions(WarmedOptions):
    """The rate follows the training loss (the bold driver: Vogl et al., 1988): it falls where the mean loss of a window
    of updates is above that of the window before, and rises slowly, up to the learning rate, where it isn't."""

    kind: Literal["adaptive"] = "adaptive"
    window: PositiveInt = Field(100, description="Updates of one window.")
    tolerance: NonNegativeFloat = Field(0.02, description="How much larger, relatively, a mean loss is no rise.")
    fall: Annotated[float, Field(gt=0, lt=1)] = Field(0.7, description="What is left of the rate after a rise.")
    rise: Annotated[float, Field(ge=1)] = Field(1.05, description="By what the rate is multiplied otherwise.")
    floor: Annotated[float, Field(gt=0, le=1)] = Field(0.01, description="The smallest part of the rate.")


class AverageOptions(Options):
    """What all averages share: when a value of the weights is taken in."""

    start: NonNegativeFloat = Field(0.0, description="From when on weights are averaged, in `unit`.")
    every: PositiveFloat = Field(1.0, description="How often, counted in `unit`.")
    unit: Unit = Field("updates", description="What `start` and `every` count.")


@register("average", "reinforge.engine.averaging:exponential")
class ExponentialOptions(AverageOptions):
    """An exponential moving average (Polyak and Juditsky, 1992): good with a constant rate, and for generators."""

    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="What stays of the average each time.")


@register("average", "reinforge.engine.averaging:uniform")
class UniformOptions(AverageOptions):
    """The plain mean of the weights along the way (stochastic weight averaging, Izmailov et al., 2018)."""

    kind: Literal["swa"] = "swa"
    unit: Unit = Field("epochs", description="What `start` and `every` count.")
