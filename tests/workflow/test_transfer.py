"""What a bundle hands on to the model that begins with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
    assert task.model.normaliser is not None
    assert float(task.model.normaliser.count) == 0
    transfer(parent, task.model, ())
    theirs = parent.model.state_dict()
    assert float(theirs["observation.normaliser.count"]) > 64
    assert all(torch.equal(value, theirs[name]) for name, value in task.model.state_dict().items())
    # The target begins where the network does, statistics included.
    learner = task.objective.build(task.model)
    target: Any = learner.target
    assert all(torch.equal(value, theirs[name]) for name, value in target.state_dict().items())
