"""Averages of weights against torch's, what is evaluated, and that training itself goes on as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reinforge.core.contracts import Clock
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.options import ExponentialOptions, UniformOptions
from reinforge.recipe.sections import Evaluate
from tests.engine.problems import Squares, engine, network
from tests.engine.test_groups import Half, Normed
from tests.slices.states import differences


def weights(model: Any) -> list[torch.Tensor]:
    return [value.detach().clone() for value in model.state_dict().values() if value.is_floating_point()]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (ExponentialOptions(decay=0.9), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
        (ExponentialOptions(decay=0.5, start=7, every=3), {"multi_avg_fn": get_ema_multi_avg_fn(0.5)}),
        (UniformOptions(unit="updates"), {}),
        (UniformOptions(start=24, every=16, unit="samples"), {}),
    ],
)
@pytest.mark.parametrize("make", [network, Normed])
def test_equals_torch(options: Any, reference: dict[str, Any], make: Any) -> None:
    torch.manual_seed(0)
    averaged: list[Any] = []
    objective = Squares()

    def watch(learner: nn.Module, clock: Clock) -> None:
        if not averaged:
            averaged.append(AveragedModel(learner.model, use_buffers=True, **reference))  # type: ignore[arg-type]
        at = getattr(clock, options.unit) - options.start
        if at >= 0 and at % options.every == 0:
            averaged[0].update_parameters(learner.model)

    objective.after_update = watch  # type: ignore[method-assign]
    one = engine(make(), objective=objective, learn={"average": options, "lr": 0.05})
    one.run()
    with one.deployed():
        found = weights(one.learner.model)
    for mine, theirs in zip(found, weights(averaged[0].module), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


class Sum:
    """Evaluates to the sum of the first weight."""

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        return {"sum": float(next(learner.parameters()).double().sum())}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_average_is_evaluated_and_kept_as_best_and_training_is_as_without(precision: str) -> None:
    evaluate = Evaluate(every=4, unit="updates", monitor="sum")
    with_average = engine(
        Half(), evaluator=Sum(), evaluate=evaluate,
        learn={"average": ExponentialOptions(decay=0.8), "precision": precision, "lr": 0.05},
    )  # fmt: skip
    finished = with_average.run()
    without = engine(Half(), evaluator=Sum(), evaluate=evaluate, learn={"precision": precision, "lr": 0.05})
    other = without.run()
    assert not list(differences(dict(with_average.learner.state_dict()), dict(without.learner.state_dict())))
    assert not list(differences(with_average.updater.state_dict(), without.updater.state_dict()))
    assert finished.metrics != other.metrics
    with with_average.deployed():
        assert Sum().evaluate(with_average.learner, Clock()) == finished.metrics
    assert finished.best is not None
    assert finished.best_metrics["sum"] == pytest.approx(float(next(iter(finished.best.values())).double().sum()))


@pytest.mark.parametrize("at", [3, 7, 12])
@pytest.mark.parametrize("options", [ExponentialOptions(start=4), UniformOptions(start=30, every=16, unit="samples")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumes_exactly(at: int, options: Any, precision: str, tmp_path: Path) -> None:
    learn = {"average": options, "precision": precision}
    whole = engine(Half(), learn=learn)
    whole.run()
    engine(Half(), updates=at, learn=learn, store=CheckpointStore(tmp_path)).run()
    second = engine(Half(), learn=learn)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))
    with whole.deployed(), second.deployed():
        assert not list(differences(dict(whole.learner.state_dict()), dict(second.learner.state_dict())))


def test_before_it_begins_the_weights_stand_for_themselves() -> None:
    one = engine(network(), updates=5, learn={"average": UniformOptions(start=9, unit="epochs")})
    one.run()
    before = weights(one.learner.model)
    with one.deployed():
        assert all(torch.equal(a, b) for a, b in zip(before, weights(one.learner.model)))
