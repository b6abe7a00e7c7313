"""Tabular agents against value iteration on the environments' own tables, and against the textbook's step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.engine.loop import Engine
from reinforge.engine.options import SGDOptions
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ReinforgeError
from reinforge.models.policy_options import QTableOptions
from reinforge.models.q_table import QTable
from reinforge.objectives.options import QLearningOptions, SARSAOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import EpsilonOptions, RolloutOptions

Array = np.ndarray[Any, Any]


class Tables:
    """An environment's own transitions: P (states, actions, states), terminal left out, and mean rewards."""

    def __init__(self, name: str, **keywords: Any) -> None:
        transitions: Any = gym.make(name, **keywords).unwrapped.P  # type: ignore[attr-defined]
        n, m = len(transitions), len(transitions[0])
        self.follow, self.reward = np.zeros((n, m, n)), np.zeros((n, m))
        for s in range(n):
            for a in range(m):
                for chance, following, reward, terminated in transitions[s][a]:
                    self.reward[s, a] += chance * reward
                    self.follow[s, a, following] += 0.0 if terminated else chance

    def optimal(self, gamma: float) -> Array:
        """Q* by value iteration."""
        q = np.zeros_like(self.reward)
        for _ in range(3000):
            q = self.reward + gamma * self.follow @ q.max(1)
        return q

    def of(self, policy: Array, gamma: float) -> Array:
        """The values of states under probabilities of actions (states, actions), exactly."""
        follow = np.einsum("sa,sat->st", policy, self.follow)
        solved: Array = np.linalg.solve(np.eye(len(follow)) - gamma * follow, (policy * self.reward).sum(1))
        return solved


def _learned(
    environment: EnvironmentOptions, objective: Any, *, lr: float, steps: int, rollout: int = 4, epsilon: float = 1.0,
    initial: float = 0.0, schedule: Any = None,
) -> Array:  # fmt: skip
    found = signature(environment)
    model = REGISTRY.build("model", QTableOptions(initial=initial), found)
    source = REGISTRY.build(
        "source", RolloutOptions(steps=rollout, epsilon=EpsilonOptions(start=epsilon, end=epsilon)),
        environment=environment, seed=0, batch=0,
    )  # fmt: skip
    learn = Learn(lr=lr, stop=Stop(steps=steps), threads=1, compile="off", schedule=schedule)
    engine = Engine(REGISTRY.build("objective", objective, found), model, source, learn=learn, seed=0)
    assert isinstance(engine.updater.options, SGDOptions)
    engine.run()
    values: Array = model.values.detach().numpy()
    return values


def test_q_learning_finds_the_optimal_values_of_a_frozen_lake_that_is_not_slippery() -> None:
    environment = EnvironmentOptions(id="FrozenLake-v1", count=16, options={"is_slippery": False})
    found = _learned(environment, QLearningOptions(gamma=0.9), lr=1.0, steps=10_000)
    expected = Tables("FrozenLake-v1", is_slippery=False).optimal(0.9)
    met = found != 0
    assert np.allclose(found[met], expected[met], atol=1e-5)
    assert met.sum() == (expected != 0).sum(), "and everything that leads there was met"


@pytest.mark.slow
def test_q_learning_finds_a_policy_as_good_as_the_best_on_a_slippery_lake() -> None:
    environment = EnvironmentOptions(id="FrozenLake-v1", count=16)
    schedule = REGISTRY.find("schedule", "linear").options()
    found = _learned(environment, QLearningOptions(gamma=0.95), lr=0.5, steps=80_000, schedule=schedule)
    tables = Tables("FrozenLake-v1")
    best = tables.optimal(0.95)
    greedy = np.eye(4)[found.argmax(1)]
    assert tables.of(greedy, 0.95)[0] > 0.9 * best[0].max()
    assert np.abs(found - best).max() < 0.15


@pytest.mark.slow
def test_on_the_cliff_q_learning_takes_the_edge_and_sarsa_keeps_away() -> None:
    """Sutton and Barto (2018), example 6.6: their values are those of the greedy and of the exploring policy."""
    environment = EnvironmentOptions(id="CliffWalking-v1", count=16)
    tables, start = Tables("CliffWalking-v1"), 36
    epsilon, keywords = 0.1, {"lr": 0.2, "steps": 60_000, "rollout": 16, "epsilon": 0.1}
    greedy, exploring = {}, {}
    for name, objective in (("q", QLearningOptions(gamma=0.99)), ("sarsa", SARSAOptions(gamma=0.99))):
        table = _learned(environment, objective, **keywords)  # type: ignore[arg-type]
        policy = np.eye(4)[table.argmax(1)]
        greedy[name] = tables.of(policy, 0.99)[start]
        exploring[name] = tables.of((1 - epsilon) * policy + epsilon / 4, 0.99)[start]
    best = tables.optimal(0.99)[start].max()
    assert greedy["q"] == pytest.approx(best, abs=1e-6), "thirteen steps along the edge"
    assert greedy["sarsa"] < best - 0.5, "a longer way"
    assert exploring["sarsa"] > exploring["q"] + 5, "which is the better one while exploring"


