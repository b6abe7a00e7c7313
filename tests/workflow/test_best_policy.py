"""Which policy of a training is shipped: the last, or where a metric is monitored the one that was evaluated best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reinforge.bundle.loading import load
from reinforge.environments.options import EnvironmentOptions
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.workflow.train import train

RECIPE: dict[str, Any] = {
    "name": "wavering",
    "seed": 1,
    "data": {"kind": "environment", "id": "CartPole-v1", "count": 4},
    "model": {"kind": "q-network", "sizes": [8]},
    "objective": {"kind": "dqn", "tau": 0.5},
    "source": {"kind": "replay", "learning_starts": 32, "capacity": 500},
    "learn": {"stop": {"updates": 80}, "batch": 16, "lr": 0.05},
    "evaluate": {"every": 8, "unit": "updates", "episodes": 8, "final": 4, "clip": False},
}


@pytest.mark.parametrize("monitor", [None, "return"])
def test_the_policy_that_was_evaluated_best_is_shipped_where_a_metric_is_monitored(
    monitor: str | None, tmp_path: Path
) -> None:
    recipe = {**RECIPE, "evaluate": {**RECIPE["evaluate"], "monitor": monitor, "mode": "max"}}
    run = train(recipe, output=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    returns = {row["updates"]: row["evaluation/return"] for row in rows if "evaluation/return" in row}
    best, last = max(returns, key=lambda each: returns[each]), max(returns)
    assert returns[best] > returns[last], "else this shows nothing"
    evaluator = EpisodeEvaluator(EnvironmentOptions.model_validate(recipe["data"]), episodes=8, seed=10_000)
    shipped: Any = load(run.bundle_path).model
    chosen = last if monitor is None else best
    other = best if monitor is None else last
    assert evaluator.run(shipped, str(chosen)).metrics()["return"] == returns[chosen]
    assert evaluator.run(shipped, str(other)).metrics()["return"] != returns[other]
