"""Every slice trains in bf16 beside fp32 masters, and resumes as exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reinforge.engine.checkpoint import CheckpointStore
from tests.slices.catalogue import SLICES
from tests.slices.states import differences

HALF = {"precision": "bf16"}


@pytest.mark.parametrize("name", SLICES)
def test_bf16_trains_and_resumes(name: str, tmp_path: Path) -> None:
    piece = SLICES[name]
    whole = piece.engine(learn=HALF)
    before = [step.arena.masters.clone() for step in whole.updater.steps]
    whole.run()
    assert whole.updater.skipped == 0
    for step, start in zip(whole.updater.steps, before):
        assert all(p.dtype == torch.bfloat16 for p in step.arena.parameters)
        assert step.arena.masters.dtype == torch.float32
        assert not torch.equal(step.arena.masters, start)
        # The weights are the masters, rounded; the masters are finer.
        assert torch.equal(step.arena.weights, step.arena.masters.bfloat16())
        assert not torch.equal(step.arena.weights.float(), step.arena.masters)
    piece.engine(learn=HALF, updates=9, store=CheckpointStore(tmp_path)).run()
    second = piece.engine(learn=HALF)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


def test_targets_keep_fp32_beside_bf16_weights() -> None:
    """A target that moves by half a percent would stand still in bf16."""
    engine = SLICES["sac"].engine(learn=HALF)
    start = {name: value.clone() for name, value in engine.learner.state_dict().items() if name.startswith("targets")}
    engine.run()
    after = engine.learner.state_dict()
    assert all(after[name].dtype == torch.float32 for name in start)
    moved = [name for name, value in start.items() if not torch.equal(value, after[name])]
    assert len(moved) == len(start)
