"""What the engine may keep beside weights and moments resumes exactly in every slice: averages, a schedule that watches
the loss, the loss scale, in the middle of an experience too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.options import AdaptiveOptions, ExponentialOptions, MuonOptions
from tests.slices.catalogue import SLICES
from tests.slices.states import differences

LEARN: dict[str, Any] = {
    "optimizer": MuonOptions(), "average": ExponentialOptions(decay=0.9), "schedule": AdaptiveOptions(window=3),
    "precision": "fp16",
}  # fmt: skip


@pytest.mark.parametrize("name", SLICES)
def test_resumes_with_all_of_it(name: str, tmp_path: Path) -> None:
    piece = SLICES[name]
    whole = piece.engine(learn=LEARN)
    before = [step.arena.masters.clone() for step in whole.updater.steps]
    whole.run()
    assert whole.updater.skipped == 0
    assert all(not step.arena.masters.equal(start) for step, start in zip(whole.updater.steps, before))
    piece.engine(learn=LEARN, updates=11, store=CheckpointStore(tmp_path)).run()
    second = piece.engine(learn=LEARN)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))
