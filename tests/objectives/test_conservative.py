"""SAC's conservative penalty: against brute force and quadrature, and what it thinks of what a file never shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from reinforge.core.contracts import Clock
from reinforge.models.policy_options import SquashedGaussianOptions
from reinforge.objectives.options import SACOptions
from reinforge.sources.options import TransitionOptions
from tests.objectives import probes
from tests.objectives.test_probes import Algorithm, trained
from tests.objectives.test_reinforcement import PENDULUM, _only_batch, _parts, _transitions
from tests.sources.test_transitions import recorded, written


def _losses(rows: int = 6, **options: Any) -> tuple[Any, Any, Any]:
    objective, learner = _parts(
        PENDULUM, SquashedGaussianOptions(sizes=(8,), log_std_low=-0.5, log_std_high=0.3),
        SACOptions(critic_sizes=(8,), gamma=0.9, temperature=0.3, **options),
    )  # fmt: skip
    raw = _transitions(rows, 2, torch.rand(rows, 1) * 2 - 1, size=3)
    batch = _only_batch(objective, objective.prepare(learner, raw))
    return learner, batch, objective.steps(learner)[0].loss(learner, batch, {}).terms


def test_the_penalty_is_the_papers() -> None:
    """Kumar et al. (2020), appendix F, action by action; and the errors beside it are those of SAC."""
    learner, batch, terms = _losses(conservative=2.5, conservative_actions=4)
    total = 0.0
    with torch.no_grad():
        for i in range(6):
            now = batch["observation"]["observation"][i : i + 1]
            outputs, _ = learner.model({"observation": now})
            policy = TransformedDistribution(
                Normal(outputs["mean"], outputs["log_std"].exp()), [TanhTransform(cache_size=1)]
            )
            drawn = [(batch["any"][i, j][None], 0.5) for j in range(4)]
            for j in range(4):
                action = torch.tanh(outputs["mean"] + outputs["log_std"].exp() * batch["any_noise"][i, j])
                drawn.append((action, float(policy.log_prob(action).exp())))
            for critic in range(2):
                terms_ = [math.exp(float(learner.critics(now, action)[critic])) / p for action, p in drawn]
                taken = float(learner.critics(now, batch["action"][i : i + 1])[critic])
                total += math.log(sum(terms_) / 8) - taken
    assert float(terms["conservative"].sum.detach()) == pytest.approx(total, rel=1e-4)
    assert terms["conservative"].weight == 2.5
    _, _, plain = _losses()
    assert "conservative" not in plain
    assert float(terms["td"].sum.detach()) == pytest.approx(float(plain["td"].sum.detach()), rel=1e-6)


def test_the_sum_over_actions_is_the_integral() -> None:
    """By importance sampling: many actions give what quadrature gives."""
    learner, batch, terms = _losses(rows=3, conservative=1.0, conservative_actions=20_000)
    grid = torch.linspace(-1, 1, 4001)[:, None]
    total = 0.0
    with torch.no_grad():
        for i in range(3):
            now = batch["observation"]["observation"][i : i + 1]
            values = learner.critics(now.expand(len(grid), -1), grid)
            integral = torch.trapezoid(values.double().exp(), grid[:, 0].double(), dim=-1).log()
            total += float((integral - learner.critics(now, batch["action"][i : i + 1])[:, 0]).sum())
    assert float(terms["conservative"].sum.detach()) == pytest.approx(total, abs=0.1)


def test_the_gradient_reaches_the_critics_alone_and_pushes_down_what_is_not_shown() -> None:
    learner, _, terms = _losses(rows=32, conservative=1.0)
    terms["conservative"].sum.backward()
    assert all(p.grad is None for p in learner.model.parameters())
    assert all(float(p.grad.abs().sum()) > 0 for p in learner.critics.weights)


def test_plain_sac_draws_what_it_drew() -> None:
    objective, learner = _parts(PENDULUM, SquashedGaussianOptions(sizes=(8,)), SACOptions(critic_sizes=(8,)))
    experience = objective.prepare(learner, _transitions(4, 1, torch.rand(4, 1), size=3))
    batch = next(objective.updates(experience, torch.Generator().manual_seed(2), Clock()))
    noise = torch.randn(2, 4, 1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(batch["noise"], noise[0])
    assert torch.equal(batch["next_noise"], noise[1])
    assert "any" not in batch


def test_what_the_file_never_shows_keeps_a_low_value(tmp_path: Path) -> None:
    """Whatever is done pays 1, but the file shows the lower half of the actions alone."""
    shown, hidden = torch.tensor([[-0.8], [-0.5], [-0.2]]), torch.tensor([[0.4], [0.6], [0.8]])
    generator = np.random.default_rng(0)
    probes.register()
    options = {"kind": "constant", "continuous": True}
    columns = recorded("Probe-v0", 400, lambda _: generator.uniform(0, 2, 1).astype(np.float32), **options)
    source = TransitionOptions(path=written(tmp_path, "npz", columns))
    gaps = {}
    for weight in (0.0, 1.0):
        objective = SACOptions(
            gamma=0.9, tau=0.1, critic_sizes=(32,), conservative=weight, temperature=0.01, adapt=False
        )
        algorithm = Algorithm(SquashedGaussianOptions(sizes=(16,)), objective, source, 1e-2, 200, {"continuous": True})
        learner, _ = trained(algorithm, "constant")
        observation = {"observation": torch.full((3, 1), -1.0)}
        with torch.no_grad():
            seen, unseen = (learner.values(learner.critics, observation, a).mean() for a in (shown, hidden))
        gaps[weight] = float(seen - unseen)
    assert gaps[1.0] > gaps[0.0] + 0.3
    assert abs(gaps[0.0]) < 0.2
