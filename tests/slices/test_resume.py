"""run(2n) equals run(n), kill, resume(n), bit for bit, for every slice."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from reinforge.engine.checkpoint import CheckpointStore
from reinforge.recipe.sections import Checkpoint
from tests.slices.catalogue import SLICES
from tests.slices.states import differences


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("at", [1, 7, 12])
def test_resumed_equals_uninterrupted(name: str, at: int, tmp_path: Path) -> None:
    piece = SLICES[name]
    whole = piece.engine()
    whole.run()

    first = piece.engine(updates=at, store=CheckpointStore(tmp_path))
    first.run()
    second = piece.engine(store=CheckpointStore(tmp_path))
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    assert second.clock.updates == at
    second.run()
    assert second.clock.updates == piece.updates
    assert not list(differences(whole.state_dict(), second.state_dict()))


@pytest.mark.parametrize("name", SLICES)
def test_another_seed_gives_other_weights(name: str) -> None:
    """The comparison can fail."""
    piece = SLICES[name]
    one, two = piece.engine(), piece.engine(seed=1)
    one.run()
    two.run()
    assert any("learner" in where for where in differences(one.state_dict(), two.state_dict()))


def _train(name: str, folder: Path) -> None:
    """What the killed process does: go on from the newest checkpoint, writing one after each update."""
    store = CheckpointStore(folder)
    engine = SLICES[name].engine(store=store, checkpoint=Checkpoint(seconds=None, updates=1))
    if (state := store.latest()) is not None:
        engine.load_state_dict(state)
    engine.run()


def _kill_until_done(name: str, folder: Path, kills: int, rng: random.Random, longest: float) -> tuple[int, float]:
    """Train, and kill at moments until `longest` seconds; how often it was hit, and how long to wait from now on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.slices.test_resume", "torch._dynamo"])
    done = 0
    while True:
        child = context.Process(target=_train, args=(name, folder))
        began = time.perf_counter()
        child.start()
        if done < kills:
            child.join(rng.uniform(0.02, longest))
            if child.is_alive():
                child.kill()
                done += 1
            else:
                # It finished before the blow: it was worth nothing, so strike earlier.
                longest = max(0.05, (time.perf_counter() - began) * 0.8)
        child.join(120)
        assert child.exitcode is not None
        if child.exitcode == 0:
            return done, longest
        assert child.exitcode == -9, child.exitcode


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(name: str, kills: int, tmp_path: Path) -> None:
    piece = SLICES[name]
    whole = piece.engine()
    whole.run()
    rng = random.Random(f"{name}{kills}")
    total, attempts, longest = 0, 0, 0.6
    while total < kills:
        folder = tmp_path / str(attempts)
        hit, longest = _kill_until_done(name, folder, kills - total, rng, longest)
        total += hit
        attempts += 1
        state = CheckpointStore(folder).latest()
        assert state is not None
        resumed = piece.engine()
        resumed.load_state_dict(state)
        assert resumed.run().reason == "updates"
        assert not list(differences(whole.state_dict(), resumed.state_dict()))
        assert attempts < 50
