"""Curiosity and shaping: bonuses against brute force, and policies that shaping leaves as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reinforge.core.contracts import Clock
from reinforge.engine.loop import Engine
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ReinforgeError
from reinforge.models.curiosity import Curiosity
from reinforge.models.policy_options import ActorCriticOptions, PolicyOptions, QNetworkOptions, QTableOptions
from reinforge.objectives.options import (
    CuriousOptions,
    DQNOptions,
    LinearPotentialOptions,
    PPOOptions,
    QLearningOptions,
    ShapedOptions,
)
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import EpsilonOptions, RolloutOptions
from tests.models.test_policy import DISCRETE
from tests.objectives.test_reinforcement import CARTPOLE, _only_batch, _parts, _transitions
from tests.objectives.test_tabular import Tables

LAKE = EnvironmentOptions(id="FrozenLake-v1", count=16, options={"is_slippery": False})


def _lake(objective: Any) -> Any:
    found = signature(LAKE)
    model = REGISTRY.build("model", QTableOptions(), found)
    explore = EpsilonOptions(start=1, end=1)
    source = REGISTRY.build("source", RolloutOptions(steps=4, epsilon=explore), environment=LAKE, seed=0, batch=0)
    learn = Learn(lr=1.0, stop=Stop(steps=8_000), threads=1, compile="off")
    Engine(REGISTRY.build("objective", objective, found), model, source, learn=learn, seed=0).run()
    return model.values.detach().numpy()


def test_shaping_changes_values_by_the_potential_and_no_policy() -> None:
    """Ng et al. (1999): Q of the shaped task is Q* - phi(s), so every choice stays what it was."""
    potential = np.random.default_rng(0).normal(size=16).astype(np.float32)

    class Potential:
        def __init__(self, options: Any) -> None:
            pass

        def __call__(self, observation: Any) -> torch.Tensor:
            return torch.from_numpy(potential)[observation["observation"][:, 0]]

    if not any(component.name == "random-test" for component in REGISTRY.all("potential")):
        from typing import Literal

        from reinforge.registry import Options, register

        @register("potential", Potential)
        class PotentialOptions(Options):
            """A potential drawn at random."""

            kind: Literal["random-test"] = "random-test"

    chosen = REGISTRY.find("potential", "random-test").options()
    try:
        found = _lake(ShapedOptions(of=QLearningOptions(gamma=0.9), potential=chosen))
    finally:
        REGISTRY._components.pop(("potential", "random-test"))
    expected = Tables("FrozenLake-v1", is_slippery=False).optimal(0.9) - potential[:, None]
    met = found != 0
    assert met.sum() == 11 * 4, "every square that is no end, in every direction"
    assert np.allclose(found[met], expected[met], atol=1e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_the_shaped_reward_of_n_steps_is_that_of_its_ends(n: int) -> None:
    weights, squares = (1.0, -2.0, 0.5, 3.0), (0.2, 0.0, -1.5, 0.4)
    potential = LinearPotentialOptions(weights={"observation": weights}, squares={"observation": squares}, bias=0.7)
    options = ShapedOptions(of=DQNOptions(gamma=0.9), potential=potential)
    objective, learner = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), options)
    plain, _ = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(gamma=0.9))
    raw = _transitions(20, n, torch.randint(2, (20,)))
    with torch.no_grad():
        found = objective.prepare(learner, raw).batch["goal"]
        before = plain.prepare(learner, raw).batch["goal"]
    b: Any = raw.batch
    for i in range(20):
        ends = [b[name]["observation"][i].tolist() for name in ("observation", "next_observation")]
        phi = [sum(w * x + v * x * x for w, v, x in zip(weights, squares, end)) + 0.7 for end in ends]
        added = (0.0 if b["terminated"][i] else 0.9 ** int(b["length"][i]) * phi[1]) - phi[0]
        assert float(found[i] - before[i]) == pytest.approx(added, abs=1e-4)
    assert torch.equal(raw.batch["rewards"], _transitions(20, n, torch.randint(2, (20,))).batch["rewards"]), (
        "what was collected stays as it is"
    )


def test_shaping_refuses_what_it_can_not_shape() -> None:
    from reinforge.objectives.reward_options import GRPOOptions

    with pytest.raises(ReinforgeError, match="gamma"):
        REGISTRY.build("objective", ShapedOptions(of=GRPOOptions()), DISCRETE)
    options = ShapedOptions(potential=LinearPotentialOptions(squares={"observation": (1.0,)}))
    objective, learner = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,)), options)
    source = REGISTRY.build("source", RolloutOptions(steps=3), environment=CARTPOLE, seed=0, batch=0)
    source.publish(learner, Clock())
    with pytest.raises(ReinforgeError, match=r"squares\.observation: 1 weights for 4"):
        objective.prepare(learner, source.next(Clock()))


# ---------------------------------------------------------------- curiosity


def test_the_bonus_is_the_error_over_the_deviation_of_all_errors() -> None:
    torch.manual_seed(0)
    curiosity = Curiosity(PolicyOptions(sizes=(8,)), 5, DISCRETE)
    errors: list[float] = []
    for scale in (1.0, 3.0):
        observation = {"observation": scale * torch.randn(30, 4)}
        valid = torch.arange(30) % 3 > 0
        found = curiosity.bonus(observation, valid)
        error = (curiosity.predictor(observation) - curiosity.target(observation)).square().mean(-1).detach()
        errors += error[valid].tolist()
        assert torch.allclose(found, error / np.std(errors), rtol=1e-4)
    assert float(curiosity.predictor.perception.statistics()["observation"].count) == 40


def test_what_was_seen_often_is_no_longer_new() -> None:
    torch.manual_seed(0)
    curiosity = Curiosity(PolicyOptions(sizes=(32,)), 16, DISCRETE)
    seen, unseen = {"observation": 0.5 + 0.1 * torch.randn(64, 4)}, {"observation": -0.5 + 0.1 * torch.randn(64, 4)}
    both = {"observation": torch.cat([seen["observation"], unseen["observation"]])}
    before = curiosity.bonus(both)
    optimizer = torch.optim.Adam(curiosity.predictor.parameters(), lr=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        curiosity.error(seen).mean().backward()
        optimizer.step()
    after = curiosity.bonus(both)
    assert float(after[:64].mean()) < 0.1 * float(before[:64].mean())
    assert float(after[64:].mean()) > 3 * float(after[:64].mean())
    assert all(p.grad is None for p in curiosity.target.parameters()), "the other network stays as it began"


@pytest.mark.parametrize("kind", ["dqn", "ppo"])
def test_the_bonus_goes_into_the_rewards_of_rollouts_and_replay(kind: str) -> None:
    network = PolicyOptions(sizes=(8,))
    if kind == "dqn":
        objective, learner = _parts(
            CARTPOLE, QNetworkOptions(sizes=(8,)), CuriousOptions(of=DQNOptions(), weight=0.3, network=network)
        )
        raw: Any = _transitions(16, 2, torch.randint(2, (16,)))
        plain, _ = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions())
    else:
        objective, learner = _parts(
            CARTPOLE, ActorCriticOptions(sizes=(8,)), CuriousOptions(of=PPOOptions(), weight=0.3, network=network)
        )
        source = REGISTRY.build("source", RolloutOptions(steps=6), environment=CARTPOLE, seed=0, batch=0)
        source.publish(learner, Clock())
        raw = source.next(Clock())
        plain, _ = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,)), PPOOptions())
    with torch.no_grad():
        found, before = objective.prepare(learner, raw), plain.prepare(learner, raw)
        after = raw.batch["next_observation" if kind == "dqn" else "final_observation"]
        deviation = float((learner.curiosity.squares / learner.curiosity.count).sqrt())
        bonus = 0.3 * learner.curiosity.error(after) / deviation
    if kind == "dqn":
        assert torch.allclose(found.batch["goal"] - before.batch["goal"], bonus, atol=1e-4)
    else:
        last = (found.batch["return"] - before.batch["return"]).view(4, 6)[:, -1]
        assert torch.allclose(last, bonus[:, -1], atol=1e-4)
    batch = _only_batch(objective, found)
    steps = objective.steps(learner)
    assert steps[-1].name == "curiosity"
    loss = steps[-1].loss(learner, batch, objective.counts(batch)).terms["novelty"]
    expected = learner.curiosity.error(batch["observation"]).mean()
    assert float(loss.sum / objective.counts(batch)["novelty"]) == pytest.approx(float(expected), rel=1e-5)
