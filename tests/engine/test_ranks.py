"""Two ranks make every decision together, whatever each of them sees."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reinforge.core.contracts import Clock
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.distributed import device_of
from reinforge.engine.options import SGDOptions
from reinforge.errors import CheckpointError, StorageError
from reinforge.recipe.sections import Checkpoint, Evaluate, Goal, Stop
from tests.engine.problems import Rows, engine, rows
from tests.slices.states import differences

Scenario = Callable[[int, Path], Any]


def _run(scenario: Scenario, folder: Path, rank: int, port: int, queue: Queue[tuple[int, Any]]) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    queue.put((rank, scenario(rank, folder)))
    torch.distributed.destroy_process_group()


def two_ranks(scenario: Scenario, folder: Path) -> list[Any]:
    """What the scenario gave on each rank. Ranks that wait for each other forever are an error."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.test_ranks"])
    queue: Queue[tuple[int, Any]] = context.Queue()
    ranks = [context.Process(target=_run, args=(scenario, folder, rank, port, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        found = dict(queue.get(timeout=45) for _ in ranks)
    finally:
        for process in ranks:
            process.join(10)
            process.kill()
    return [found[0], found[1]]


class Dropped(nn.Module):
    """Each rank draws what it drops from its own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class InterruptedOnOne(Rows):
    """The signal reaches rank 1 alone."""

    def next(self, clock: Clock) -> Any:
        if clock.updates == 6 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGINT)
        return super().next(clock)


def _interrupted_and_resumed(rank: int, folder: Path) -> Any:
    def made(**keywords: Any) -> Any:
        torch.manual_seed(1)
        return engine(Dropped(), **keywords)

    whole = made()
    whole.run()
    first = made(source=InterruptedOnOne(rows(), 8), store=CheckpointStore(folder))
    reason = first.run().reason
    second = made()
    state = CheckpointStore(folder).latest()
    assert state is not None
    second.load_state_dict(state)
    at = second.clock.updates
    second.run()
    return reason, at, list(differences(whole.state_dict(), second.state_dict())), torch.rand(()).item()


def test_an_interruption_on_one_rank_stops_both_and_resumes_exactly_with_dropout(tmp_path: Path) -> None:
    one, two = two_ranks(_interrupted_and_resumed, tmp_path)
    assert one[:3] == two[:3] == ("interrupted", 7, [])
    assert one[3] != two[3], "ranks must not drop out alike"


def _by_time(rank: int, folder: Path) -> Any:
    one = engine(learn={"stop": Stop(seconds=0.3)})
    # Rank 1 believes that time was up long ago.
    one.clock.seconds = 100.0 * rank
    finished = one.run()
    return finished.reason, finished.clock.updates


def test_time_is_up_when_rank_0_says_so(tmp_path: Path) -> None:
    one, two = two_ranks(_by_time, tmp_path)
    assert one == two
    assert one[0] == "seconds"


def _checkpoints(rank: int, folder: Path) -> Any:
    store = CheckpointStore(folder, keep=9)
    engine(updates=10, store=store, checkpoint=Checkpoint(seconds=None, updates=4)).run()
    return [int(path.name) for path in store.paths()]


def test_checkpoints_stand_where_the_recipe_says(tmp_path: Path) -> None:
    assert two_ranks(_checkpoints, tmp_path) == [[4, 8, 10]] * 2


def _full_disk(rank: int, folder: Path) -> Any:
    store = CheckpointStore(folder)

    def save(state: Any, *, updates: int) -> Path:
        raise StorageError("no space is left", where=str(folder))

    store.save = save  # type: ignore[method-assign]
    source = Rows(rows(), 8, end=6)
    finished = engine(source=source, store=store, checkpoint=Checkpoint(seconds=None, updates=3)).run()
    return finished.reason, finished.clock.updates


def test_a_disk_that_refuses_leaves_no_rank_waiting(tmp_path: Path) -> None:
    assert two_ranks(_full_disk, tmp_path) == [("end", 6)] * 2


class Unequal:
    """A metric that comes out differently on each rank."""

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        return {"error": 1.0 if os.environ["RANK"] == "0" and clock.updates < 6 else 0.0}


def _evaluated(rank: int, folder: Path) -> Any:
    finished = engine(
        evaluator=Unequal(), evaluate=Evaluate(every=2, unit="updates", monitor="error"),
        learn={"stop": Stop(updates=20, goal=Goal(metric="error", at_most=0.5))},
    ).run()  # fmt: skip
    return finished.reason, finished.clock.updates, finished.best_metrics


def test_an_evaluation_decides_the_same_on_all_ranks(tmp_path: Path) -> None:
    assert two_ranks(_evaluated, tmp_path) == [("goal", 6, {"error": 0.0})] * 2


class Short(Rows):
    """Every third batch has one row, which is no row for rank 0."""

    def next(self, clock: Clock) -> Any:
        taken = super().next(clock)
        if clock.updates % 3 != 2:
            return taken
        return type(taken)({name: value[:1] for name, value in taken.batch.items()}, 1)


def _without_rows(rank: int, folder: Path) -> Any:
    one = engine(updates=6, source=Short(rows(), 8), learn={"optimizer": SGDOptions()})
    one.run()
    return [outcome.items["error"].tolist() for outcome in one.source.heard]  # type: ignore[attr-defined]


def test_a_rank_without_rows_takes_part(tmp_path: Path) -> None:
    two = two_ranks(_without_rows, tmp_path)
    alone = engine(updates=6, source=Short(rows(), 8), learn={"optimizer": SGDOptions()})
    alone.run()
    for outcome, one, other in zip(alone.source.heard, *two, strict=True):  # type: ignore[attr-defined]
        assert one == other
        torch.testing.assert_close(outcome.items["error"], torch.tensor(one))


def _alone(rank: int, folder: Path) -> Any:
    engine(updates=4, store=CheckpointStore(folder)).run()


def test_another_number_of_ranks_can_not_go_on(tmp_path: Path) -> None:
    two_ranks(_alone, tmp_path)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    with pytest.raises(CheckpointError, match="written by 2 processes"):
        engine().load_state_dict(state)


def _generators(rank: int, folder: Path) -> Any:
    engine()
    return float(np.random.rand()), random.random()


def test_a_replicated_source_draws_alike_from_numpy_and_python(tmp_path: Path) -> None:
    one, two = two_ranks(_generators, tmp_path)
    assert one == two


def test_each_rank_has_its_own_device(monkeypatch: Any) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of("cuda") == torch.device("cuda", 1)
    assert device_of("cuda:0") == torch.device("cuda", 0)
    assert device_of("cpu") == torch.device("cpu")
