"""fp16: the loss scale is found, kept out of the weights, and no overflow of its own is a divergence."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforge.core.contracts import Loss, Term
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.loop import Engine
from reinforge.engine.options import SGDOptions
from reinforge.engine.scaling import LossScale
from reinforge.errors import TrainingDiverged
from tests.engine.problems import Rows, Squares, engine, rows
from tests.engine.test_groups import Half
from tests.slices.states import differences

HALF: dict[str, Any] = {"precision": "fp16", "optimizer": SGDOptions(), "lr": 0.01}


def scaled(one: Engine, scale: float) -> Engine:
    """With the loss scale given."""
    for step in one.updater.steps:
        assert step.scale is not None
        step.scale.scale.fill_(scale)
    return one


def test_learns_as_fp32_does() -> None:
    whole, half = engine(Half(), learn={**HALF, "precision": "fp32"}), scaled(engine(Half(), learn=HALF), 256)
    start = whole.updater.steps[0].arena.masters.clone()
    whole.run()
    half.run()
    one, two = whole.updater.steps[0].arena.masters, half.updater.steps[0].arena.masters
    assert (one - two).norm() < 0.02 * (one - start).norm()
    assert {p.dtype for p in half.learner.parameters()} == {torch.float16}


class Faint(Squares):
    """A loss so small that its gradients are 0 in fp16."""

    def loss(self, learner: Any, batch: Any, counts: Any) -> Loss:
        made = super().loss(learner, batch, counts)
        return Loss({"squares": Term(made.terms["squares"].sum, 1e-8)}, made.items)


def test_small_gradients_survive_by_the_scale() -> None:
    moved = {}
    for precision, scale in (("fp32", None), ("fp16", 2.0**16), ("fp16", 1.0)):
        one = engine(Half(), objective=Faint(), learn={**HALF, "precision": precision, "lr": 1e6})
        if scale:
            scaled(one, scale)
        start = one.updater.steps[0].arena.masters.clone()
        one.run()
        moved[scale] = one.updater.steps[0].arena.masters - start
    wanted = moved[None].norm()
    assert (moved[2.0**16] - moved[None]).norm() < 0.05 * wanted
    assert (moved[1.0] - moved[None]).norm() > 0.5 * wanted


@pytest.mark.parametrize("waits", [True, False])
def test_an_overflow_halves_the_scale_changes_nothing_and_is_no_divergence(waits: bool) -> None:
    one = engine(Half(), updates=12, learn={**HALF, "max_nonfinite": 2})
    one.updater.waits = waits
    step = one.updater.steps[0]
    assert step.scale is not None
    step.scale.scale.fill_(2.0**22)
    weights = []
    one.objective.after_update = lambda learner, clock: weights.append(step.arena.masters.clone())  # type: ignore[method-assign]
    one.run()
    lowered = sum(bool(torch.equal(a, b)) for a, b in itertools.pairwise(weights))
    assert lowered >= 2
    assert float(step.scale.scale) == 2.0 ** (22 - lowered - 1)
    assert one.updater.skipped == 0
    assert not torch.equal(weights[-1], weights[0])


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_not_finite_at_scale_1_diverges(waits: bool) -> None:
    data = rows()
    data["y"][:] = float("inf")
    one = engine(Half(), updates=60, source=Rows(data, 8), learn={**HALF, "max_nonfinite": 3})
    one.updater.waits = waits
    with pytest.raises(TrainingDiverged, match="updates in a row"):
        one.run()
    assert one.clock.updates >= 16 + 2


def test_the_scale_doubles_after_two_thousand_updates_and_never_falls_below_1() -> None:
    scale, fine, broken = LossScale(torch.device("cpu")), torch.zeros(()), torch.ones(())
    for _ in range(1999):
        scale.update(fine)
    assert float(scale.scale) == 2.0**16
    scale.update(fine)
    assert float(scale.scale) == 2.0**17
    verdicts = [float(scale.update(broken)) for _ in range(20)]
    assert verdicts == [0.0] * 17 + [1.0] * 3
    assert float(scale.scale) == 1.0


def test_clips_the_gradient_and_not_its_scaled_image() -> None:
    whole = engine(Half(), learn={**HALF, "precision": "fp32", "clip": 0.05, "l2": 0.1})
    half = scaled(engine(Half(), learn={**HALF, "clip": 0.05, "l2": 0.1}), 256)
    whole.run()
    half.run()
    one, two = whole.updater.steps[0].arena.masters, half.updater.steps[0].arena.masters
    torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-4)


def test_resumes_exactly(tmp_path: Path) -> None:
    """After an overflow, too."""

    def made(**keywords: Any) -> Any:
        one = engine(Half(), learn={"precision": "fp16"}, **keywords)
        one.updater.steps[0].scale.scale.fill_(2.0**22)  # type: ignore[union-attr]
        return one

    whole = made()
    whole.run()
    made(updates=3, store=CheckpointStore(tmp_path)).run()
    second = made()
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    eager, compiled = (engine(Half(), learn={**HALF, "compile": c}) for c in ("off", "on"))
    eager.run()
    compiled.run()
    one, two = eager.updater.steps[0].arena.masters, compiled.updater.steps[0].arena.masters
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
