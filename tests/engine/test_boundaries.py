"""What happens exactly at a boundary: an evaluation, a checkpoint, a limit or an interruption at the same update."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reinforge.core.contracts import Clock, Experience, Objective
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.logbook import Logbook
from reinforge.engine.options import LinearOptions, SGDOptions
from reinforge.recipe.sections import Checkpoint, Evaluate, Log, Patience, Stop
from tests.engine.problems import Rows, Squares, engine, rows
from tests.slices.states import differences


class Distance:
    """How far the clock is from update `best_at`."""

    def __init__(self, best_at: int = 8) -> None:
        self.best_at = best_at
        self.seen: list[int] = []

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        self.seen.append(clock.updates)
        return {"error": abs(clock.updates - self.best_at) / 10}


class Interrupting(Rows):
    """Ctrl-C comes while the source prepares the batch of update `at`."""

    at = 8

    def next(self, clock: Clock) -> Any:
        if clock.updates == self.at - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return super().next(clock)


@pytest.mark.parametrize("at", [7, 8, 9, 10])
def test_interrupted_where_an_evaluation_and_a_log_are_due(at: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "evaluate": Evaluate(every=4, unit="updates", monitor="error"), "log": Log(updates=4),
        "learn": {"stop": Stop(updates=30, patience=Patience(evaluations=3))},
    }  # fmt: skip
    whole = engine(evaluator=Distance(), **settings)
    whole.run()
    source = Interrupting(rows(), 8)
    source.at = at
    first = engine(evaluator=Distance(), source=source, store=CheckpointStore(tmp_path), **settings)
    assert first.run().reason == "interrupted"
    assert first.clock.updates == at
    second = engine(evaluator=Distance(), **settings)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


@pytest.mark.parametrize("at", [7, 8, 9, 19, 20])
def test_a_checkpoint_at_an_evaluation_or_at_the_end_resumes_exactly(at: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluate": Evaluate(every=4, unit="updates", monitor="error"), "log": Log(updates=4)}
    every = Checkpoint(seconds=None, updates=1, keep=99)
    whole = engine(evaluator=Distance(), store=CheckpointStore(tmp_path, keep=99), checkpoint=every, **settings)
    whole.run()
    second = engine(evaluator=Distance(), **settings)
    second.load_state_dict(CheckpointStore(tmp_path).load(tmp_path / f"{at:012d}"))
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


def test_parts_of_an_epoch_are_not_missed_by_rounding() -> None:
    """3 * 0.1 is more than 0.3 in binary."""

    class Tenths(Rows):
        def next(self, clock: Clock) -> Any:
            taken = super().next(clock)
            return Experience(taken.batch, samples=8, epochs=(clock.updates + 1) / 10)

    distance = Distance()
    engine(
        source=Tenths(rows(), 8), evaluator=distance, evaluate=Evaluate(every=0.1, unit="epochs"),
        learn={"stop": Stop(updates=12)},
    ).run()  # fmt: skip
    assert distance.seen == list(range(1, 13))


def test_small_improvements_are_the_best_weights_but_do_not_reset_patience() -> None:
    class Slow:
        def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
            return {"error": 1 - clock.updates / 1000}

    one = engine(
        evaluator=Slow(), evaluate=Evaluate(every=1, unit="updates", monitor="error"),
        learn={"stop": Stop(updates=50, patience=Patience(evaluations=3, delta=0.1))},
    )  # fmt: skip
    finished = one.run()
    assert (finished.reason, finished.clock.updates) == ("patience", 4)
    assert finished.best_metrics == {"error": 1 - 4 / 1000}


class Twice(Squares):
    """Two updates from every experience."""

    def updates(self, experience: Experience, generator: torch.Generator, clock: Clock) -> Any:
        for _ in range(2):
            self.outcomes.append((yield experience.batch))


@pytest.mark.parametrize("stop", [Stop(samples=24), Stop(epochs=3 / 8)])
def test_an_experience_that_was_begun_is_used_up_at_a_limit_in_data(stop: Stop) -> None:
    class Positions(Rows):
        def next(self, clock: Clock) -> Any:
            taken = super().next(clock)
            return Experience(taken.batch, samples=8, epochs=(clock.samples + 8) / 64)

    one = engine(objective=Twice(), source=Positions(rows(), 8), learn={"stop": stop})
    finished = one.run()
    assert (finished.clock.samples, finished.clock.updates) == (24, 6)


@pytest.mark.parametrize("objective", [Squares(), Twice()])
def test_a_schedule_in_samples_begins_at_the_full_rate_and_wastes_no_experience(objective: Objective) -> None:
    """The course counts what was learned from before; the last experience must not be learned at rate 0."""
    one = engine(
        objective=objective,
        learn={"stop": Stop(samples=32), "optimizer": SGDOptions(), "schedule": LinearOptions(unit="samples")},
    )
    rates: list[float] = []
    step = one.updater.steps[0].optimizers[0].step
    one.updater.steps[0].optimizers[0].step = lambda lr, found=None: (rates.append(lr / 1e-3), step(lr, found))[1]  # type: ignore[func-returns-value, method-assign, misc]
    one.run()
    times = 2 if isinstance(objective, Twice) else 1
    assert rates == pytest.approx([rate for rate in (1, 0.75, 0.5, 0.25) for _ in range(times)])


def test_what_was_best_before_a_restart_is_what_ships(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluate": Evaluate(every=4, unit="updates", monitor="error")}
    whole = engine(evaluator=Distance(), **settings).run()
    first = engine(evaluator=Distance(), updates=13, store=CheckpointStore(tmp_path), **settings)
    first.run()
    second = engine(evaluator=Distance(), **settings)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    resumed = second.run()
    assert whole.best is not None
    assert resumed.best is not None
    assert not list(differences(whole.best, resumed.best))
    assert whole.best_metrics == resumed.best_metrics == {"error": 0.0}


def test_a_log_that_spans_a_restart_is_that_of_the_whole_run(tmp_path: Path) -> None:
    log, rows_of = Log(updates=5), {}
    for name, stops in (("whole", [20]), ("parts", [13, 20])):
        folder = tmp_path / name
        folder.mkdir()
        for updates in stops:
            store = CheckpointStore(folder / "checkpoints")
            one = engine(updates=20, log=log, logbook=Logbook(folder, log), store=store)
            if (state := store.latest()) is not None:
                one.load_state_dict(state)
            if updates < 20:
                one.source = Interrupting(rows(), 8)
                one.source.at = updates
            one.run()
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        rows_of[name] = [{k: v for k, v in line.items() if "second" not in k} for line in lines]
    assert rows_of["whole"] == rows_of["parts"]
    assert [line["updates"] for line in rows_of["whole"]] == [5, 10, 15, 20]