# ---------------------------------------------------------------- the step itself


def _rollout() -> tuple[Experience, dict[str, Array]]:
    """Two copies, four steps: ends of both kinds, a step that only began an episode, a pair that both copies meet."""
    b: dict[str, Array] = {
        "state": np.array([[0, 1, 2, 0], [0, 2, 2, 1]]), "next": np.array([[1, 2, 0, 1], [2, 2, 3, 3]]),
        "action": np.array([[1, 0, 1, 0], [1, 1, 0, 1]]), "reward": np.array([[1.0, 2, -1, 0.5], [3, 1, 4, 7]]),
        "terminated": np.array([[0, 0, 1, 0], [0, 0, 0, 1]], bool),
        "truncated": np.array([[0, 0, 0, 0], [0, 1, 0, 0]], bool),
        "valid": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool),
    }  # fmt: skip
    columns: Any = {
        "observation": {"observation": torch.from_numpy(b["state"])[..., None]},
        "final_observation": {"observation": torch.from_numpy(b["next"])[..., None]},
        **{name: torch.from_numpy(b[name]) for name in ("action", "terminated", "truncated", "valid")},
        "reward": torch.from_numpy(b["reward"]).float(),
    }
    return Experience(columns, extra={"sequence": torch.tensor(1)}), b


@pytest.mark.parametrize("kind", ["q-learning", "sarsa"])
def test_each_step_is_the_textbooks(kind: str) -> None:
    found = Signature(
        inputs={"observation": Input(form="categories", sizes=(4,))},
        outputs={"action": Output(form="discrete", size=2)},
    )
    options: Any = QLearningOptions(gamma=0.9) if kind == "q-learning" else SARSAOptions(gamma=0.9)
    objective = REGISTRY.build("objective", options, found)
    learner = objective.build(QTable(QTableOptions(), found))
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        learner.model.values.copy_(start)
    experience, b = _rollout()
    q, alpha = start.numpy().astype(np.float64), 0.3
    prepared = objective.prepare(learner, experience)
    for time, batch in enumerate(objective.updates(prepared, torch.Generator(), Clock())):
        counts = objective.counts(batch)
        loss = objective.steps(learner)[0].loss(learner, batch, counts).terms["td"].sum
        (gradient,) = torch.autograd.grad(loss / max(float(counts["td"]), 1), learner.model.values)
        with torch.no_grad():
            learner.model.values -= alpha * gradient
        met: dict[tuple[int, int], list[float]] = {}
        for copy in range(2):
            if not b["valid"][copy, time]:
                continue
            s, a, after = (int(b[name][copy, time]) for name in ("state", "action", "next"))
            following = 0.0
            if not b["terminated"][copy, time]:
                if kind == "sarsa" and (b["truncated"][copy, time] or time == 3):
                    continue
                following = q[after].max() if kind == "q-learning" else q[after, int(b["action"][copy, time + 1])]
            met.setdefault((s, a), []).append(float(b["reward"][copy, time]) + 0.9 * following)
        for pair, goals in met.items():
            q[pair] += alpha * (np.mean(goals) - q[pair])
        assert np.allclose(learner.model.values.detach().numpy(), q, atol=1e-5), time


def test_combinations_of_several_choices_are_states_of_their_own() -> None:
    found = Signature(
        inputs={"a": Input(form="categories", sizes=(2, 3)), "b": Input(form="categories", sizes=(4,))},
        outputs={"action": Output(form="discrete", size=2)},
    )
    table = QTable(QTableOptions(initial=5.0), found)
    assert table.values.shape == (24, 2)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4))
    inputs = {"a": every[:, :2], "b": every[:, 2:]}
    assert sorted(table.states(inputs).tolist()) == list(range(24))
    assert table(inputs)[0]["action"].shape == (24, 2)
    assert torch.all(table(inputs)[0]["action"] == 5)


def test_tables_refuse_what_has_no_numbers() -> None:
    with pytest.raises(ReinforgeError, match="numbered"):
        QTable(QTableOptions(), signature(EnvironmentOptions(id="CartPole-v1")))
    many = Signature(
        inputs={"observation": Input(form="categories", sizes=(10_000, 10_000))},
        outputs={"action": Output(form="discrete", size=2)},
    )
    with pytest.raises(ReinforgeError, match="too many"):
        QTable(QTableOptions(), many)
