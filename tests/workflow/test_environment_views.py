"""What a policy learned to see is in its bundle: raw images in, the same actions out, one by one with its memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from reinforge.bundle.loading import load
from reinforge.environments.build import build, single
from reinforge.environments.observations import tensors
from reinforge.environments.options import EnvironmentOptions
from reinforge.workflow.train import train
from tests.environments.test_views import Camera


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("tests/Filmed-v0", lambda: Camera((20, 18, 3)), max_episode_steps=6)
    yield
    gym.registry.pop("tests/Filmed-v0")


def test_raw_images_become_the_actions_that_were_taken_in_the_environment(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "name": "filmed",
        "data": {
            "kind": "environment", "id": "tests/Filmed-v0", "count": 2, "images": {"size": [9, 8], "grey": True},
            "reward": {"normalise": True},
        },
        "model": {"kind": "q-network", "sizes": [8], "frames": 3, "encoders": {"camera": {"kind": "flatten"}}},
        "objective": {"kind": "dqn"},
        "source": {"kind": "replay", "learning_starts": 16, "capacity": 100},
        "learn": {"stop": {"updates": 20}, "batch": 8, "lr": 1e-2},
        "evaluate": {"episodes": 4, "seed": 7},
    }  # fmt: skip
    run = train(recipe, output=tmp_path / "run")
    bundle = load(run.bundle_path)
    assert bundle.signature.inputs["camera"].shape == (1, 9, 8)
    assert len((run.bundle_path / "golden.jsonl").read_text().splitlines()) >= 2
    options = EnvironmentOptions.model_validate(recipe["data"])
    policy: Any = bundle.model
    environment, codec = single(options), build(options, seed=0).codec
    observation, _ = environment.reset(seed=3)
    state, start = policy.initial_state(1), torch.ones(1, dtype=torch.bool)
    for time in range(5):
        seen = tensors(codec.gathered([observation], "now"))
        with torch.no_grad():
            outputs, state = policy({**seen, "start": start}, state)
        start = torch.zeros(1, dtype=torch.bool)
        if time == 0:
            row = json.loads(json.dumps(codec.row(observation, "now")))
            assert bundle.predict([row])[0]["action"]["action"] == int(outputs["action"].argmax())
            arrays = {name: np.asarray(value)[None] for name, value in observation.items()}
            assert torch.equal(bundle.form.table_inputs(arrays)["camera"], seen["camera"])
        observation, *_ = environment.step(int(outputs["action"].argmax()))
