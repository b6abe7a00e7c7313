"""Learning-rate schedules: a factor as a function of the clock, with an explicit horizon in one of its units, and for
some of what training has shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, get_args

from torch import Tensor

from reinforge.core.contracts import Clock, State
from reinforge.engine.options import (
    AdaptiveOptions,
    ConstantOptions,
    CosineOptions,
    LinearOptions,
    OneCycleOptions,
    PlateauOptions,
    ScheduleOptions,
    StepOptions,
    WarmedOptions,
)
from reinforge.errors import RecipeError
from reinforge.recipe.sections import Stop, Unit


class Schedule(Protocol):
    """The learning rate's factor. `watches` says what it wants to be told: nothing, the monitored metric after each
    evaluation (signed, so that smaller is better), or the loss of each update (a tensor, which it may not wait for)."""

    watches: Literal["nothing", "metric", "loss"]

    def __call__(self, clock: Clock) -> float: ...

    def observe(self, value: float | Tensor) -> None: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Course:
    """A factor that follows from the clock alone."""

    watches: Literal["nothing", "metric", "loss"] = "nothing"

    def __init__(self, factor: Callable[[Clock], float]) -> None:
        self.factor = factor

    def __call__(self, clock: Clock) -> float:
        return self.factor(clock)

    def observe(self, value: float | Tensor) -> None:
        """Nothing."""

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing."""


class Plateau(Course):
    """Multiplied by `factor` when the metric has not improved by `delta` for more than `patience` evaluations."""

    watches: Literal["nothing", "metric", "loss"] = "metric"

    def __init__(self, options: PlateauOptions, stop: Stop) -> None:
        super().__init__(_warmed(options, stop, lambda _: self.rate, 0.0))
        self.options = options
        self.rate, self.best = 1.0, math.inf
        self.without, self.resting = 0, 0

    def observe(self, value: float | Tensor) -> None:
        """The monitored metric, smaller being better."""
        options, value = self.options, float(value)
        # Against infinity the margin means nothing, so that the first value always counts.
        if value < self.best - options.delta if math.isfinite(self.best) else value < self.best:
            self.best, self.without = value, 0
        else:
            self.without += 1
        if self.resting:
            self.resting, self.without = self.resting - 1, 0
        if self.without > options.patience:
            self.rate = max(self.rate * options.factor, options.floor)
            self.resting, self.without = options.cooldown, 0

    def state_dict(self) -> State:
        return {"rate": self.rate, "best": self.best, "without": self.without, "resting": self.resting}

    def load_state_dict(self, state: State) -> None:
        self.rate, self.best = state["rate"], state["best"]
        self.without, self.resting = state["without"], state["resting"]


class Adaptive(Course):
    """Multiplied by `fall` where a window's mean loss is above the window's before, and by `rise` where it isn't."""

    watches: Literal["nothing", "metric", "loss"] = "loss"

    def __init__(self, options: AdaptiveOptions, stop: Stop) -> None:
        super().__init__(_warmed(options, stop, lambda _: self.rate, 0.0))
        self.options = options
        self.rate, self.before = 1.0, math.inf
        self.sum: Tensor | None = None
        self.seen = 0

    def observe(self, value: float | Tensor) -> None:
        """The loss of one update."""
        assert isinstance(value, Tensor)
        self.sum = value.clone() if self.sum is None else self.sum.add_(value)
        self.seen += 1
        if self.seen == self.options.window:
            self._judge(float(self.sum) / self.seen)
            self.sum, self.seen = None, 0

    def _judge(self, mean: float) -> None:
        options = self.options
        # A mean that is not finite is a rise after one that was, and nothing to compare the next one with.
        if math.isinf(self.before) or mean <= self.before + options.tolerance * abs(self.before):
            self.rate = min(self.rate * options.rise, 1.0)
        else:
            self.rate = max(self.rate * options.fall, options.floor)
        if math.isfinite(mean):
            self.before = mean

    def state_dict(self) -> State:
        return {"rate": self.rate, "before": self.before, "sum": self.sum, "seen": self.seen}

    def load_state_dict(self, state: State) -> None:
        self.rate, self.before, self.seen = state["rate"], state["before"], state["seen"]
        self.sum = None if state["sum"] is None else state["sum"].clone()


