"""A short look at an environment before learning: what it breaks, it says; what it can't promise, it notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from reinforge.environments.check import check
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.errors import EnvironmentFault
from reinforge.workflow.doctor import doctor
from reinforge.workflow.run import Run
from reinforge.workflow.train import train
from tests.environments.probes import Drift, Faulty, Late


class Loose(gym.Env[Any, Any]):
    """Its first observation follows from the seed, its steps don't; it leaves its bounds."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return np.float32([2 + np.random.random()]), 1.0, False, bool(np.random.random() < 0.1), {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    names = {"tests/Faulty-v0": Faulty, "tests/Drift-v0": Drift, "tests/Loose-v0": Loose, "tests/Late-v0": Late}
    for name, maker in names.items():
        gym.register(name, maker)
    yield
    for name in names:
        gym.registry.pop(name)


def _recipe(name: str, **options: Any) -> dict[str, Any]:
    return {
        "name": "checked",
        "data": {"kind": "environment", "id": name, "count": 2, "options": options},
        "model": {"kind": "q-network", "sizes": [4]},
        "objective": {"kind": "dqn"},
        "source": {"kind": "replay", "learning_starts": 16, "capacity": 100},
        "learn": {"stop": {"updates": 60}, "batch": 4},
        "evaluate": {"episodes": 2, "seed": 10},
    }


FAULTS = [
    ("dtype", "float64"), ("nan", "NaN"), ("shape", "shape"), ("object", "shape"), ("reward text", "not a number"),
    ("reward none", "NaN"), ("reward nan", "NaN"), ("flag", "terminated"), ("raises", "boom"),
    ("four values", "4 values instead of five"), ("raises in reset", "lost"), ("old reset", "instead of an obser"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "words"), FAULTS)
def test_a_broken_contract_is_told_before_anything_is_learned(kind: str, words: str, tmp_path: Path) -> None:
    """By the check itself, by doctor and by train; of a run that learned nothing, nothing stays."""
    options = EnvironmentOptions(id="tests/Faulty-v0", options={"kind": kind})
    with pytest.raises(EnvironmentFault, match=words) as caught:
        check(options)
    assert caught.value.where == "environment 'tests/Faulty-v0'"
    assert caught.value.remedy
    assert ("probes.py" in str(caught.value)) == kind.startswith("raises")
    recipe = _recipe("tests/Faulty-v0", kind=kind)
    with pytest.raises(EnvironmentFault, match=words):
        doctor(recipe, seconds=0.1)
    with pytest.raises(EnvironmentFault, match=words):
        train(recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_keeps_the_contract_is_measured() -> None:
    found = check(EnvironmentOptions(id="tests/Drift-v0"))
    assert found.repeats
    assert found.outside == ()
    assert 0 < found.seconds < 0.05
    assert check(EnvironmentOptions(id="tests/Drift-v0"), seed=3).repeats


@pytest.mark.parametrize(("name", "options"), [("tests/Loose-v0", {}), ("tests/Drift-v0", {"seeded": False})])
def test_an_environment_that_breaks_its_seed_is_noticed(name: str, options: dict[str, Any]) -> None:
    asked = EnvironmentOptions(id=name, options=options)
    assert not check(asked).repeats
    assert not SynchronousEnvironments(lambda: gym.make(name, **options), 2, 0, "probe").exact
    lines = [one for one in doctor(_recipe(name, **options), seconds=0.1).checks if one.name == "environment"]
    assert any(one.verdict == "open" and "another episode" in one.found for one in lines)
    assert any("bounds" in one.found for one in lines) == (name == "tests/Loose-v0")


def test_training_notes_what_leaves_its_bounds_and_is_not_exact(tmp_path: Path) -> None:
    run = train(_recipe("tests/Loose-v0"), output=tmp_path / "run")
    notes = "\n".join(run.status["notes"])
    assert "observations leave the bounds of their space (observation)" in notes
    assert "not exact" in notes


def test_doctor_tells_how_long_a_step_takes() -> None:
    lines = [one for one in doctor(_recipe("tests/Drift-v0"), seconds=0.1).checks if one.name == "environment"]
    assert [one.verdict for one in lines] == ["good"]
    assert "ms a step; the same seed gives the same episode" in lines[0].found


@pytest.mark.parametrize("how", ["synchronous", "processes"])
@pytest.mark.parametrize("source", ["replay", "rollout"])
def test_a_fault_in_the_midst_of_training_saves_the_run_and_says_how_to_go_on(
    how: str, source: str, tmp_path: Path
) -> None:
    """Then the environment is mended, and the run ends well."""
    flag, folder = tmp_path / "mended", tmp_path / "run"
    recipe = _recipe("tests/Late-v0", steps=150, mended=str(flag))
    recipe["data"]["vectorization"] = how
    recipe["checkpoint"] = {"updates": 1000}
    if source == "rollout":
        recipe |= {"source": {"kind": "rollout", "steps": 8}, "model": {"kind": "actor-critic", "sizes": [4]}}
        recipe["objective"] = {"kind": "ppo", "epochs": 1, "minibatches": 1}
    with pytest.raises(EnvironmentFault, match="the gripper jammed") as caught:
        train(recipe, output=folder)
    assert f"--resume {folder}" in str(caught.value)
    assert 'raise RuntimeError("the gripper jammed")' in str(caught.value)
    run = Run.open(folder)
    assert run.status["state"] == "interrupted"
    assert "in step" in run.status["fault"]
    assert "probes.py" in run.status["fault"]
    flag.touch()
    done = train(resume=folder)
    assert done.finished
    assert done.status["clock"]["updates"] == 60
