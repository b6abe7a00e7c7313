"""Learning-rate schedules: a factor as a function of the clock, with an explicit horizon in one of its units."""

from __future__ import annotations

import math
from collections.abc import Callable

from reinforge.core.contracts import Clock
from reinforge.engine.options import ConstantOptions, CosineOptions, LinearOptions, ScheduleOptions
from reinforge.errors import RecipeError
from reinforge.recipe.sections import Stop

Schedule = Callable[[Clock], float]


def horizon_of(options: ScheduleOptions, stop: Stop) -> float:
    """The schedule's horizon in its own unit: its own, or that of the stop. Raises RecipeError where neither says."""
    if options.horizon is not None:
        return options.horizon
    value = getattr(stop, options.unit)
    if value is None:
        raise RecipeError(
            f"the schedule counts {options.unit}, but neither it nor the stop says how many",
            where="learn.schedule",
            remedy=f"Give learn.schedule.horizon, or learn.stop.{options.unit}.",
        )
    return float(value)


def _with_warmup(options: ScheduleOptions, course: Callable[[float], float], horizon: float) -> Schedule:
    warmup, unit = options.warmup, options.unit
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
    return _with_warmup(options, lambda _: 1.0, options.warmup + 1)


def linear(options: LinearOptions, stop: Stop) -> Schedule:
    """1 - (1 - floor) x, x from 0 to 1 over the horizon."""
    return _with_warmup(options, lambda x: 1 - (1 - options.floor) * x, horizon_of(options, stop))


def cosine(options: CosineOptions, stop: Stop) -> Schedule:
    """floor + (1 - floor) (1 + cos(pi x)) / 2, x from 0 to 1 over the horizon."""
    return _with_warmup(
        options,
        lambda x: options.floor + (1 - options.floor) * (1 + math.cos(math.pi * x)) / 2,
        horizon_of(options, stop),
    )
