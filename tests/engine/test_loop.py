"""The loop: stopping, non-finite gradients, evaluation without trace, interruption, compilation."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reinforge.core.contracts import Clock
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.logbook import Logbook
from reinforge.engine.options import SGDOptions
from reinforge.errors import ComponentError, RecipeError, StorageError, TrainingDiverged
from reinforge.recipe.sections import Checkpoint, Evaluate, Goal, Log, Patience, StepOverride, Stop
from tests.engine.problems import Rows, Squares, engine, network, rows
from tests.slices.states import differences


def test_matches_least_squares() -> None:
    """Gradient descent on a linear model ends at the closed form."""
    data = rows(64)
    model = nn.Linear(3, 1)
    engine(model, batch=64, updates=2000, source=Rows(data, 64), learn={"optimizer": SGDOptions(), "lr": 0.1}).run()
    x = torch.cat([data["x"], torch.ones(64, 1)], 1)
    solution = torch.linalg.lstsq(x, data["y"][:, None]).solution[:, 0]
    torch.testing.assert_close(torch.cat([model.weight[0], model.bias]), solution, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("stop", "updates", "reason"),
    [
        (Stop(updates=7), 7, "updates"),
        (Stop(epochs=1), 9, "epochs"),
        (Stop(samples=20), 3, "samples"),
        (Stop(loss_below=1e9), 2, "loss"),
    ],
)
def test_stops(stop: Stop, updates: int, reason: str) -> None:
    finished = engine(learn={"stop": stop}, log=Log(updates=2)).run()
    assert (finished.clock.updates, finished.reason) == (updates, reason)


def test_stops_at_the_end_of_the_source() -> None:
    source = Rows(rows(), 8, end=5)
    finished = engine(source=source).run()
    assert (finished.reason, finished.clock.updates, source.published) == ("end", 5, 6)


def test_stops_by_time() -> None:
    finished = engine(learn={"stop": Stop(seconds=0.05)}).run()
    assert finished.reason == "seconds"
    assert 0.05 <= finished.clock.seconds < 5


class Falling:
    """An evaluator whose metric improves for a while; it uses up randomness and looks at the mode."""

    def __init__(self, best_at: int = 6) -> None:
        self.best_at, self.seen = best_at, []  # type: ignore[var-annotated]

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        assert not learner.training
        assert not torch.is_grad_enabled()
        torch.rand(100)
        self.seen.append(clock.updates)
        return {"error": abs(clock.updates - self.best_at) / 10}


def test_patience_keeps_the_best_weights() -> None:
    one = engine(
        learn={"stop": Stop(updates=50, patience=Patience(evaluations=3))}, evaluator=Falling(),
        evaluate=Evaluate(every=2, unit="updates", monitor="error"),
    )  # fmt: skip
    finished = one.run()
    assert (finished.reason, finished.clock.updates) == ("patience", 12)
    assert finished.best_metrics == {"error": 0.0}
    six = engine(updates=6)
    six.run()
    assert finished.best is not None
    assert not list(differences(finished.best, dict(six.learner.model.state_dict())))  # type: ignore[union-attr,operator]


def test_goal_and_unknown_metric() -> None:
    stop = Stop(updates=50, goal=Goal(metric="error", at_most=0.2))
    finished = engine(learn={"stop": stop}, evaluator=Falling(), evaluate=Evaluate(every=1, unit="updates")).run()
    assert (finished.reason, finished.clock.updates) == ("goal", 4)
    with pytest.raises(RecipeError, match="no metric 'accuracy'"):
        engine(evaluator=Falling(), evaluate=Evaluate(monitor="accuracy")).run()
    with pytest.raises(RecipeError, match="monitor"):
        engine(learn={"stop": Stop(updates=5, patience=Patience())})


class Dropped(nn.Module):
    """Training draws random numbers, so a disturbance would show."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_evaluating_often_or_never_gives_the_same_weights() -> None:
    learners = []
    for every in (1, 5, None):
        torch.manual_seed(1)
        one = engine(Dropped(), evaluator=Falling(), evaluate=Evaluate(every=every, unit="updates"))
        one.run()
        learners.append(dict(one.learner.state_dict()))
    assert not list(differences(learners[0], learners[1]))
    assert not list(differences(learners[0], learners[2]))


def test_evaluates_when_due_and_at_the_end_once() -> None:
    falling = Falling()
    engine(updates=10, evaluator=falling, evaluate=Evaluate(every=4, unit="updates")).run()
    assert falling.seen == [4, 8, 10]
    falling = Falling()
    engine(updates=8, evaluator=falling, evaluate=Evaluate(every=4, unit="updates")).run()
    assert falling.seen == [4, 8]


def test_non_finite_gradients_change_nothing_and_are_counted() -> None:
    data = rows()
    data["y"][8:16] = float("inf")
    one = engine(updates=8, source=Rows(data, 8), learn={"optimizer": SGDOptions(momentum=0.9)})
    states = []
    one.objective.after_update = lambda learner, clock: states.append(  # type: ignore[method-assign]
        {k: v.clone() for k, v in learner.state_dict().items()}
    )
    one.run()
    assert not list(differences(states[0], states[1]))
    assert list(differences(states[1], states[2]))
    assert one.updater.skipped == 1
    assert [o.skipped for o in one.source.heard] == [False, True] + [False] * 6  # type: ignore[attr-defined]


def test_several_in_a_row_stop_the_run(tmp_path: Path) -> None:
    data = rows()
    data["y"][24:] = float("nan")
    one = engine(
        updates=8, source=Rows(data, 8), store=CheckpointStore(tmp_path), checkpoint=Checkpoint(updates=1, keep=9),
        learn={"max_nonfinite": 3},
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match="3 updates in a row") as caught:
        one.run()
    assert str(tmp_path / "000000000005") in str(caught.value)
    assert one.clock.updates == 5


