"""Schedules against torch.optim.lr_scheduler and closed forms."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from reinforge.core.contracts import Clock
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.options import (
    AdaptiveOptions,
    ConstantOptions,
    CosineOptions,
    LinearOptions,
    OneCycleOptions,
    PlateauOptions,
    ScheduleOptions,
    StepOptions,
)
from reinforge.engine.schedules import Adaptive, Plateau
from reinforge.errors import RecipeError
from reinforge.recipe.sections import Evaluate, Log, Stop
from reinforge.registry import REGISTRY
from tests.engine.problems import engine
from tests.slices.states import differences


def factors(options: ScheduleOptions, updates: int) -> list[float]:
    schedule = REGISTRY.build("schedule", options, Stop(updates=updates))
    return [schedule(Clock(updates=i)) for i in range(updates)]


def by_torch(make: Any, updates: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# One cycle reaches its end at its last step in torch, and at the horizon here: one step later.
RISE = (0.4 * 51 - 1) / 50


@pytest.mark.parametrize(
    ("options", "make"),
    [
        (ConstantOptions(), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        (LinearOptions(floor=0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 50)),
        (CosineOptions(floor=0.2), lambda o: lr_scheduler.CosineAnnealingLR(o, 50, 0.2)),
        (StepOptions(every=7, factor=0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
        (StepOptions(at=(5, 30), factor=0.5), lambda o: lr_scheduler.MultiStepLR(o, [5, 30], 0.5)),
        (StepOptions(), lambda o: lr_scheduler.MultiStepLR(o, [17, 34], 0.1)),
        (OneCycleOptions(rise=RISE, start=0.1, floor=0.001),
         lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=51, pct_start=0.4, div_factor=10, final_div_factor=100,
                                           cycle_momentum=False)),
    ],
)  # fmt: skip
def test_equals_torch(options: ScheduleOptions, make: Any) -> None:
    assert factors(options, 50) == pytest.approx(by_torch(make, 50))


def test_warm_up_rises_to_the_rate_and_never_starts_at_zero() -> None:
    found = factors(CosineOptions(warmup=10), 40)
    assert found[0] == pytest.approx(1 / 11)
    assert all(a < b for a, b in itertools.pairwise(found[:11]))
    assert found[10] == 1.0
    assert found[25] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_a_schedule_without_horizon_is_refused() -> None:
    for options in (LinearOptions(), OneCycleOptions(), StepOptions()):
        with pytest.raises(RecipeError, match="schedule"):
            REGISTRY.build("schedule", options, Stop(seconds=3))
    assert REGISTRY.build("schedule", LinearOptions(unit="epochs"), Stop(epochs=4))(Clock(epochs=1)) == 0.75
    with pytest.raises(RecipeError, match="not both"):
        REGISTRY.build("schedule", StepOptions(every=3, at=(4,)), Stop(epochs=3))


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(0, 4), st.integers(0, 3),
    st.sampled_from([0.0, 0.5]), st.sampled_from([0.0, 0.2]),
)  # fmt: skip
def test_plateau_equals_torch(values: list[float], patience: int, cooldown: int, delta: float, floor: float) -> None:
    options = PlateauOptions(factor=0.5, patience=patience, cooldown=cooldown, delta=delta, floor=floor)
    mine = REGISTRY.build("schedule", options, Stop())
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, cooldown=cooldown, threshold=delta, threshold_mode="abs",
        min_lr=floor, eps=0.0,
    )  # fmt: skip
    for value in values:
        mine.observe(value)
        theirs.step(value)
        assert mine(Clock(updates=99)) == optimizer.param_groups[0]["lr"]


class Bumpy:
    """A metric that stops improving at update 8; larger is better."""

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        return {"score": min(clock.updates, 8) - 100.0}


PLATEAU: dict[str, Any] = {
    "evaluate": Evaluate(every=2, unit="updates", monitor="score", mode="max"),
    "learn": {"schedule": PlateauOptions(factor=0.5, patience=1), "stop": Stop(updates=20)},
}


def test_plateau_follows_the_monitored_metric() -> None:
    one = engine(evaluator=Bumpy(), **PLATEAU)
    rates: list[float] = []
    step = one.updater.steps[0].optimizers[0].step
    one.updater.steps[0].optimizers[0].step = lambda lr, found=None: (rates.append(lr / 1e-3), step(lr, found))[1]  # type: ignore[func-returns-value, method-assign, misc]
    one.run()
    assert rates == pytest.approx([1.0] * 12 + [0.5] * 4 + [0.25] * 4)
    with pytest.raises(RecipeError, match="metric to watch"):
        engine(learn=PLATEAU["learn"])


def test_adaptive_in_closed_form() -> None:
    options = AdaptiveOptions(window=2, fall=0.5, rise=1.5, tolerance=0.1, floor=0.2)
    schedule = REGISTRY.build("schedule", options, Stop())
    seen = []
    for loss in (4.0, 4.2, 4.5, 4.4, 1.0, float("nan"), 1.0, 1.0, 1.0, 2.0, 9.0, 9.0, 99.0, 99.0):
        schedule.observe(torch.tensor(loss))
        seen.append(schedule(Clock(updates=5)))
    # Means 4.1, 4.45 (within a tenth), nan, 1 (against 4.45), 1.5, 9, 99.
    assert seen[1::2] == [1.0, 1.0, 0.5, 0.75, 0.375, 0.2, 0.2]
    assert seen[0] == 1.0


def test_adaptive_lowers_a_rate_that_is_too_high() -> None:
    from reinforge.engine.options import SGDOptions

    learn = {"optimizer": SGDOptions(), "lr": 0.35, "stop": Stop(updates=200)}
    adaptive = engine(learn={**learn, "schedule": AdaptiveOptions(window=8)})
    adaptive.run()
    assert isinstance(adaptive.schedule, Adaptive)
    assert adaptive.schedule.rate < 1.0


@pytest.mark.parametrize("at", [7, 8, 11, 15])
@pytest.mark.parametrize("kind", ["plateau", "adaptive"])
def test_resumes_exactly(at: int, kind: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = PLATEAU
    if kind == "adaptive":
        settings = {"learn": {"schedule": AdaptiveOptions(window=3, tolerance=0.0), "stop": Stop(updates=20)}}
    whole = engine(evaluator=Bumpy(), log=Log(updates=4), **settings)
    whole.run()
    assert isinstance(whole.schedule, Plateau | Adaptive)
    assert whole.schedule.rate < 1.0
    from reinforge.recipe.sections import Checkpoint

    every = Checkpoint(seconds=None, updates=1, keep=99)
    store = CheckpointStore(tmp_path, keep=99)
    engine(evaluator=Bumpy(), log=Log(updates=4), store=store, checkpoint=every, **settings).run()
    second = engine(evaluator=Bumpy(), log=Log(updates=4), **settings)
    second.load_state_dict(store.load(tmp_path / f"{at:012d}"))
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


def test_a_schedule_counts_what_the_stop_limits() -> None:
    """Cosine over 4 epochs, without a unit: half the rate after 2 of them, whatever the updates."""
    factor = REGISTRY.build("schedule", CosineOptions(), Stop(epochs=4))
    assert factor(Clock(updates=1000, epochs=2.0)) == pytest.approx(0.5)
    by_updates = REGISTRY.build("schedule", CosineOptions(unit="updates", horizon=2000), Stop(epochs=4))
    assert by_updates(Clock(updates=1000, epochs=3.0)) == pytest.approx(0.5)
    with pytest.raises(RecipeError, match="how many"):
        REGISTRY.build("schedule", CosineOptions(), Stop(seconds=10))
