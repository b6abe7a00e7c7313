"""Gradients that are not finite in objectives of several steps, and weights that are not worth saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Loss, Step, Term
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.options import SGDOptions
from reinforge.errors import TrainingDiverged
from reinforge.recipe.sections import Checkpoint, Log
from tests.engine.problems import Rows, Squares, engine, network, rows
from tests.slices.states import differences


class Critic(Squares):
    """A critic whose loss may break, then an actor whose loss never does."""

    def build(self, model: nn.Module) -> nn.Module:
        learner = super().build(model)
        learner.critic = network(seed=1)
        return learner

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        critic, model = learner.get_submodule("critic"), learner.get_submodule("model")
        return [
            Step("critic", list(critic.parameters()), self._critic),
            Step("actor", list(model.parameters()), self._actor),
        ]

    def _critic(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        error = learner.critic(batch["x"])[:, 0] - batch["y"]  # type: ignore[operator]
        return Loss({"squares": Term(error.square().sum())}, {"error": error.detach()})

    def _actor(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        return Loss({"squares": Term(learner.model(batch["x"]).square().sum())})  # type: ignore[operator]


def test_a_step_that_always_breaks_ends_the_run_though_another_does_not(tmp_path: Path) -> None:
    data = rows()
    data["y"][24:] = float("nan")
    one = engine(objective=Critic(), source=Rows(data, 8), learn={"max_nonfinite": 4})
    with pytest.raises(TrainingDiverged, match=r"4 updates in a row .*'critic'"):
        one.run()
    assert one.clock.updates == 6


def test_a_broken_critic_changes_no_critic_and_the_outcome_says_so() -> None:
    data = rows()
    data["y"][8:16] = float("nan")
    critics: list[dict[str, Tensor]] = []
    objective = Critic()
    objective.after_update = lambda learner, clock: critics.append(  # type: ignore[method-assign]
        {k: v.clone() for k, v in learner.get_submodule("critic").state_dict().items()}
    )
    one = engine(updates=3, objective=objective, source=Rows(data, 8), learn={"optimizer": SGDOptions()})
    one.run()
    assert not list(differences(critics[0], critics[1]))
    assert list(differences(critics[1], critics[2]))
    assert [outcome.skipped for outcome in one.source.heard] == [False, True, False]  # type: ignore[attr-defined]


def test_how_many_broke_in_a_row_survives_a_restart(tmp_path: Path) -> None:
    data = rows()
    data["y"][24:] = float("nan")
    settings: dict[str, Any] = {"objective": Critic(), "learn": {"max_nonfinite": 4}}
    one = engine(updates=5, source=Rows(data, 8), store=CheckpointStore(tmp_path), **settings)
    one.run()
    two = engine(updates=20, source=Rows(data, 8), **settings)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    two.load_state_dict(state)
    with pytest.raises(TrainingDiverged, match="4 updates in a row"):
        two.run()
    assert two.clock.updates == 6


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path: Path) -> None:
    """A finite gradient times a huge rate overflows the weights; the skipping begins only with the next update."""
    data = rows()
    data["y"][24:32] = 1e18
    one = engine(
        source=Rows(data, 8), store=CheckpointStore(tmp_path), checkpoint=Checkpoint(updates=1, keep=2),
        learn={"optimizer": SGDOptions(), "lr": 1e25, "max_nonfinite": 5, "clip": None},
    )  # fmt: skip
    one.updater.steps[0].lr = 1e-2
    fit = one.objective.after_update

    def after(learner: nn.Module, clock: Clock) -> None:
        if clock.updates == 3:
            one.updater.steps[0].lr = 1e25
        fit(learner, clock)

    one.objective.after_update = after  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match="000000000003"):
        one.run()
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    assert all(bool(torch.isfinite(value).all()) for value in state["learner"].values())


def test_a_coupled_term_is_taken_as_it_is() -> None:
    """It is no sum, so it is divided by nothing: neither its gradient nor its mean."""
    objective = Squares(coupled=True)
    model, data = network(), rows()
    error = (model(data["x"][:8])[:, 0] - data["y"][:8]).square().sum()
    expected = torch.autograd.grad(error, list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    one = engine(model, updates=1, objective=objective, learn={"optimizer": SGDOptions(), "lr": 1e-3})
    one.run()
    for p, start, gradient in zip(model.parameters(), before, expected):
        torch.testing.assert_close(p.detach(), start - 1e-3 * gradient)
    torch.testing.assert_close(one.source.heard[0].means["learn/squares"], error.detach())  # type: ignore[attr-defined]


def test_what_is_skipped_without_waiting_for_the_device_is_counted_all_the_same() -> None:
    """Between two logs nothing waits; then every skipped update counts, not the last one alone."""
    data = rows()
    data["y"][8:24] = float("inf")
    data["y"][40:48] = float("inf")
    settings: dict[str, Any] = {"learn": {"optimizer": SGDOptions(momentum=0.9)}, "log": Log(updates=8)}
    one = engine(updates=8, source=Rows(data, 8), **settings)
    two = engine(updates=8, source=Rows(data, 8), **settings)
    two.updater.waits = False
    one.run()
    two.run()
    assert one.updater.skipped == two.updater.skipped == 3
    assert not list(differences(dict(one.learner.state_dict()), dict(two.learner.state_dict())))
    assert two.updater.steps[0].in_a_row == 0


def test_many_in_a_row_without_waiting_end_the_run_at_the_next_log() -> None:
    data = rows()
    data["y"][16:] = float("inf")
    one = engine(updates=40, source=Rows(data, 8), log=Log(updates=5), learn={"max_nonfinite": 3})
    one.updater.waits = False
    with pytest.raises(TrainingDiverged, match="3 updates in a row"):
        one.run()
    assert one.clock.updates == 5