def test_nothing_counts_gives_no_gradient_instead_of_nan() -> None:
    data = {**rows(), "weight": torch.zeros(64)}
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one = engine(model, source=Rows(data, 8), learn={"optimizer": SGDOptions()})
    one.run()
    assert one.updater.skipped == 0
    assert not list(differences(before, dict(model.state_dict())))


def test_weighs_by_valid_rows_not_by_microbatches() -> None:
    """The mean of microbatch means is not the mean."""
    data = rows()
    data["weight"][::3] = 0
    data["weight"][0:7] = 0
    whole = engine(network(), source=Rows(data, 8), learn={"optimizer": SGDOptions()})
    parts = engine(network(), source=Rows(data, 8), learn={"optimizer": SGDOptions(), "microbatch": 3})
    whole.run()
    parts.run()
    for a, b in zip(whole.learner.parameters(), parts.learner.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_outcomes_reach_objective_and_source_in_order_of_rows() -> None:
    source, objective = Rows(rows(), 8), Squares()
    engine(updates=2, source=source, objective=objective, learn={"microbatch": 3}).run()
    assert objective.outcomes == source.heard[:1]
    data, model = rows(), network()
    expected = (model(data["x"][:8])[:, 0] - data["y"][:8]).square()
    torch.testing.assert_close(source.heard[0].items["error"], expected.detach())
    torch.testing.assert_close(source.heard[0].means["learn/squares"], expected.detach().mean())


def test_a_coupled_term_refuses_to_be_split() -> None:
    with pytest.raises(ComponentError, match="can't be split"):
        engine(objective=Squares(coupled=True), learn={"microbatch": 4}).run()
    engine(objective=Squares(coupled=True)).run()


def test_a_step_every_other_update() -> None:
    one = engine(updates=6, objective=Squares(every=2), learn={"optimizer": SGDOptions()})
    two = engine(updates=6, objective=Squares(), learn={"optimizer": SGDOptions()})
    one.run()
    two.run()
    assert one.updater.steps[0].window_updates == 0
    assert list(differences(dict(one.learner.state_dict()), dict(two.learner.state_dict())))


def test_an_unknown_step_override_is_refused() -> None:
    with pytest.raises(ComponentError, match="no step 'actor'"):
        engine(learn={"steps": {"actor": StepOverride(lr=1.0)}})


def test_replacing_a_parameter_is_noticed() -> None:
    one = engine()
    next(one.learner.parameters()).data = torch.zeros(8, 3)
    with pytest.raises(RuntimeError, match="replaced"):
        one.updater.steps[0].arena.check_views()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_checkpoints_and_resumes_exactly(number: int, tmp_path: Path) -> None:
    whole = engine()
    whole.run()

    class Interrupting(Rows):
        def next(self, clock: Clock) -> Any:
            if clock.updates == 9:
                os.kill(os.getpid(), number)
            return super().next(clock)

    before = signal.getsignal(number)
    one = engine(source=Interrupting(rows(), 8), store=CheckpointStore(tmp_path))
    finished = one.run()
    assert finished.reason == "interrupted"
    assert finished.clock.updates == 10
    assert signal.getsignal(number) is before
    two = engine()
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    two.load_state_dict(state)
    two.run()
    assert not list(differences(whole.state_dict(), two.state_dict()))


def test_a_full_disk_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, notes = CheckpointStore(tmp_path), []
    real = store.save

    def save(state: Any, *, updates: int) -> Path:
        if 3 <= updates < 20:
            raise StorageError("no space is left", where=str(tmp_path))
        return real(state, updates=updates)

    monkeypatch.setattr(store, "save", save)
    one = engine(store=store, checkpoint=Checkpoint(updates=1), note=notes.append)
    assert one.run().reason == "updates"
    assert len(notes) == 17
    state = store.latest()
    assert state is not None
    assert state["clock"]["updates"] == 20


def test_logs_are_rows_and_resuming_repeats_none(tmp_path: Path) -> None:
    log = Log(updates=5, csv=True)
    store = CheckpointStore(tmp_path / "checkpoints")
    engine(updates=13, log=log, logbook=Logbook(tmp_path, log), store=store).run()
    Logbook(tmp_path, log).write({"updates": 999})
    two = engine(updates=20, log=log, logbook=Logbook(tmp_path, log), store=store)
    state = store.latest()
    assert state is not None
    two.load_state_dict(state)
    two.run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["updates"] for line in lines] == [5, 10, 13, 15, 20]
    assert all(line["loss"] == line["learn/squares"] > 0 for line in lines)
    header, *table = (tmp_path / "log.csv").read_text().splitlines()
    assert len(table) == 5
    assert "learn/squares" in header


def test_compiled_equals_eager() -> None:
    eager = engine(network(), learn={"optimizer": SGDOptions(), "compile": "off"})
    compiled = engine(network(), learn={"optimizer": SGDOptions(), "compile": "on"})
    eager.run()
    compiled.run()
    for a, b in zip(eager.learner.parameters(), compiled.learner.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_compilation_weighs_the_length_of_the_run() -> None:
    from reinforge.engine.compilation import pays
    from reinforge.recipe.sections import Learn

    small, cpu = network(), torch.device("cpu")
    assert not pays(Learn(stop=Stop(updates=1000)), small, cpu)
    assert pays(Learn(stop=Stop(updates=10**9)), small, cpu)
    assert not pays(Learn(stop=Stop(seconds=10)), small, cpu)
    assert pays(Learn(stop=Stop(seconds=10), compile="on"), small, cpu)
    assert not pays(Learn(stop=Stop(updates=10**9), compile="off"), small, cpu)
