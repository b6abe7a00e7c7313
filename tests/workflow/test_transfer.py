"""What a bundle hands on to the model that begins with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from reinforge.errors import RecipeError
from reinforge.models.policy import Policy
from reinforge.recipe import load as load_recipe
from reinforge.workflow.tasks.assemble import assemble
from reinforge.workflow.train import train, transfer


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
