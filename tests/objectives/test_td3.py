"""TD3 and DDPG against brute force; critics that share nothing that learns with the actor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock, Experience
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ReinforgeError
from reinforge.models.critics import Critics
from reinforge.models.deterministic import Deterministic
from reinforge.models.options import CNNOptions
from reinforge.models.policy_options import DeterministicOptions, QNetworkOptions, SquashedGaussianOptions
from reinforge.objectives.options import DDPGOptions, SACOptions, TD3Options
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import ReplayOptions
from tests.objectives.test_reinforcement import CARTPOLE, PENDULUM, _only_batch, _parts, _train, _transitions

PICTURE = Signature(
    inputs={"observation": Input(form="image", shape=(1, 8, 8))},
    outputs={"action": Output(form="continuous", size=2, low=(-1.0, 0.0), high=(1.0, 4.0))},
)


def _built(options: Any) -> tuple[Any, Any, Any]:
    objective, learner = _parts(PENDULUM, DeterministicOptions(sizes=(8,)), options)
    for module in (learner.target, learner.targets):
        for parameter in module.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    raw = _transitions(16, 2, torch.rand(16, 1) * 2 - 1, size=3, weight=torch.rand(16))
    return objective, learner, objective.prepare(learner, raw)


@pytest.mark.parametrize("kind", ["td3", "ddpg"])
def test_losses_are_the_papers(kind: str) -> None:
    own: Any = TD3Options(target_noise=0.8, noise_clip=0.5, gamma=0.9, critic_sizes=(8,))
    objective, learner, experience = _built(own if kind == "td3" else DDPGOptions(gamma=0.9, critic_sizes=(8,)))
    batch = _only_batch(objective, experience)
    losses = {step.name: step.loss(learner, batch, {}) for step in objective.steps(learner)}
    critics = 2 if kind == "td3" else 1
    assert len(learner.critics.weights[0]) == critics
    critic = actor = 0.0
    with torch.no_grad():
        for i in range(16):
            row: Any = batches.part(batch, i, i + 1)
            now, following = row["observation"]["observation"], row["next_observation"]["observation"]
            action = learner.target(row["next_observation"])[0]["mean"]
            if kind == "td3":
                assert float(row["noise"].abs()) <= 0.5
                action = torch.clamp(action + row["noise"], -1, 1)
            value = min(float(v) for v in learner.targets(following, action))
            goal = float(row["reward"]) + float(row["discount"]) * value
            errors = [float(v) - goal for v in learner.critics(now, row["action"])]
            critic += float(row["weight"]) * sum(error**2 for error in errors)
            item = float(losses["critic"].items["td"][i])
            assert item == pytest.approx(sum(abs(error) for error in errors) / critics, rel=1e-4)
            mine = learner.model(row["observation"])[0]["mean"]
            actor -= float(row["weight"]) * float(learner.critics(now, mine)[0])
    assert float(losses["critic"].terms["td"].sum.detach()) == pytest.approx(critic, rel=1e-4)
    assert float(losses["actor"].terms["policy"].sum.detach()) == pytest.approx(actor, rel=1e-4)


def test_the_actors_gradient_is_that_of_the_first_critic_through_the_action() -> None:
    objective, learner, experience = _built(TD3Options(critic_sizes=(8,)))
    batch = _only_batch(objective, experience)
    actor = objective.steps(learner)[1]
    found = torch.autograd.grad(actor.loss(learner, batch, {}).terms["policy"].sum, list(actor.parameters))
    observation = batch["observation"]
    action = learner.model(observation)[0]["mean"]
    values = learner.critics(observation["observation"], action)
    expected = torch.autograd.grad(-(values[0] * batch["weight"]).sum(), list(actor.parameters))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected))


def test_actor_and_targets_move_together_every_second_update() -> None:
    objective, learner, _ = _built(TD3Options(delay=2, tau=0.25, critic_sizes=(8,)))
    assert [step.every for step in objective.steps(learner)] == [1, 2]
    for update in range(1, 6):
        before = [p.clone() for p in (*learner.targets.parameters(), *learner.target.parameters())]
        fast = [*learner.critics.parameters(), *learner.model.parameters()]
        for parameter in fast:
            parameter.data.add_(1.0)
        objective.after_update(learner, Clock(updates=update))
        # The engine takes the actor's step in updates 0, 2, 4, ..., before it counts them.
        moved = 0.25 if (update - 1) % 2 == 0 else 0.0
        after = [*learner.targets.parameters(), *learner.target.parameters()]
        for was, now, towards in zip(before, after, fast):
            assert torch.allclose(now, was + moved * (towards - was), atol=1e-5)


def test_exploration_noise_is_added_in_learner_space_and_clipped() -> None:
    policy = Deterministic(DeterministicOptions(sizes=(8,), exploration=0.5), PICTURE)
    outputs = {"mean": torch.tensor([[0.2, -0.9]])}
    assert torch.allclose(policy.sample(outputs, torch.tensor([[1.0, -1.0]])), torch.tensor([[0.7, -1.0]]))
    assert torch.allclose(policy.scale(torch.tensor([[0.7, -1.0]])), torch.tensor([[0.7, 0.0]]))


@pytest.mark.parametrize("kind", ["td3", "sac"])
def test_critics_have_encoders_of_their_own_where_the_perception_learns(kind: str) -> None:
    torch.manual_seed(0)
    encoders: Any = {"observation": CNNOptions(width=4, stages=1)}
    model: Any = (
        DeterministicOptions(sizes=(8,), encoders=encoders)
        if kind == "td3"
        else SquashedGaussianOptions(sizes=(8,), encoders=encoders)
    )
    options: Any = TD3Options(critic_sizes=(8,)) if kind == "td3" else SACOptions(critic_sizes=(8,))
    objective = REGISTRY.build("objective", options, PICTURE)
    learner = objective.build(REGISTRY.build("model", model, PICTURE))
    g = torch.Generator().manual_seed(0)
    pictures = [torch.randint(256, (6, 1, 8, 8), generator=g, dtype=torch.uint8) for _ in range(2)]
    raw = Experience(
        {
            "observation": {"observation": pictures[0]}, "action": torch.rand(6, 2) * 2 - 1,
            "rewards": torch.randn(6, 1), "length": torch.ones(6, dtype=torch.int64),
            "next_observation": {"observation": pictures[1]}, "terminated": torch.zeros(6, dtype=torch.bool),
        },
        extra={"updates": torch.tensor(1)},
    )  # fmt: skip
    batch = _only_batch(objective, objective.prepare(learner, raw))
    steps = {step.name: step for step in objective.steps(learner)}
    own = {id(p) for p in learner.model.parameters()}
    assert not any(id(p) in own for p in steps["critic"].parameters)
    seeing = [p for name, p in learner.critics.named_parameters() if name.startswith("perception.")]
    gradients = torch.autograd.grad(steps["critic"].loss(learner, batch, {}).terms["td"].sum, seeing)
    assert seeing
    assert all(bool(g.any()) for g in gradients), "its encoders learn from values"
    seeing = list(learner.model.perception.parameters())
    gradients = torch.autograd.grad(steps["actor"].loss(learner, batch, {}).terms["policy"].sum, seeing)
    assert all(bool(g.any()) for g in gradients), "the actor's own learn from its steps"
    before = [p.clone() for p in learner.targets.parameters()]
    for parameter in learner.critics.parameters():
        parameter.data.add_(1)
    objective.after_update(learner, Clock(updates=1))
    assert all(not torch.equal(a, b) for a, b in zip(before, learner.targets.parameters()))


def test_critics_share_the_policys_running_statistics_and_nothing_that_learns() -> None:
    signature = Signature(inputs={"observation": Input(form="box", shape=(3,))}, outputs=PICTURE.outputs)
    options = DeterministicOptions(
        sizes=(8,), normalise=True, encoders={"observation": REGISTRY.find("encoder", "linear").options(size=4)}
    )
    policy = Deterministic(options, signature)
    critics = Critics(policy.perception, 2, (8,), "relu")
    targets = critics.target(policy.perception)
    observation = {"observation": torch.randn(4, 3)}
    before = [c.see(policy.perception, observation).clone() for c in (critics, targets)]
    one = torch.ones(3, dtype=torch.float64)
    policy.observe({"observation": {"count": torch.tensor(9.0).double(), "mean": 5 * one, "squares": 9 * one}})
    after = [c.see(policy.perception, observation) for c in (critics, targets)]
    assert all(not torch.allclose(a, b) for a, b in zip(before, after))
    assert torch.allclose(*after)
    assert not {id(p) for p in critics.parameters()} & {id(p) for p in policy.parameters()}


@pytest.mark.parametrize(
    "options", [TD3Options(critic_sizes=(32,)), DDPGOptions(critic_sizes=(32,))], ids=["td3", "ddpg"]
)
def test_it_finds_the_best_action_within_the_bounds(options: Any) -> None:

    environment = EnvironmentOptions(id="Aim-v0", count=4)
    source = ReplayOptions(learning_starts=200, updates_per_step=0.5)
    learn = Learn(batch=64, lr=3e-3, stop=Stop(updates=500), threads=1, compile="off")
    # Any constant action has a return of -3 at best.
    assert _train(environment, DeterministicOptions(sizes=(32,)), options, source, learn) > -0.6


def test_it_refuses_what_it_can_not_train() -> None:
    with pytest.raises(ReinforgeError, match="continuous"):
        _parts(CARTPOLE, QNetworkOptions(), TD3Options())
    with pytest.raises(ReinforgeError, match="deterministic"):
        _parts(PENDULUM, SquashedGaussianOptions(), TD3Options())
