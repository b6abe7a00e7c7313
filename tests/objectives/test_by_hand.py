"""Gradients by hand are those of autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from reinforge.core.contracts import Clock, Loss
from reinforge.engine.loop import Engine
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models import native_tape
from reinforge.models.adapters import adapt
from reinforge.models.decoder_options import LoRAOptions
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    MemoryOptions,
    SquashedGaussianOptions,
)
from reinforge.objectives.options import DDPGOptions, PPOOptions, SACOptions, TD3Options
from reinforge.recipe.sections import Learn, Start, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import ReplayOptions, RolloutOptions
from tests.threads import one_thread

CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=6)
PENDULUM = EnvironmentOptions(id="Pendulum-v1", count=3)


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """By compiled functions, where there is a compiler, and by torch."""
    with one_thread():
        if request.param == "torch":
            monkeypatch.setattr(native_tape, "_built", lambda: (None, None))
        yield


def _parts(environment: EnvironmentOptions, model: ActorCriticOptions, options: PPOOptions) -> tuple[Any, Any, Any]:
    found = signature(environment)
    torch.manual_seed(0)
    objective = REGISTRY.build("objective", options, found)
    source = REGISTRY.build("source", RolloutOptions(steps=12), environment=environment, seed=0, batch=0)
    return objective, REGISTRY.build("model", model, found), source


def _scales(loss: Loss) -> dict[str, float]:
    return {name: t.weight / 7 for name, t in loss.terms.items() if t.weight != 0}


@pytest.mark.parametrize("environment", [CARTPOLE, PENDULUM], ids=["discrete", "continuous"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("more", [{}, {"entropy_weight": 0.05, "value_clip": 0.05}, {"value_weight": 0.0}])
def test_ppo(environment: EnvironmentOptions, activation: Any, shared: bool, more: dict[str, float]) -> None:
    model = ActorCriticOptions(sizes=(16, 8), activation=activation, shared=shared, normalise=True)
    objective, policy, source = _parts(environment, model, PPOOptions(minibatches=1, clip=0.02, **more))
    learner = objective.build(policy)
    source.publish(learner, Clock())
    source.next(Clock())
    with torch.no_grad():
        experience = objective.prepare(learner, source.next(Clock()))
        # Far enough for ratios on both sides of the clip.
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = next(objective.updates(experience, torch.Generator(), Clock()))
    (step,), counts = objective.steps(learner), objective.counts(batch)
    loss = step.loss(learner, batch, counts)
    assert 0 < float(loss.terms["clipped"].sum.detach()) < 72
    scales = _scales(loss)
    roots = [loss.terms[name].sum for name in scales]
    expected = torch.autograd.grad(
        roots, step.parameters, [torch.tensor(scale) for scale in scales.values()], allow_unused=True
    )
    for parameter in step.parameters:
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        found, pull = step.by_hand(learner, batch, counts)
        pull(scales)
    for name, term in loss.terms.items():
        assert float(found.terms[name].sum) == pytest.approx(float(term.sum), rel=1e-4, abs=1e-5), name
        assert found.terms[name].weight == term.weight
    for parameter, gradient in zip(step.parameters, expected):
        wanted = torch.zeros_like(parameter) if gradient is None else gradient
        # Added to what is there.
        assert torch.allclose(parameter.grad - 1, wanted, rtol=1e-4, atol=2e-6)


OFF_POLICY = {"sac": SACOptions, "td3": TD3Options, "ddpg": DDPGOptions}


@pytest.mark.parametrize("kind", OFF_POLICY)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("sizes", [(8,), (16, 8)])
@pytest.mark.parametrize("norm", [None, "layer"])
def test_off_policy(kind: str, activation: Any, weights: bool, sizes: tuple[int, ...], norm: Any) -> None:
    """Each step of an update: losses, what rows carry on, and gradients of its own parameters alone."""
    made = SquashedGaussianOptions if kind == "sac" else DeterministicOptions
    model = made(sizes=(16, 8), activation=activation, normalise=True)
    options = OFF_POLICY[kind](critic_sizes=sizes, critic_activation=activation, critic_norm=norm)
    objective, policy, _ = _parts(PENDULUM, model, options)
    learner = objective.build(policy)
    for parameter in learner.parameters():
        # Far from where it begins: critics that differ, actions and deviations on their slopes.
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    policy.observe({"observation": {"count": torch.tensor(9.0), "mean": torch.full((3,), 0.5),
                                    "squares": torch.full((3,), 7.0)}})  # fmt: skip
    rows = 64
    batch: Any = {name: {"observation": torch.randn(rows, 3)} for name in ("observation", "next_observation")}
    batch |= {"action": torch.rand(rows, 1) * 2 - 1, "noise": torch.randn(rows, 1), "next_noise": torch.randn(rows, 1)}
    batch |= {"reward": torch.randn(rows), "discount": 0.9 * (torch.rand(rows) < 0.8).float()}
    if weights:
        batch["weight"] = torch.rand(rows)
    for step in objective.steps(learner):
        loss = step.loss(learner, batch, {})
        scales = _scales(loss)
        roots = [loss.terms[name].sum for name in scales]
        expected = torch.autograd.grad(roots, step.parameters, [torch.tensor(scale) for scale in scales.values()])
        for parameter in learner.parameters():
            parameter.grad = torch.ones_like(parameter)
        with torch.no_grad():
            found, pull = step.by_hand(learner, batch, {})
            pull(scales)
        for name, term in loss.terms.items():
            assert found.terms[name].sum == pytest.approx(float(term.sum.detach()), rel=1e-4, abs=1e-5), name
            assert found.terms[name].weight == term.weight
        for mine, theirs in ((found.items, loss.items), (found.carry, loss.carry)):
            assert mine.keys() == theirs.keys()
            assert all(torch.allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-5) for name in mine)
        wanted = dict(zip(step.parameters, expected))
        for parameter in learner.parameters():
            gradient = wanted.get(parameter, torch.zeros_like(parameter))
            assert parameter.grad is not None
            # Sums in another order: rounding goes by the largest of what is summed.
            assert torch.allclose(parameter.grad - 1, gradient, rtol=1e-4, atol=2e-6 * max(1, gradient.abs().max()))
        batch |= loss.carry


def test_equal_values_share_the_slope() -> None:
    """Two critics alike: the actor climbs their mean, as autograd has it."""
    objective, policy, _ = _parts(PENDULUM, SquashedGaussianOptions(sizes=(8,)), SACOptions(critic_sizes=(8,)))
    learner = objective.build(policy)
    for parameter in learner.critics.parameters():
        parameter.data[1] = parameter.data[0]
    batch: Any = {"observation": {"observation": torch.randn(5, 3)}, "noise": torch.randn(5, 1)}
    _, step, _ = objective.steps(learner)
    expected = torch.autograd.grad(step.loss(learner, batch, {}).terms["policy"].sum, step.parameters)
    for parameter in step.parameters:
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        step.by_hand(learner, batch, {})[1]({"policy": 1.0})
    assert all(torch.allclose(p.grad, g, rtol=1e-4, atol=1e-6) for p, g in zip(step.parameters, expected))


@pytest.mark.parametrize("kind", OFF_POLICY)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", [None, "layer"])
@pytest.mark.parametrize("microbatch", [None, 12])
def test_the_engine_learns_the_same_off_policy(kind: str, precision: Any, norm: Any, microbatch: int | None) -> None:
    made = SquashedGaussianOptions if kind == "sac" else DeterministicOptions
    trained, measured = [], []
    for by_hand in (True, False):
        objective, policy, _ = _parts(
            PENDULUM, made(sizes=(8, 8)), OFF_POLICY[kind](critic_sizes=(8, 8), critic_norm=norm)
        )
        options = ReplayOptions(capacity=500, learning_starts=32)
        source = REGISTRY.build("source", options, environment=PENDULUM, seed=0, batch=32)
        learn = Learn(
            batch=32, microbatch=microbatch, lr=1e-3, precision=precision, stop=Stop(updates=20), threads=1,
            compile="off",
        )  # fmt: skip
        engine = Engine(objective, policy, source, learn=learn, seed=0)
        engine.updater.by_hand &= by_hand
        means = _watched(engine)
        engine.run()
        trained.append(torch.cat(engine.updater.masters()))
        # What a checkpoint restores goes on adding up.
        engine.updater.load_state_dict(engine.updater.state_dict())
        batch, clock = means[-1][1]
        engine.updater.update(batch, clock, 1.0, {})
        measured.append((means[0][0], means[-1][0]))
    assert torch.allclose(*trained, atol=1e-5 if precision == "fp32" else 4e-3)
    assert not torch.equal(*trained)
    near = {"rel": 1e-3, "abs": 1e-4} if precision == "fp32" else {"rel": 0.1, "abs": 0.05}
    for mine, theirs in zip(*measured):
        assert mine == pytest.approx(theirs, **near)
        assert any(mine.values())


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_actor_and_the_temperature_of_sac_wait_for_the_critics(by_hand: bool) -> None:
    """With a delay of three they move in the first update, the fourth, and so on; the critics in each."""
    options = SACOptions(critic_sizes=(8, 8), delay=3)
    objective, policy, _ = _parts(PENDULUM, SquashedGaussianOptions(sizes=(8, 8)), options)
    replay = ReplayOptions(capacity=500, learning_starts=32)
    source = REGISTRY.build("source", replay, environment=PENDULUM, seed=0, batch=32)
    learn = Learn(batch=32, lr=1e-3, stop=Stop(updates=7), threads=1, compile="off")
    engine = Engine(objective, policy, source, learn=learn, seed=0)
    engine.updater.by_hand &= by_hand
    update, moved = engine.updater.update, []

    def of(name: str) -> list[torch.Tensor]:
        step = next(step for step in objective.steps(engine.learner) if step.name == name)
        return [parameter.detach().clone() for parameter in step.parameters]

    def watched(*given: Any) -> Any:
        before = {name: of(name) for name in ("critic", "actor", "temperature")}
        found = update(*given)
        moved.append({name for name, was in before.items() if not all(map(torch.equal, was, of(name)))})
        return found

    engine.updater.update = watched  # type: ignore[method-assign]
    engine.run()
    everything = {"critic", "actor", "temperature"}
    assert moved == [everything if index % 3 == 0 else {"critic"} for index in range(7)]


def _watched(engine: Engine) -> list[tuple[dict[str, float], Any]]:
    """The means of each update from now on, and its batch and clock."""
    found: list[tuple[dict[str, float], Any]] = []
    update = engine.updater.update

    def watched(batch: Any, clock: Clock, *more: Any) -> Any:
        outcome, decided = update(batch, clock, *more)
        found.append(({name: float(mean) for name, mean in outcome.means.items()}, (batch, clock.copy())))
        return outcome, decided

    engine.updater.update = watched  # type: ignore[method-assign]
    return found


def _trained(by_hand: bool, start: Start | None = None) -> dict[str, torch.Tensor]:
    objective, policy, source = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,)), PPOOptions(epochs=2, minibatches=2))
    learn = Learn(lr=1e-2, clip=0.5, stop=Stop(updates=12), threads=1, compile="off")
    engine = Engine(objective, policy, source, learn=learn, seed=0, start=start)
    engine.updater.by_hand &= by_hand
    means = _watched(engine)
    engine.run()
    first = {name: torch.tensor(mean) for name, mean in means[0][0].items()}
    return first | {name: value.clone() for name, value in engine.learner.state_dict().items()}


def test_the_engine_learns_the_same_by_hand() -> None:
    one, other = _trained(True), _trained(False)
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


def test_what_is_frozen_stays_as_it_is() -> None:
    start = Start(freeze=("body.*",))
    one, other, free = _trained(True, start), _trained(False, start), _trained(True)
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())
    assert not torch.allclose(one["model.body.layers.0.weight"], free["model.body.layers.0.weight"])


def test_what_can_not_be_traced_is_left_to_autograd() -> None:
    for model in (ActorCriticOptions(memory=MemoryOptions(size=4)), ActorCriticOptions(activation="gelu")):
        objective, policy, _ = _parts(CARTPOLE, model, PPOOptions())
        assert objective.steps(objective.build(policy))[0].by_hand is None


def test_adapters_learn_and_act() -> None:
    """Layers with adapters are no plain ones: neither gradients by hand nor the snapshot in NumPy knows them."""
    objective, policy, source = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,)), PPOOptions(minibatches=1, epochs=2))
    adapt(LoRAOptions(rank=2, patterns=("body.*", "*head*")), policy)
    assert not policy.traceable
    assert policy.quick(6) is None
    learn = Learn(lr=1e-2, stop=Stop(updates=4), threads=1, compile="off")
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    Engine(objective, policy, source, learn=learn, seed=0).run()
    moved = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert moved