def unit_of(options: ScheduleOptions, stop: Stop) -> Unit:
    """What the schedule counts: what it says, else the first that the stop limits, else updates."""
    limited: list[Unit] = [unit for unit in get_args(Unit) if getattr(stop, unit) is not None]
    return options.unit or (limited or ["updates"])[0]


def horizon_of(options: ScheduleOptions, stop: Stop) -> float:
    """The schedule's horizon in its own unit: its own, or that of the stop. Raises RecipeError where neither says."""
    unit = unit_of(options, stop)
    value = options.horizon if options.horizon is not None else getattr(stop, unit)
    if value is None:
        raise RecipeError(
            f"the schedule counts {unit}, but neither it nor the stop says how many",
            where="learn.schedule",
            remedy=f"Give learn.schedule.horizon, or learn.stop.{unit}.",
        )
    return float(value)


def _warmed(
    options: WarmedOptions, stop: Stop, course: Callable[[float], float], horizon: float
) -> Callable[[Clock], float]:
    """`course` of x, 0 to 1 from the end of the warm-up to the horizon."""
    warmup, unit = options.warmup, unit_of(options, stop)
    span = max(horizon - warmup, 1e-12)

    def factor(clock: Clock) -> float:
        at = float(getattr(clock, unit))
        if at < warmup:
            # The first update must not have rate 0: updates count from 1, other units as they stand.
            return (at + 1) / (warmup + 1) if unit == "updates" else max(at / warmup, 1e-3)
        return course(min((at - warmup) / span, 1.0))

    return factor


def constant(options: ConstantOptions, stop: Stop) -> Schedule:
    """1 after the warm-up; needs no horizon."""
    return Course(_warmed(options, stop, lambda _: 1.0, 0.0))


def linear(options: LinearOptions, stop: Stop) -> Schedule:
    """1 - (1 - floor) x, x from 0 to 1 over the horizon."""
    return Course(_warmed(options, stop, lambda x: 1 - (1 - options.floor) * x, horizon_of(options, stop)))


def cosine(options: CosineOptions, stop: Stop) -> Schedule:
    """floor + (1 - floor) (1 + cos(pi x)) / 2, x from 0 to 1 over the horizon."""
    return Course(_warmed(options, stop, lambda x: _half_cosine(1.0, options.floor, x), horizon_of(options, stop)))


def step(options: StepOptions, stop: Stop) -> Schedule:
    """factor to the power of the drops so far. Raises RecipeError for both `every` and `at`."""
    if options.every is not None and options.at:
        raise RecipeError("give every or at, not both", where="learn.schedule")
    every, drops = options.every, options.at
    if every is None and not drops:
        # Two drops: the one at the horizon itself would come too late.
        third = horizon_of(options, stop) / 3
        drops = (third, 2 * third)

    unit = unit_of(options, stop)

    def factor(clock: Clock) -> float:
        at = float(getattr(clock, unit))
        # Units other than updates come as sums of parts: a drop is not to be missed by rounding.
        passed = sum(at >= drop - 1e-9 for drop in drops) if every is None else math.floor(at / every + 1e-9)
        return warmed(clock) * float(options.factor**passed)

    warmed = _warmed(options, stop, lambda _: 1.0, 0.0)
    return Course(factor)


def one_cycle(options: OneCycleOptions, stop: Stop) -> Schedule:
    """From start to 1 over the first `rise` of the horizon, then down to floor."""
    horizon, rise, unit = horizon_of(options, stop), options.rise, unit_of(options, stop)

    def factor(clock: Clock) -> float:
        x = min(float(getattr(clock, unit)) / horizon, 1.0)
        if x < rise:
            return _half_cosine(options.start, 1.0, x / rise)
        return _half_cosine(1.0, options.floor, (x - rise) / (1 - rise))

    return Course(factor)


def plateau(options: PlateauOptions, stop: Stop) -> Schedule:
    """`Plateau`; needs no horizon."""
    return Plateau(options, stop)


def adaptive(options: AdaptiveOptions, stop: Stop) -> Schedule:
    """`Adaptive`; needs no horizon."""
    return Adaptive(options, stop)


def _half_cosine(begin: float, end: float, x: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * x)) / 2
