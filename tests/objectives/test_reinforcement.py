"""DQN, SAC and PPO: losses and targets against brute force, splits, and what they learn on small environments."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock, Experience, Loss, Outcome
from reinforge.engine.loop import Engine
from reinforge.engine.options import AdamOptions
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ReinforgeError
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions, QNetworkOptions, SquashedGaussianOptions
from reinforge.objectives.options import DQNOptions, PPOOptions, SACOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import EpsilonOptions, ReplayOptions, RolloutOptions
from tests.environments.probes import Aim, Drift, Recall

for _name, _entry, _limit in (("Recall-v0", Recall, None), ("Drift-v0", Drift, 25), ("Aim-v0", Aim, None)):
    if _name not in gym.registry:
        gym.register(_name, _entry, max_episode_steps=_limit)  # type: ignore[arg-type]

CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=4)
PENDULUM = EnvironmentOptions(id="Pendulum-v1", count=2)


def _parts(environment: EnvironmentOptions, model: Any, objective: Any) -> tuple[Any, Any]:
    found = signature(environment)
    torch.manual_seed(0)
    built = REGISTRY.build("objective", objective, found)
    return built, built.build(REGISTRY.build("model", model, found))


def _transitions(rows: int, n: int, action: Tensor, size: int = 4, updates: int = 1, **more: Tensor) -> Experience:
    g = torch.Generator().manual_seed(3)
    length = torch.randint(1, n + 1, (rows,), generator=g)
    rewards = torch.randn(rows, n, generator=g) * (torch.arange(n) < length[:, None])
    columns = {
        "observation": {"observation": torch.randn(rows, size, generator=g)},
        "action": action, "rewards": rewards, "length": length,
        "next_observation": {"observation": torch.randn(rows, size, generator=g)},
        "terminated": torch.rand(rows, generator=g) < 0.3,
    }  # fmt: skip
    return Experience({**columns, **more}, extra={"updates": torch.tensor(updates)})


def _only_batch(objective: Any, experience: Experience, seed: int = 0) -> Any:
    return next(objective.updates(experience, torch.Generator().manual_seed(seed), Clock()))


# ---------------------------------------------------------------- DQN


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_dqn_loss_is_the_textbooks(double: bool, weighted: bool) -> None:
    objective, learner = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(double=double, gamma=0.9))
    for parameter in learner.target.parameters():
        parameter.data.add_(0.1)
    weight = {"weight": torch.rand(32)} if weighted else {}
    raw = _transitions(32, 3, torch.randint(2, (32,)), **weight)
    batch = _only_batch(objective, objective.prepare(learner, raw))
    loss: Loss = objective.steps(learner)[0].loss(learner, batch, objective.counts(batch))
    total = 0.0
    b: Any = raw.batch
    for i in range(32):
        row: Any = batches.part(raw.batch, i, i + 1)
        q = learner.model(row["observation"])[0]["action"][0, b["action"][i]].detach()
        following = learner.target(row["next_observation"])[0]["action"][0]
        chooser = learner.model if double else learner.target
        best = chooser(row["next_observation"])[0]["action"][0].argmax()
        k = int(b["length"][i])
        goal = sum(0.9**j * float(b["rewards"][i, j]) for j in range(k))
        goal += 0.0 if b["terminated"][i] else 0.9**k * float(following[best])
        error = abs(float(q) - goal)
        huber = 0.5 * error**2 if error <= 1 else error - 0.5
        total += huber * (float(b["weight"][i]) if weighted else 1.0)
        if weighted:
            assert abs(float(loss.items["td"][i])) == pytest.approx(error, abs=1e-5)
    assert float(loss.terms["td"].sum) == pytest.approx(total, rel=1e-5)
    assert int(objective.counts(batch)["td"]) == 32


def test_no_gradient_flows_into_the_target() -> None:
    objective, learner = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(double=True))
    batch = _only_batch(objective, objective.prepare(learner, _transitions(8, 1, torch.randint(2, (8,)))))
    objective.steps(learner)[0].loss(learner, batch, {}).terms["td"].sum.backward()
    assert all(p.grad is None for p in learner.target.parameters())
    assert all(p.grad is not None for p in learner.model.parameters())


def test_the_target_period_counts_updates_and_polyak_averages() -> None:
    objective, learner = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(period=3, tau=0.25))
    before = [p.clone() for p in learner.target.parameters()]
    for update in range(1, 7):
        for parameter in learner.model.parameters():
            parameter.data.add_(1.0)
        objective.after_update(learner, Clock(updates=update))
        if update % 3 == 0:
            before = [0.75 * b + 0.25 * p for b, p in zip(before, learner.model.parameters())]
        assert all(torch.allclose(b, t) for b, t in zip(before, learner.target.parameters())), update


def test_targets_computed_at_once_equal_those_computed_per_update() -> None:
    """Where the target stands still during an experience it may be computed once; else it must not be."""
    raw = _transitions(24, 2, torch.randint(2, (24,)), updates=3)
    objective, learner = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(period=5, tau=1.0))
    seen = []
    for updates in (0, 3):  # the target moves after 5: within the second experience
        prepared = objective.prepare(learner, raw)
        seen.append("goal" in prepared.batch)
        generator = objective.updates(prepared, torch.Generator(), Clock())
        outcome = Outcome({}, {})
        batch: Any = next(generator)
        for i in range(3):
            loss = objective.steps(learner)[0].loss(learner, batch, {})
            part = batches.part(raw.batch, 8 * i, 8 * i + 8)
            alone = dataclasses.replace(raw, batch=part, extra={"updates": torch.tensor(1000)})
            slow = objective.steps(learner)[0].loss(learner, objective.prepare(learner, alone).batch, {})
            assert float(loss.terms["td"].sum) == pytest.approx(float(slow.terms["td"].sum), rel=1e-5)
            for parameter in learner.model.parameters():
                parameter.data.add_(0.05)
            objective.after_update(learner, Clock(updates=updates + i + 1))
            if i < 2:
                batch = generator.send(outcome)
        with pytest.raises(StopIteration):
            generator.send(outcome)
    assert seen == [True, False]


def test_where_the_target_is_in_its_period_survives_a_restart() -> None:
    """Else targets would be computed at once for an experience in whose middle the target moves."""
    raw = _transitions(24, 2, torch.randint(2, (24,)), updates=3)
    objective, learner = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(period=5, tau=1.0))
    for updates in range(1, 4):
        objective.after_update(learner, Clock(updates=updates))
    _, resumed = _parts(CARTPOLE, QNetworkOptions(sizes=(8,)), DQNOptions(period=5, tau=1.0))
    resumed.load_state_dict(learner.state_dict())
    for one in (learner, resumed):
        assert "goal" not in objective.prepare(one, raw).batch


# ---------------------------------------------------------------- SAC


def _sac() -> tuple[Any, Any, Any]:
    options = SACOptions(critic_sizes=(8,), gamma=0.9, temperature=0.3)
    objective, learner = _parts(PENDULUM, SquashedGaussianOptions(sizes=(8,)), options)
    raw = _transitions(16, 2, torch.rand(16, 1) * 2 - 1, size=3, weight=torch.rand(16))
    return objective, learner, objective.prepare(learner, raw)


def test_sac_losses_are_the_papers() -> None:
    objective, learner, experience = _sac()
    batch = _only_batch(objective, experience)
    losses: dict[str, Loss] = {}
    for step in objective.steps(learner):
        losses[step.name] = step.loss(learner, batch, {})
        batch = {**batch, **losses[step.name].carry}
    assert list(losses) == ["critic", "actor", "temperature"]
    critic = actor = temperature = entropy = 0.0
    for i in range(16):
        row: Any = batches.part(batch, i, i + 1)
        w = float(row["weight"])
        next_action, next_log = learner.act(row["next_observation"], row["next_noise"])
        now, following = row["observation"]["observation"], row["next_observation"]["observation"]
        soft = min(float(v) for v in learner.targets(following, next_action)) - 0.3 * float(next_log)
        goal = float(row["reward"]) + float(row["discount"]) * soft
        critic += w * sum(0.5 * (float(v) - goal) ** 2 for v in learner.critics(now, row["action"]))
        action, log_prob = learner.act(row["observation"], row["noise"])
        actor += w * (0.3 * float(log_prob) - min(float(v) for v in learner.critics(now, action)))
        temperature += w * float(learner.log_temperature) * (-float(log_prob) + 1.0)
        entropy -= float(log_prob)
    assert float(losses["critic"].terms["td"].sum) == pytest.approx(critic, rel=1e-4)
    assert float(losses["actor"].terms["policy"].sum) == pytest.approx(actor, rel=1e-4)
    assert float(losses["actor"].terms["entropy"].sum) == pytest.approx(entropy, rel=1e-4)
    assert float(losses["temperature"].terms["temperature"].sum) == pytest.approx(temperature, rel=1e-4)
    gradient = torch.autograd.grad(losses["temperature"].terms["temperature"].sum, learner.log_temperature)[0]
    assert float(gradient) * float(learner.log_temperature) == pytest.approx(temperature, rel=1e-4)


def test_sac_steps_own_disjoint_parameters_and_the_actor_has_gradients_through_its_action() -> None:
    objective, learner, experience = _sac()
    batch = _only_batch(objective, experience)
    steps = objective.steps(learner)
    owned = [id(p) for step in steps for p in step.parameters]
    assert len(owned) == len(set(owned))
    actor = steps[1]
    gradients = torch.autograd.grad(actor.loss(learner, batch, {}).terms["policy"].sum, list(actor.parameters))
    assert all(float(g.abs().sum()) > 0 for g in gradients)


def test_sac_draws_noise_of_its_own_for_each_action_from_the_generator_alone() -> None:
    objective, _, prepared = _sac()
    one, again = (next(objective.updates(prepared, torch.Generator().manual_seed(3), Clock())) for _ in range(2))
    assert one["noise"].shape == one["next_noise"].shape == (16, 1)
    assert not torch.equal(one["noise"], one["next_noise"])
    assert torch.equal(one["noise"], again["noise"])
    assert torch.equal(one["next_noise"], again["next_noise"])


def test_the_target_entropy_is_minus_the_dimensions_in_learner_space() -> None:
    objective, _, _ = _sac()
    assert objective.target_entropy == -1.0


# ---------------------------------------------------------------- PPO


def _memory(size: int | None) -> MemoryOptions | None:
    return None if size is None else MemoryOptions(size=size)


def _ppo(memory: int | None = None, environment: EnvironmentOptions = CARTPOLE, **options: Any) -> tuple[Any, Any, Any]:
    objective, learner = _parts(
        environment, ActorCriticOptions(sizes=(8,), memory=_memory(memory)), PPOOptions(**options)
    )
    source = REGISTRY.build(
        "source", RolloutOptions(steps=24, sequence=6 if memory else None), environment=environment, seed=0, batch=0
    )
    source.publish(learner, Clock())
    source.next(Clock())
    with torch.no_grad():
        return objective, learner, objective.prepare(learner, source.next(Clock()))


@pytest.mark.parametrize("memory", [None, 8])
@pytest.mark.parametrize("environment", [CARTPOLE, PENDULUM])
def test_the_first_ratio_is_one(memory: int | None, environment: EnvironmentOptions) -> None:
    """Old log-probs come from the training forward; only then is the first policy loss minus the mean advantage."""
    objective, learner, experience = _ppo(memory, environment, minibatches=2)
    generator = objective.updates(experience, torch.Generator().manual_seed(0), Clock())
    batch = next(generator)
    loss = objective.steps(learner)[0].loss(learner, batch, objective.counts(batch))
    assert float(loss.terms["kl"].sum) == pytest.approx(0, abs=1e-6)
    assert float(loss.terms["clipped"].sum) == 0
    assert float(loss.terms["policy"].sum) == pytest.approx(0, abs=1e-3), "normalised advantages sum to 0"


@pytest.mark.parametrize("memory", [None, 8])
def test_advantages_bootstrap_from_the_true_final_observation(memory: int | None) -> None:
    """Against the definition, step by step, on an environment with ends of both kinds."""
    environment = EnvironmentOptions(id="Drift-v0", count=3)
    objective, learner = _parts(
        environment, ActorCriticOptions(sizes=(8,), memory=_memory(memory)), PPOOptions(gae_lambda=0.7)
    )
    source = REGISTRY.build("source", RolloutOptions(steps=60), environment=environment, seed=0, batch=0)
    source.publish(learner, Clock())
    source.next(Clock())
    rollout = source.next(Clock())
    b: Any = rollout.batch
    assert b["terminated"].any()
    assert b["truncated"].any()
    with torch.no_grad():
        prepared: Any = objective.prepare(learner, rollout).batch
        for row in range(3):
            state = None if memory is None else {"memory": b["memory"]["memory"][row : row + 1]}
            values, after = [], []
            for t in range(60):
                at = {"observation": b["observation"]["observation"][row, t][None], "start": b["start"][row, t][None]}
                outputs, state = learner.model(at, state)
                values.append(float(outputs["value"]))
                final, _ = learner.model({"observation": b["final_observation"]["observation"][row, t][None]}, state)
                after.append(float(final["value"]))
            for t in range(60):
                total, weight = 0.0, 1.0
                for s in range(t, 60):
                    bootstrap = 0.0 if b["terminated"][row, s] else 0.99 * after[s]
                    total += weight * (float(b["reward"][row, s]) + bootstrap - values[s])
                    if b["terminated"][row, s] or b["truncated"][row, s]:
                        break
                    weight *= 0.99 * 0.7
                assert float(prepared["advantage"].view(3, 60)[row, t]) == pytest.approx(total, abs=1e-4)


def test_advantages_are_normalised_over_the_update_however_it_is_split_and_not_at_size_one() -> None:
    objective, learner, experience = _ppo(minibatches=1)
    batch: Any = next(objective.updates(experience, torch.Generator().manual_seed(0), Clock()))
    counts = objective.counts(batch)
    valid, advantage = batch["valid"], batch["advantage"]
    from reinforge.objectives.ppo import _normalised

    expected = (advantage - advantage[valid].mean()) / (advantage[valid].std() + 1e-8)
    assert torch.allclose(_normalised(advantage, counts), expected, atol=1e-5)
    loss = objective.steps(learner)[0].loss
    whole = loss(learner, batch, counts).terms
    parts = [loss(learner, part, counts).terms for part in batches.split(batch, 7)]
    for name, term in whole.items():
        assert float(sum(p[name].sum for p in parts)) == pytest.approx(float(term.sum), abs=1e-3)
    one = batches.part(batch, 0, 1)
    assert torch.equal(_normalised(advantage[:1], objective.counts(one)), advantage[:1])


def test_the_surrogate_is_clipped_on_the_pessimistic_side_only() -> None:
    objective, learner, experience = _ppo(clip=0.2, normalise_advantages=False, minibatches=1)
    batch: Any = dict(next(objective.updates(experience, torch.Generator().manual_seed(0), Clock())))
    batch["valid"] = torch.ones_like(batch["valid"])
    with torch.no_grad():
        outputs, _ = learner.model({**batch["observation"], "start": batch["start"]})
        now = outputs["action"].log_softmax(-1).gather(-1, batch["action"][..., None])[..., 0]
    for ratio, advantage, expected in ((1.5, 1.0, 1.2), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, -0.8)):
        batch["log_prob"] = now - torch.tensor(ratio).log()
        batch["advantage"] = torch.full_like(batch["advantage"], advantage)
        terms = objective.steps(learner)[0].loss(learner, batch, objective.counts(batch)).terms
        assert float(terms["policy"].sum) / batch["valid"].numel() == pytest.approx(-expected, rel=1e-4)


def test_updates_end_where_the_policy_moved_too_far_and_each_epoch_has_every_sequence_once() -> None:
    objective, _, experience = _ppo(memory=8, epochs=2, minibatches=3, kl_limit=0.1)
    rows = batches.rows(experience.batch)
    assert rows == 4 * 24 // 6

    def drive(kl: float) -> list[Any]:
        generator = objective.updates(experience, torch.Generator().manual_seed(0), Clock())
        got = [next(generator)]
        while True:
            try:
                got.append(generator.send(Outcome({"ppo/kl": torch.tensor(kl)}, {})))
            except StopIteration:
                return got

    assert len(drive(0.2)) == 1
    every = drive(0.05)
    assert len(every) == 6
    for epoch in (every[:3], every[3:]):
        found = torch.cat([b["log_prob"] for b in epoch]).sort(0)[0]
        assert torch.equal(found, experience.batch["log_prob"].sort(0)[0])  # type: ignore[union-attr]


def test_observation_statistics_change_between_rollouts_only() -> None:
    objective, learner = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,), normalise=True), PPOOptions())
    source = REGISTRY.build("source", RolloutOptions(steps=8), environment=CARTPOLE, seed=0, batch=0)
    source.publish(learner, Clock())
    first = source.next(Clock())
    assert float(learner.model.normalisers["observation"].count) == 0, (
        "the rollout is learned from with what it was acted with"
    )
    with torch.no_grad():
        objective.prepare(learner, first)
    source.publish(learner, Clock())
    source.publish(learner, Clock())
    assert float(learner.model.normalisers["observation"].count) == 0
    source.next(Clock())
    assert float(learner.model.normalisers["observation"].count) == 32


# ---------------------------------------------------------------- learning


def _train(
    environment: EnvironmentOptions, model: Any, objective: Any, source: Any, learn: Learn, seed: int = 0
) -> Any:
    built, learner = _parts(environment, model, objective)
    experience = REGISTRY.build("source", source, environment=environment, seed=seed, batch=learn.batch)
    engine = Engine(built, learner.model, experience, learn=learn, seed=seed)
    engine.run()
    return EpisodeEvaluator(environment, episodes=40, seed=1).run(engine.learner.model, "test").returns.mean()  # type: ignore[union-attr]


def test_recurrent_ppo_learns_what_needs_a_memory() -> None:
    learn = Learn(lr=5e-3, clip=0.5, optimizer=AdamOptions(eps=1e-5), stop=Stop(steps=8_000), threads=1, compile="off")
    objective = PPOOptions(epochs=4, minibatches=2, gae_lambda=0.95, entropy_weight=0.01)
    environment = EnvironmentOptions(id="Recall-v0", count=16)
    source = RolloutOptions(steps=32, sequence=16)
    remembering = _train(
        environment, ActorCriticOptions(sizes=(16,), memory=MemoryOptions(size=16)), objective, source, learn
    )
    assert remembering > 0.95
    blind = _train(environment, ActorCriticOptions(sizes=(16,)), objective, source, learn)
    assert blind < 0.8, "without a memory it can only guess"


def test_dqn_learns_what_is_asked_at_once() -> None:
    environment = EnvironmentOptions(id="Recall-v0", count=4, options={"delay": 0})
    source = ReplayOptions(learning_starts=100, updates_per_step=1, epsilon=EpsilonOptions(steps=500, end=0.2))
    learn = Learn(batch=32, lr=3e-3, stop=Stop(updates=300), threads=1, compile="off")
    assert _train(environment, QNetworkOptions(sizes=(16,)), DQNOptions(tau=0.05), source, learn) == 1.0


def test_sac_finds_the_best_action_within_the_bounds() -> None:
    environment = EnvironmentOptions(id="Aim-v0", count=4)
    source = ReplayOptions(learning_starts=200, updates_per_step=0.5)
    learn = Learn(batch=64, lr=3e-3, stop=Stop(updates=500), threads=1, compile="off")
    model, objective = SquashedGaussianOptions(sizes=(32,)), SACOptions(critic_sizes=(32,), temperature=0.1)
    # Any constant action has a return of -3 at best.
    assert _train(environment, model, objective, source, learn) > -0.6


def test_objectives_refuse_what_they_can_not_train() -> None:
    with pytest.raises(ReinforgeError, match="discrete"):
        _parts(PENDULUM, QNetworkOptions(), DQNOptions())
    with pytest.raises(ReinforgeError, match="continuous"):
        _parts(CARTPOLE, SquashedGaussianOptions(), SACOptions())
    with pytest.raises(ReinforgeError, match="actor-critic"):
        _parts(CARTPOLE, QNetworkOptions(), PPOOptions())


def test_the_explained_part_of_the_returns_is_one_less_the_error_over_the_variance() -> None:
    """By definition, with steps that don't count."""
    from reinforge.objectives.ppo import _explained

    g = torch.Generator().manual_seed(1)
    returns, values = torch.randn(10, 4, generator=g) * 3 + 5, torch.randn(10, 4, generator=g) * 2 + 5
    valid = torch.rand(10, 4, generator=g) < 0.8
    expected = 1 - float((values - returns)[valid].square().mean() / returns[valid].var(correction=0))
    assert float(_explained(returns - values, values, valid)) == pytest.approx(expected, rel=1e-5)
    assert float(_explained(2 - values, values, valid)) == 0, "all returns are the same"
