"""What a bundle hands on to the model that begins with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reinforge.bundle.loading import load
from reinforge.compress.shrinking import of_low_rank
from reinforge.errors import ComponentError, RecipeError, ReinforgeError
from reinforge.models.policy import Policy
from reinforge.recipe import load as load_recipe
from reinforge.workflow.starting import transfer
from reinforge.workflow.tasks.assemble import assemble
from reinforge.workflow.train import train


def test_observation_statistics_go_on_where_they_were(tmp_path: Path) -> None:
    """Buffers are part of the policy: without them the same weights would see other numbers."""
    recipe: dict[str, Any] = {
        "name": "pole",
        "data": {"kind": "environment", "id": "CartPole-v1"},
        "model": {"kind": "q-network", "sizes": [8], "normalise": True},
        "objective": {"kind": "dqn"},
        "source": {"kind": "replay", "learning_starts": 64},
        "learn": {"stop": {"updates": 20}},
        "evaluate": {"episodes": 2},
    }
    parent = train(recipe, output=tmp_path / "run").bundle
    task = assemble(load_recipe(recipe), parent)
    assert isinstance(task.model, Policy)
    assert float(task.model.normalisers["observation"].count) == 0
    transfer(parent, task.model, ())
    theirs = parent.model.state_dict()
    assert float(theirs["perception.normalisers.observation.count"]) > 64
    assert all(torch.equal(value, theirs[name]) for name, value in task.model.state_dict().items())
    # The target begins where the network does, statistics included.
    learner = task.objective.build(task.model)
    target: Any = learner.target
    assert all(torch.equal(value, theirs[name]) for name, value in target.state_dict().items())


def test_a_pattern_that_matches_no_weight_is_an_error() -> None:
    """A slip in the pattern would else keep weights that were to begin anew."""
    model = nn.ModuleDict({"body": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    parent: Any = SimpleNamespace(model=model, path="bundle")
    with pytest.raises(RecipeError, match=r"start.renew: the pattern 'haed.\*' matches no weight\n  .*head.bias"):
        transfer(parent, nn.ModuleDict({"body": nn.Linear(2, 3), "head": nn.Linear(3, 1)}), ["body.*", "haed.*"])


def test_layers_that_became_two_have_no_weights_to_begin_with() -> None:
    model = nn.ModuleDict({"body": nn.Linear(16, 32), "head": nn.Linear(32, 1)})
    small, change = of_low_rank(model, 0.5)
    parent: Any = SimpleNamespace(model=small, path="bundle", blueprint=SimpleNamespace(compressed=change))
    with pytest.raises(ComponentError, match=r"compressed to low rank\n  Begin with its parent"):
        transfer(parent, model, ())
    transfer(parent, model, ["body.*"])


def test_blocks_longer_than_the_context_are_refused_before_training(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "data": {"kind": "text", "path": str(tmp_path / "text.txt")},
        "model": {"kind": "decoder", "layers": 1, "width": 16, "heads": 2, "context": 32},
        "objective": "language",
    }
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    said = r"source.block: blocks of 64 tokens do not fit .* context of 32\n  Lower source.block, or raise model"
    with pytest.raises(RecipeError, match=said):
        assemble(load_recipe(recipe))
    assemble(load_recipe({**recipe, "source": {"kind": "tokens", "block": 32}, "learn": {"batch": 2}}))


class Lights(gym.Env[Any, Any]):
    """A picture whose left or right half is bright: push the button on that side."""

    observation_space = gym.spaces.Box(0, 255, (12, 12, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def _look(self) -> np.ndarray[Any, Any]:
        self.side = int(self.np_random.integers(2))
        seen = self.np_random.integers(0, 60, (12, 12, 1)).astype(np.uint8)
        seen[:, 6 * self.side : 6 * self.side + 6] += 150
        return seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        reward, self.time = float(action == self.side), self.time + 1
        return self._look(), reward, self.time >= 8, False, {}


@pytest.fixture
def sighted(tmp_path: Path) -> Path:
    """A bundle that tells pictures by their bright half, learned from labels."""
    draw = np.random.default_rng(0)
    for side in range(2):
        (tmp_path / "lights" / f"side{side}").mkdir(parents=True)
        for index in range(30):
            seen = draw.integers(0, 60, (12, 12)).astype(np.uint8)
            seen[:, 6 * side : 6 * side + 6] += 150
            Image.fromarray(seen).save(tmp_path / "lights" / f"side{side}" / f"{index}.png")
    recipe = {
        "data": {
            "kind": "table", "path": str(tmp_path / "lights"), "targets": ["label"],
            "fields": {"image": {"kind": "image", "size": [12, 12], "channels": 1}},
        },
        "model": {"kind": "composed", "encoders": {"image": {"kind": "cnn", "width": 4, "stages": 1, "depth": 1}}},
        "objective": "supervised", "learn": {"batch": 16, "stop": {"epochs": 2}},
    }  # fmt: skip
    return train(recipe, output=tmp_path / "sighted").bundle_path


def test_a_policy_begins_with_an_encoder_that_learned_from_labels(tmp_path: Path, sighted: Path) -> None:
    gym.register("tests/Lights-v0", Lights)
    recipe: dict[str, Any] = {
        "data": {"kind": "environment", "id": "tests/Lights-v0", "count": 4},
        "model": {
            "kind": "q-network", "sizes": [8],
            "encoders": {"observation": {"kind": "cnn", "width": 4, "stages": 1, "depth": 1}},
        },
        "objective": {"kind": "dqn"}, "source": {"kind": "replay", "learning_starts": 16},
        "learn": {"stop": {"updates": 5}}, "evaluate": {"episodes": 2},
    }  # fmt: skip
    here, there = "perception.encoders.observation", "encoders.image"
    start = {"take": {here: there}, "freeze": [f"{here}.*"]}
    run = train({**recipe, "start": start}, start=sighted, output=tmp_path / "run")
    assert run.bundle.parents == (load(sighted).digest,)
    known = load(sighted).model.get_submodule(there).state_dict()
    for name, value in run.bundle.model.get_submodule(here).state_dict().items():
        assert torch.equal(value, known[name]), "it was taken, and frozen it stays"
    mistakes: list[tuple[dict[str, Any], Any, str]] = [
        (
            {"take": {"perception.encoders.observatoin": there}},
            sighted,
            "has no part 'perception.encoders.observatoin'",
        ),
        ({"take": {here: "encoders.picture"}}, sighted, "has no part 'encoders.picture'"),
        ({"take": {here: "body"}}, sighted, "does not fit"),
        ({"take": {here: there}}, None, "no bundle to take parts of"),
        ({"take": {here: there}, "renew": ["*"]}, sighted, "goes with neither"),
    ]
    for index, (start, bundle, said) in enumerate(mistakes):
        with pytest.raises(ReinforgeError, match=said):
            train({**recipe, "start": start}, start=bundle, output=tmp_path / f"mistake{index}")
