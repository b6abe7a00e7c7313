"""DQN's switches: distributions of returns, noise, Munchausen and conservative learning, against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock, Experience
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy_options import DistributionOptions, QNetworkOptions
from reinforge.objectives.options import DQNOptions, MunchausenOptions
from reinforge.objectives.return_distributions import categorical_loss, project, quantile_loss
from reinforge.registry import REGISTRY
from reinforge.sources.collector import Collector
from reinforge.sources.options import ReplayOptions
from tests.objectives.test_reinforcement import _only_batch, _transitions

CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=2)


def brute_projection(support: list[float], probability: list[float], reward: float, discount: float) -> list[float]:
    """Bellemare et al. (2017), algorithm 1, return by return."""
    n, low, high = len(support), support[0], support[-1]
    step = (high - low) / (n - 1)
    found = [0.0] * n
    for z, p in zip(support, probability):
        b = (min(max(reward + discount * z, low), high) - low) / step
        below, above = math.floor(b), math.ceil(b)
        if below == above:
            found[below] += p
        else:
            found[below] += p * (above - b)
            found[above] += p * (b - below)
    return found


@settings(max_examples=60, deadline=None)
@given(
    reward=st.floats(-30, 30), steps=st.integers(1, 5), terminated=st.booleans(), atoms=st.integers(2, 9),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_projection_equals_brute_force(reward: float, steps: int, terminated: bool, atoms: int, seed: int) -> None:
    """Of terminal rows (a discount of 0), n-step rows and returns out of range too."""
    discount = 0.0 if terminated else 0.9**steps
    support = torch.linspace(-4, 7, atoms, dtype=torch.float64)
    probability = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(atoms)))
    found = project(
        support, probability[None], torch.tensor([reward], dtype=torch.float64),
        torch.tensor([discount], dtype=torch.float64),
    )  # fmt: skip
    expected = brute_projection(support.tolist(), probability.tolist(), reward, discount)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-9)
    assert float(found.sum()) == pytest.approx(1)
    if terminated and -4 <= reward <= 7:
        assert float(found[0] @ support) == pytest.approx(reward), "all there is to come is the reward"


def test_the_projection_keeps_the_mean_of_what_stays_inside() -> None:
    support = torch.linspace(-10, 10, 51)
    probability = torch.rand(20, 51).softmax(-1)
    reward, discount = torch.rand(20), torch.full((20,), 0.7)
    found = project(support, probability, reward, discount)
    assert torch.allclose(found @ support, reward + discount * (probability @ support), atol=1e-4)


def brute_quantile_loss(quantiles: list[float], goal: list[float], delta: float) -> float:
    """Dabney et al. (2018), equation 10, pair by pair."""
    total = 0.0
    for i, theta in enumerate(quantiles):
        tau = (2 * i + 1) / (2 * len(quantiles))
        for z in goal:
            u = z - theta
            huber = 0.5 * u * u if abs(u) <= delta else delta * (abs(u) - 0.5 * delta)
            total += abs(tau - (u < 0)) * huber / delta / len(goal)
    return total


@pytest.mark.parametrize("delta", [1.0, 0.3, 5.0])
def test_the_quantile_loss_equals_brute_force(delta: float) -> None:
    g = torch.Generator().manual_seed(0)
    quantiles, goal = 2 * torch.randn(6, 5, generator=g).double(), 2 * torch.randn(6, 8, generator=g).double()
    found = quantile_loss(quantiles, goal, delta)
    for row in range(6):
        expected = brute_quantile_loss(quantiles[row].tolist(), goal[row].tolist(), delta)
        assert float(found[row]) == pytest.approx(expected)


def test_the_quantile_loss_finds_the_quantiles() -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).exponential(2, 4000))[None]
    quantiles = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        quantile_loss(quantiles, drawn, 0.01).sum().backward()
        optimizer.step()
    expected = torch.quantile(drawn[0], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64))
    assert torch.allclose(quantiles[0], expected, atol=0.1)


def test_the_categorical_divergence_is_zero_where_both_agree_and_has_the_losses_gradient() -> None:
    logits = torch.randn(4, 6, requires_grad=True)
    each, divergence = categorical_loss(logits, logits.detach().softmax(-1))
    assert torch.allclose(divergence, torch.zeros(4), atol=1e-6)
    goal = torch.randn(4, 6).softmax(-1)
    goal[0] = torch.eye(6)[2]
    each, divergence = categorical_loss(logits, goal)
    expected = torch.nn.functional.kl_div(logits.log_softmax(-1), goal, reduction="none").sum(-1)
    assert torch.allclose(divergence, expected, atol=1e-6)
    gradient = torch.autograd.grad(each.sum(), logits, retain_graph=True)[0]
    assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), logits)[0], atol=1e-6)


# ---------------------------------------------------------------- the loss of every combination

NETWORKS: dict[str, DistributionOptions | None] = {
    "mean": None,
    "categorical": DistributionOptions(kind="categorical", atoms=6, low=-2, high=3),
    "quantile": DistributionOptions(kind="quantile", atoms=4),
}
COMBINATIONS = list(itertools.product(NETWORKS, [False, True], [False, True], [False, True]))


def _built(distribution: str, noisy: bool, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    found = signature(CARTPOLE)
    model = QNetworkOptions(
        sizes=(8,), duelling=noisy, noisy=0.5 if noisy else None, distribution=NETWORKS[distribution]
    )
    objective = REGISTRY.build("objective", DQNOptions(gamma=0.9, **options), found)
    learner = objective.build(REGISTRY.build("model", model, found))
    for parameter in learner.target.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return objective, learner


def _row_outputs(network: Any, observation: Any, noise: Tensor | None) -> dict[str, Tensor]:
    inputs = dict(observation) if noise is None else {**observation, "noise": noise}
    return {name: value[0].detach() for name, value in network(inputs)[0].items()}


@pytest.mark.parametrize(("distribution", "double", "munchausen", "noisy"), COMBINATIONS)
def test_the_loss_of_every_combination_is_the_papers(
    distribution: str, double: bool, munchausen: bool, noisy: bool
) -> None:
    soft = MunchausenOptions(weight=0.8, temperature=0.2, floor=-0.5) if munchausen else None
    objective, learner = _built(distribution, noisy, double=double, munchausen=soft, delta=0.7, conservative=0.5)
    weight = torch.rand(12, generator=torch.Generator().manual_seed(5))
    raw = _transitions(12, 3, torch.randint(2, (12,)), weight=weight)
    batch: Any = _only_batch(objective, objective.prepare(learner, raw))
    assert ("goal" in batch) == (not double and not noisy), "computed at once where nothing changes"
    loss = objective.steps(learner)[0].loss(learner, batch, objective.counts(batch))
    b: Any = raw.batch
    total = surplus = 0.0
    for i in range(12):
        row: Any = batches.part(raw.batch, i, i + 1)
        noise = {
            name: batch[name][i : i + 1] if noisy else None for name in ("noise", "next_noise")
        }  # fmt: skip
        choice = batch["choice_noise"][i : i + 1] if noisy and double else None
        action = int(b["action"][i])
        k = int(b["length"][i])
        reward = sum(0.9**j * float(b["rewards"][i, j]) for j in range(k))
        discount = 0.0 if b["terminated"][i] else 0.9**k
        here = _row_outputs(learner.model, row["observation"], noise["noise"])
        there = _row_outputs(learner.target, row["next_observation"], noise["next_noise"])
        values = there["action"]
        if double:
            values = _row_outputs(learner.model, row["next_observation"], choice)["action"]
        share, extra = torch.eye(2)[values.argmax()], torch.zeros(2)
        if munchausen:
            now = _row_outputs(learner.target, row["observation"], noise["next_noise"])["action"]
            reward += 0.8 * min(max(0.2 * float((now / 0.2).log_softmax(0)[action]), -0.5), 0.0)
            share = (values / 0.2).softmax(0)
            extra = -0.2 * share.log()
        if distribution == "categorical":
            support = torch.linspace(-2, 3, 6).tolist()
            goal = np.zeros(6)
            for a in range(2):
                law = there["logits"][a].softmax(0).tolist()
                goal += float(share[a]) * np.array(
                    brute_projection(support, law, reward + discount * float(extra[a]), discount)
                )
            each = -float((torch.from_numpy(goal) * here["logits"][action].log_softmax(0)).sum())
            error = each + float(np.sum(goal[goal > 0] * np.log(goal[goal > 0])))
        elif distribution == "quantile":
            mean = sum(share[a] * (there["quantiles"][a] + extra[a]) for a in range(2))
            goals = [reward + discount * float(z) for z in mean]  # type: ignore[union-attr]
            each = brute_quantile_loss(here["quantiles"][action].tolist(), goals, 0.7)
            error = float(here["action"][action]) - sum(goals) / 4
        else:
            goal_value = reward + discount * sum(float(share[a] * (there["action"][a] + extra[a])) for a in range(2))
            error = float(here["action"][action]) - goal_value
            each = 0.5 * error**2 if abs(error) <= 0.7 else 0.7 * (abs(error) - 0.35)
        total += float(weight[i]) * each
        surplus += float(here["action"].logsumexp(0) - here["action"][action])
        assert float(loss.items["td"][i]) == pytest.approx(error, abs=2e-5)
    assert float(loss.terms["td"].sum.detach()) == pytest.approx(total, rel=1e-4)
    assert float(loss.terms["conservative"].sum.detach()) == pytest.approx(surplus, rel=1e-4)
    assert loss.terms["conservative"].weight == 0.5


def test_acting_updating_and_target_have_noise_of_their_own() -> None:
    objective, learner = _built("mean", noisy=True, double=True)
    prepared = objective.prepare(learner, _transitions(12, 1, torch.randint(2, (12,)), updates=3))
    drawn = []
    for batch in objective.updates(prepared, torch.Generator().manual_seed(0), Clock()):
        drawn += [batch[name] for name in ("noise", "next_noise", "choice_noise")]
    assert len(drawn) == 9
    assert all(noise.shape == (4, learner.model.parameter_noise) for noise in drawn)
    assert len({noise.numpy().tobytes() for noise in drawn}) == 9
    again = next(objective.updates(prepared, torch.Generator().manual_seed(0), Clock()))
    assert torch.equal(again["noise"], drawn[0]), "from the generator alone"

    source = REGISTRY.build("source", ReplayOptions(), environment=CARTPOLE, seed=0, batch=4)
    collector: Collector = source.collector
    one, two = (collector.outputs(learner.model)["action"] for _ in range(2))
    assert not torch.equal(one, two), "each step acts with noise of its own"
    collector.observation = {"observation": np.zeros((2, 4), np.float32)}
    same = collector.outputs(learner.model)["action"]
    assert not torch.allclose(same[0], same[1]), "and so does each copy of the environment"


def test_an_infinite_return_is_at_home_in_no_distribution_but_at_its_edge() -> None:
    """Returns out of range count as the outermost, above and below."""
    support, law = torch.linspace(-1, 1, 3), torch.tensor([[0.2, 0.3, 0.5]])
    for reward, edge in ((100.0, 2), (-100.0, 0)):
        found = project(support, law, torch.tensor([reward]), torch.tensor([0.9]))
        assert torch.equal(found, torch.eye(3)[edge][None])


def test_experiences_of_plain_dqn_hold_nothing_of_the_switches() -> None:
    objective, learner = _built("mean", noisy=False)
    experience = objective.prepare(learner, _transitions(8, 1, torch.randint(2, (8,))))
    assert isinstance(experience, Experience)
    assert set(experience.extra) == {"updates"}
    assert set(_only_batch(objective, experience)) == {"observation", "action", "goal"}
    assert "conservative" not in objective.counts(experience.batch)
