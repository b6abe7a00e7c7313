"""A run whose source can't be resumed bit for bit says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from reinforge.workflow.train import train
from tests.environments.probes import Drift


@pytest.fixture
def unseeded() -> Iterator[str]:
    name = "ReinforgeLoose-v0"
    gym.register(name, lambda seeded=False: Drift(seeded=seeded))  # type: ignore[arg-type]
    yield name
    gym.registry.pop(name)


@pytest.mark.parametrize("seeded", [False, True])
def test_a_run_says_that_it_is_not_exact(unseeded: str, seeded: bool, tmp_path: Path) -> None:
    recipe = {
        "name": "walk",
        "data": {"kind": "environment", "id": unseeded, "count": 2, "options": {"seeded": seeded}},
        "model": {"kind": "q-network", "sizes": [4]},
        "objective": {"kind": "dqn"},
        "source": {"kind": "replay", "learning_starts": 16},
        "learn": {"stop": {"updates": 2}, "batch": 4},
        "evaluate": {"episodes": 2},
    }
    run = train(recipe, output=tmp_path / "run")
    assert any("not exact" in note for note in run.status["notes"]) is not seeded
