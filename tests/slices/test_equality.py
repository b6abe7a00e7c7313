"""One update is the same however it is split: 1x8 accumulated, 8x1, and two ranks of four."""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.queues import Queue

import pytest
import torch
from torch import Tensor

from reinforge.engine.options import SGDOptions
from tests.slices.catalogue import SLICES

TOLERANCE = 1e-6
Result = tuple[dict[str, Tensor], dict[str, Tensor]]


def _train(name: str, microbatch: int | None) -> Result:
    """Gradients of each step in the first update, and the learner after ten updates of SGD."""
    piece = SLICES[name]
    settings = {"optimizer": SGDOptions(), "lr": 1e-2, "microbatch": microbatch}
    engine = piece.engine(updates=10, learn=settings)
    gradients: dict[str, Tensor] = {}
    apply = engine.updater._apply

    def watched(step, factor):  # type: ignore[no-untyped-def]
        gradients.setdefault(step.step.name, step.arena.full_gradients.clone())
        return apply(step, factor)

    engine.updater._apply = watched  # type: ignore[method-assign]
    engine.run()
    assert engine.updater.skipped == 0
    return gradients, {k: v.clone() for k, v in engine.learner.state_dict().items()}


def _rank(name: str, rank: int, port: int, queue: Queue[Result]) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    gradients, learner = _train(name, None)
    if rank == 0:
        # As plain arrays: a tensor would be shared through a file that dies with this process.
        queue.put(({k: v.numpy() for k, v in gradients.items()}, {k: v.numpy() for k, v in learner.items()}))  # type: ignore[misc]
    torch.distributed.destroy_process_group()


def _two_ranks(name: str) -> Result:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.slices.test_equality"])
    queue: Queue[Result] = context.Queue()
    ranks = [context.Process(target=_rank, args=(name, rank, port, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    gradients, learner = queue.get(timeout=120)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    return {k: torch.as_tensor(v) for k, v in gradients.items()}, {k: torch.as_tensor(v) for k, v in learner.items()}


def _distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).norm() / a.norm().clamp(min=1e-12))


def _assert_equal(one: Result, other: Result) -> None:
    assert one[0].keys() == other[0].keys()
    for step, gradient in one[0].items():
        assert gradient.norm() > 0, f"step {step} has no gradient"
        assert _distance(gradient, other[0][step]) <= TOLERANCE, f"gradients of step {step}"
    names = [name for name, value in one[1].items() if value.is_floating_point()]
    weights, others = (torch.cat([learner[name].flatten() for name in names]) for learner in (one[1], other[1]))
    assert _distance(weights, others) <= TOLERANCE
    for name in names:
        assert float((one[1][name] - other[1][name]).abs().max()) <= TOLERANCE, name


@pytest.mark.parametrize("name", SLICES)
def test_accumulated_equals_whole(name: str) -> None:
    _assert_equal(_train(name, None), _train(name, 1))


@pytest.mark.parametrize("name", SLICES)
def test_uneven_parts_equal_whole(name: str) -> None:
    _assert_equal(_train(name, None), _train(name, 3))


@pytest.mark.parametrize("name", SLICES)
def test_two_ranks_equal_one(name: str) -> None:
    _assert_equal(_train(name, None), _two_ranks(name))
