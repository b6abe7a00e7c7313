"""REINFORCE, A2C and PPO's options: against brute force, and with actions of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reinforge.core.contracts import Clock
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions
from reinforge.objectives.options import A2COptions, PPOOptions, REINFORCEOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import RolloutOptions
from tests.objectives import probes
from tests.objectives.test_reinforcement import CARTPOLE, PENDULUM, _parts, _train

probes.register()
DRIFT = EnvironmentOptions(id="Drift-v0", count=3)


def _rollout(environment: EnvironmentOptions, model: Any, objective: Any, steps: int) -> tuple[Any, Any, Any]:
    built, learner = _parts(environment, model, objective)
    source = REGISTRY.build("source", RolloutOptions(steps=steps), environment=environment, seed=0, batch=0)
    source.publish(learner, Clock())
    source.next(Clock())
    return built, learner, source.next(Clock())


def _batch(objective: Any, learner: Any, rollout: Any) -> Any:
    with torch.no_grad():
        prepared = objective.prepare(learner, rollout)
    return next(objective.updates(prepared, torch.Generator(), Clock()))


@pytest.mark.parametrize("environment", [CARTPOLE, PENDULUM])
def test_a2cs_gradient_is_that_of_the_log_probability_times_the_advantage(environment: EnvironmentOptions) -> None:
    options = A2COptions(gae_lambda=0.9, entropy_weight=0.02, value_weight=0.3)
    objective, learner, rollout = _rollout(environment, ActorCriticOptions(sizes=(8,)), options, 12)
    batch = _batch(objective, learner, rollout)
    (step,) = objective.steps(learner)
    terms = step.loss(learner, batch, objective.counts(batch)).terms
    n = batch["valid"].sum()
    found = torch.autograd.grad(sum(term.weight * term.sum / n for term in terms.values()), list(step.parameters))
    outputs, _ = learner.model({**batch["observation"], "start": batch["start"]})
    valid = batch["valid"]
    expected = -(learner.model.log_prob(outputs, batch["action"]) * batch["advantage"])[valid].mean()
    expected = expected + 0.3 * 0.5 * (outputs["value"] - batch["return"]).square()[valid].mean()
    expected = expected - 0.02 * learner.model.entropy(outputs)[valid].mean()
    for one, other in zip(found, torch.autograd.grad(expected, list(step.parameters), allow_unused=True)):
        assert torch.allclose(one, torch.zeros(()) if other is None else other, atol=1e-5)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("memory", [False, True])
def test_reinforce_sums_the_rewards_of_ended_episodes(baseline: bool, memory: bool) -> None:
    options = REINFORCEOptions(baseline=baseline, gamma=0.9, normalise_advantages=False)
    model = ActorCriticOptions(sizes=(8,), memory=MemoryOptions(kind="lstm", size=8) if memory else None)
    objective, learner, rollout = _rollout(DRIFT, model, options, 60)
    b: Any = rollout.batch
    assert b["terminated"].any()
    assert b["truncated"].any()
    batch = _batch(objective, learner, rollout)
    columns = {name: batch[name].view(3, 60) for name in ("advantage", "return", "valid")}
    with torch.no_grad():
        for row in range(3):
            state = None
            if memory:
                state = {name: value[row : row + 1] for name, value in b["memory"].items()}
            value, after = [], []
            for t in range(60):
                at = {"observation": b["observation"]["observation"][row, t][None], "start": b["start"][row, t][None]}
                outputs, state = learner.model(at, state)
                value.append(float(outputs["value"]))
                final, _ = learner.model({"observation": b["final_observation"]["observation"][row, t][None]}, state)
                after.append(float(final["value"]))
            for t in range(60):
                total, ended = 0.0, False
                for s in range(t, 60):
                    total += 0.9 ** (s - t) * float(b["reward"][row, s])
                    if b["truncated"][row, s] and baseline:
                        total += 0.9 ** (s - t + 1) * after[s]
                    ended = bool(b["terminated"][row, s] or b["truncated"][row, s])
                    if ended:
                        break
                assert bool(columns["valid"][row, t]) == ended, "only what is known counts"
                if ended:
                    assert float(columns["return"][row, t]) == pytest.approx(total, abs=1e-4)
                    expected = total - value[t] if baseline else total
                    assert float(columns["advantage"][row, t]) == pytest.approx(expected, abs=1e-4)


def test_without_a_baseline_no_value_is_learned() -> None:
    model = ActorCriticOptions(sizes=(8,))
    objective, learner, rollout = _rollout(CARTPOLE, model, REINFORCEOptions(baseline=False), 40)
    (step,) = objective.steps(learner)
    values = [*learner.model.value_head.parameters(), *learner.model.value_body.parameters()]
    assert not {id(p) for p in step.parameters} & {id(p) for p in values}
    terms = step.loss(learner, (batch := _batch(objective, learner, rollout)), objective.counts(batch)).terms
    assert terms["value"].weight == 0


def test_a_rollout_in_which_no_episode_ends_teaches_nothing() -> None:
    objective, learner, rollout = _rollout(PENDULUM, ActorCriticOptions(sizes=(8,)), REINFORCEOptions(), 5)
    batch = _batch(objective, learner, rollout)
    counts = objective.counts(batch)
    terms = objective.steps(learner)[0].loss(learner, batch, counts).terms
    assert int(counts["policy"]) == 0
    assert float(terms["policy"].sum.detach()) == float(terms["value"].sum.detach()) == 0


def test_the_clipped_value_is_the_pessimistic_one() -> None:
    options = PPOOptions(value_clip=0.2, minibatches=1)
    objective, learner, rollout = _rollout(CARTPOLE, ActorCriticOptions(sizes=(8,)), options, 12)
    batch = dict(_batch(objective, learner, rollout))
    old = batch["return"] - batch["advantage"]
    for parameter in learner.model.value_head.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    loss = objective.steps(learner)[0].loss(learner, batch, objective.counts(batch))
    value = learner.model({**batch["observation"], "start": batch["start"]})[0]["value"].detach()
    total = moved = 0.0
    for v, o, g, ok in zip(*(x.flatten().tolist() for x in (value, old, batch["return"], batch["valid"]))):
        near = min(max(v, o - 0.2), o + 0.2)
        moved += near != v
        total += 0.5 * max((v - g) ** 2, (near - g) ** 2) if ok else 0.0
    assert moved > 5
    assert float(loss.terms["value"].sum.detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("objective", [PPOOptions(epochs=4, minibatches=2), A2COptions()], ids=["ppo", "a2c"])
def test_several_choices_at_once_are_learned_each_by_itself(objective: Any) -> None:
    """Multi-discrete actions; those of one dial begin at 1, which no policy needs to know."""
    environment = EnvironmentOptions(id="Dials-v0", count=8)
    learn = Learn(lr=1e-2, clip=0.5, stop=Stop(steps=6_000), threads=1, compile="off")
    found = _train(environment, ActorCriticOptions(sizes=(16,)), objective, RolloutOptions(steps=16), learn)
    assert found > 9.0, "ten is all there is"


def test_the_probability_of_several_choices_is_the_product_of_theirs() -> None:
    environment = EnvironmentOptions(id="Dials-v0", count=4)
    _, learner, rollout = _rollout(environment, ActorCriticOptions(sizes=(8,)), PPOOptions(), 6)
    outputs, _ = learner.model({**rollout.batch["observation"], "start": rollout.batch["start"]})
    action = rollout.batch["action"]
    first, second = outputs["action"].split([3, 2], -1)
    expected = first.softmax(-1).gather(-1, action[..., :1]) * second.softmax(-1).gather(-1, action[..., 1:])
    assert torch.allclose(learner.model.log_prob(outputs, action).exp(), expected.squeeze(-1), atol=1e-6)
