"""Replay: real transitions, n-step returns, priorities, sealed segments, against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reinforge.core.batch import Batch, leaves, section
from reinforge.core.contracts import Clock, Experience, Outcome
from reinforge.core.sealed import Sealed
from reinforge.core.tree import pack, unpack
from reinforge.environments.build import build, signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import NativeEnvironments, Transition
from reinforge.models.policy_options import QNetworkOptions, SquashedGaussianOptions
from reinforge.objectives.options import DQNOptions, SACOptions
from reinforge.registry import REGISTRY
from reinforge.sources.buffer import TransitionBuffer
from reinforge.sources.collector import Collector, as_batch, epsilon_at
from reinforge.sources.options import EpsilonOptions, PrioritiesOptions, ReplayOptions
from reinforge.sources.priorities import SumTree
from reinforge.sources.replay import Priorities, ReplaySource
from tests.environments.probes import Counter

CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=3)


def same(one: Batch, other: Batch) -> bool:
    """The same leaves, bit for bit."""
    pairs = zip(leaves(one), leaves(other), strict=True)
    return list(one) == list(other) and all(torch.equal(a, b) for a, b in pairs)  # type: ignore[arg-type]


def _filled(capacity: int, steps: int, count: int, seed: int) -> tuple[TransitionBuffer, list[dict[str, Any]]]:
    """A buffer and, as plain rows, all that was ever added, with ends of every kind and steps that are not valid."""
    environments = SynchronousEnvironments(Counter, count, 0, "probe")
    buffer = TransitionBuffer(capacity, environments.codec, count)
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    resetting = np.zeros(count, bool)
    episode = np.arange(count)
    for time in range(steps):
        observation = np.stack([episode, np.full(count, time)], 1).astype(np.float32)
        ends = generator.choice(3, size=count, p=[0.7, 0.15, 0.15])
        valid = ~resetting
        terminated, truncated = (ends == 1) & valid, (ends == 2) & valid
        # What an episode ends with is seen nowhere else.
        after = observation + np.stack([0.5 * (terminated | truncated), np.ones(count)], 1).astype(np.float32)
        step = Transition(
            {"observation": observation}, generator.normal(size=count).astype(np.float32), terminated, truncated,
            {"observation": after},
            valid, resetting,
        )  # fmt: skip
        numbers = buffer.add({"observation": observation}, generator.integers(2, size=count), step)
        assert numbers.tolist() == list(range(len(rows), len(rows) + int(valid.sum())))
        for i in np.flatnonzero(valid):
            rows.append({
                "episode": episode[i], "observation": observation[i], "reward": step.reward[i],
                "next": after[i], "terminated": terminated[i], "done": (terminated | truncated)[i],
            })  # fmt: skip
        resetting = terminated | truncated
        episode = np.where(resetting, episode + count, episode)
    return buffer, rows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 50), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_n_step_stops_at_every_end_and_at_the_write_head(
    capacity: int, steps: int, count: int, n: int, seed: int
) -> None:
    buffer, rows = _filled(capacity, steps, count, seed)
    alive = np.arange(buffer.oldest, buffer.total)
    assert len(alive) == min(len(rows), capacity)
    found = buffer.gather(alive, n)
    for place, number in enumerate(alive.tolist()):
        chain = [number]
        while len(chain) < n and not rows[chain[-1]]["done"]:
            later = [k for k in range(chain[-1] + 1, len(rows)) if rows[k]["episode"] == rows[number]["episode"]]
            if not later:
                break
            chain.append(later[0])
        rewards = [rows[k]["reward"] for k in chain] + [0.0] * (n - len(chain))
        assert found["length"][place] == len(chain)
        assert found["rewards"][place].tolist() == pytest.approx(rewards)
        assert np.array_equal(found["observation"]["observation"][place], rows[number]["observation"])
        assert np.array_equal(found["next_observation"]["observation"][place], rows[chain[-1]]["next"])
        assert found["terminated"][place] == rows[chain[-1]]["terminated"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 50), st.integers(0, 50), st.integers(1, 3), st.integers(0, 10**6))
def test_a_restored_buffer_is_the_same_and_goes_on_the_same(
    capacity: int, steps: int, more: int, count: int, seed: int
) -> None:
    buffer, _ = _filled(capacity, steps, count, seed)
    other, _ = _filled(capacity, more, count, seed + 1)  # what stands there before must not matter
    packed = pack(buffer.state_dict())
    other.load_state_dict(unpack(packed.skeleton, packed.tensors, packed.sealed))
    assert (other.total, other.oldest) == (buffer.total, buffer.oldest)
    alive = np.arange(buffer.oldest, buffer.total)
    assert same(as_batch(buffer.gather(alive, 4)), as_batch(other.gather(alive, 4)))
    shape = {"observation": np.zeros((count, 2), np.float32)}
    flags = np.zeros(count, bool)
    for k in range(6):
        step = Transition(shape, np.full(count, k, np.float32), flags, np.full(count, k == 2), shape, ~flags, flags)
        for b in (buffer, other):
            b.add(shape, np.zeros(count, np.int64), step)
    one, two = (pack(b.state_dict()) for b in (buffer, other))
    assert one.skeleton == two.skeleton
    assert all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())
    alive = np.arange(buffer.oldest, buffer.total)
    assert same(as_batch(buffer.gather(alive, 4)), as_batch(other.gather(alive, 4)))


def test_full_segments_are_sealed_once_and_never_change() -> None:
    buffer, _ = _filled(64, 30, 2, 0)
    first: list[Sealed] = buffer.state_dict()["sealed"]
    assert first
    again: list[Sealed] = buffer.state_dict()["sealed"]
    assert [a is b for a, b in zip(first, again)] == [True] * len(first), "hashed and copied once"
    names = [sealed.name for sealed in first]
    assert len(set(names)) == len(names)
    assert all(c.isalnum() or c in "-_" for name in names for c in name)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(0, 10**6))
def test_the_sum_tree_is_a_running_sum(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tree, plain = SumTree(size), np.zeros(size)
    for _ in range(5):
        index = generator.integers(size, size=generator.integers(1, size + 1))
        value = generator.random(len(index)) * generator.integers(0, 2, len(index))
        tree.set(index, value)
        for i, v in zip(index, value):
            plain[i] = v
        assert np.array_equal(tree.leaves, plain)
        assert tree.total == pytest.approx(plain.sum())
    if plain.sum() > 0:
        mass = np.linspace(0, plain.sum(), 50, endpoint=False)
        found = tree.find(mass)
        assert (plain[found] > 0).all()
        assert np.array_equal(found, np.searchsorted(plain.cumsum(), mass, side="right")) or np.allclose(
            plain.cumsum()[found], plain.cumsum()[np.searchsorted(plain.cumsum(), mass, side="right")], atol=1e-9
        )
    restored = SumTree(size)
    restored.load(tree.leaves.copy())
    assert np.array_equal(restored._nodes, tree._nodes), "a function of its leaves alone, to the bit"


def _priorities(alpha: float = 0.7, beta: float = 0.5, capacity: int = 40) -> tuple[Priorities, TransitionBuffer]:
    buffer, _ = _filled(capacity, 60, 2, 3)
    priorities = Priorities(PrioritiesOptions(alpha=alpha, beta=beta, beta_steps=100, epsilon=1e-3), buffer)
    for number in range(buffer.total):
        place = np.array([number % buffer.length])
        priorities.tree.set(place, 1.0 if number >= buffer.oldest else 0.0)
    return priorities, buffer


def _outcome(errors: torch.Tensor, skipped: bool = False) -> Outcome:
    return Outcome({}, {"td": errors}, skipped)


def test_prioritised_probabilities_and_weights_are_those_of_the_paper() -> None:
    priorities, buffer = _priorities()
    generator = np.random.default_rng(0)
    alive = np.arange(buffer.oldest, buffer.total)
    errors = generator.exponential(size=len(alive))
    priorities._sampled = alive
    priorities.feedback(_outcome(torch.from_numpy(errors)))
    priorities.feedback(_outcome(torch.zeros(0), skipped=True))
    expected = (errors + 1e-3) ** 0.7
    expected /= expected.sum()
    drawn, weights = [], {}
    for _ in range(1000):
        numbers, weight = priorities.sample(8, generator, 50)
        drawn.append(numbers)
        beta = 0.5 + 0.5 * 0.5
        probability = expected[numbers - buffer.oldest]
        exact = (len(alive) * probability) ** -beta
        assert weight == pytest.approx(exact / exact.max(), rel=1e-5)
        weights.update(zip(numbers.tolist(), weight.tolist()))
    found = np.bincount(np.concatenate(drawn) - buffer.oldest, minlength=len(alive)) / (8 * 1000)
    assert np.abs(found - expected).max() < 0.015


def test_beta_reaches_one_and_alpha_zero_is_uniform() -> None:
    priorities, buffer = _priorities(alpha=0.0)
    numbers, weight = priorities.sample(len(buffer), np.random.default_rng(0), 10**9)
    assert weight == pytest.approx(np.ones(len(buffer)))
    assert sorted(numbers.tolist()) == list(range(buffer.oldest, buffer.total)), "one from each equal part"


def test_new_transitions_get_the_highest_priority_and_dead_ones_none() -> None:
    options = ReplayOptions(capacity=50, learning_starts=0, priorities=PrioritiesOptions())
    source = ReplaySource(options, environment=CARTPOLE, seed=0, batch=8)
    learner = _learner(QNetworkOptions(sizes=(8,)), DQNOptions(), CARTPOLE)
    source.publish(learner, Clock())
    assert source.priorities is not None
    for _ in range(30):
        experience = source.next(Clock())
        assert isinstance(experience, Experience)
        source.feedback(experience, _outcome(torch.full((8,), 5.0)))
        leaves, buffer = source.priorities.tree.leaves, source.buffer
        alive = np.arange(buffer.oldest, buffer.total) % buffer.length
        assert (leaves[alive] > 0).all()
        assert np.count_nonzero(leaves) == len(alive)
    newest = source.buffer.add(
        source.collector.observation,
        np.zeros(3, np.int64),
        source.collector.step(source._policy, np.zeros(3, np.int64)),  # type: ignore[arg-type]
    )
    source.priorities.add(newest)
    assert leaves[newest % buffer.length] == pytest.approx((5.0 + 1e-6) ** 0.6)


def test_errors_of_transitions_that_were_pushed_out_change_nothing() -> None:
    """They come an update late: a leaf set then would let the dead be drawn, or give the new another's priority."""
    options = ReplayOptions(capacity=50, learning_starts=0, priorities=PrioritiesOptions())
    source = ReplaySource(options, environment=CARTPOLE, seed=0, batch=8)
    source.publish(_learner(QNetworkOptions(sizes=(8,)), DQNOptions(), CARTPOLE), Clock())
    experience = source.next(Clock())
    assert isinstance(experience, Experience)
    assert source.priorities is not None
    source.feedback(experience, _outcome(torch.full((8,), 5.0)))
    buffer, leaves, stay = source.buffer, source.priorities.tree.leaves, np.zeros(source.collector.count, np.int64)
    while buffer.oldest <= 8:
        before = source.collector.observation
        numbers = buffer.add(before, stay, source.collector.step(source._policy, stay))  # type: ignore[arg-type]
        source.priorities.add(numbers)
    expected = leaves.copy()
    source.feedback(experience, _outcome(torch.full((8,), 5.0)))
    assert np.array_equal(leaves, expected)


def test_errors_are_applied_one_update_later_whatever_happens_between() -> None:
    priorities, buffer = _priorities()
    generator = np.random.default_rng(0)
    numbers, _ = priorities.sample(4, generator, 0)
    before = priorities.tree.leaves.copy()
    priorities.feedback(_outcome(torch.full((4,), 9.0)))
    assert np.array_equal(priorities.tree.leaves, before)
    priorities.sample(4, generator, 0)
    priorities.feedback(_outcome(torch.full((4,), float("nan")), skipped=True))
    changed = priorities.tree.leaves != before
    assert sorted(np.flatnonzero(changed)) == sorted(set((numbers % buffer.length).tolist()))
    after = priorities.tree.leaves.copy()
    priorities.feedback(_outcome(torch.ones(4)))
    assert np.array_equal(priorities.tree.leaves, after), "a skipped update has no errors"


def test_priorities_refuse_rounds_of_several_updates() -> None:
    with pytest.raises(ValidationError, match="updates_per_round"):
        ReplayOptions(priorities=PrioritiesOptions(), updates_per_round=4)


def _learner(model: Any, objective: Any, environment: EnvironmentOptions) -> Any:
    found = signature(environment)
    torch.manual_seed(0)
    return REGISTRY.build("objective", objective, found).build(REGISTRY.build("model", model, found))


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0])
def test_the_ratio_of_updates_to_steps_is_one_number_at_any_number_of_copies(count: int, ratio: float) -> None:
    environment = EnvironmentOptions(id="CartPole-v1", count=count)
    options = ReplayOptions(learning_starts=50, updates_per_step=ratio, updates_per_round=2)
    source = ReplaySource(options, environment=environment, seed=0, batch=4)
    source.publish(_learner(QNetworkOptions(sizes=(8,)), DQNOptions(), environment), Clock())
    updates = steps = 0
    for _ in range(60):
        experience = source.next(Clock())
        assert isinstance(experience, Experience)
        assert experience.batch["rewards"].shape == (8, 1)  # type: ignore[union-attr]
        updates += int(experience.extra["updates"])
        steps += experience.steps
    assert steps == source.collector.steps == source.buffer.total
    assert updates / (steps - 50) == pytest.approx(ratio, rel=0.15)


def test_every_sampled_transition_is_real_with_a_native_next_step_environment() -> None:
    """CartPole's own dynamics, applied to each sampled observation, give the sampled next observation."""
    source = ReplaySource(ReplayOptions(learning_starts=400), environment=CARTPOLE, seed=0, batch=256)
    assert isinstance(source.collector.environments, NativeEnvironments)
    source.publish(_learner(QNetworkOptions(sizes=(8,)), DQNOptions(), CARTPOLE), Clock())
    experience = source.next(Clock())
    assert isinstance(experience, Experience)
    import gymnasium as gym

    single: Any = gym.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    columns: Any = experience.batch
    before, after = columns["observation"]["observation"].numpy(), columns["next_observation"]["observation"].numpy()
    for row in range(256):
        single.state, single.steps_beyond_terminated = before[row].astype(np.float64), None
        following, reward, terminated, _, _ = single.step(int(columns["action"][row]))
        assert following == pytest.approx(after[row], abs=1e-5)
        assert columns["rewards"][row] == reward
        assert columns["terminated"][row] == terminated


def test_random_actions_are_drawn_for_each_copy_by_itself() -> None:
    environment = EnvironmentOptions(id="CartPole-v1", count=64)
    collector = Collector(build(environment, seed=0), 0)
    policy = _learner(QNetworkOptions(sizes=(8,)), DQNOptions(), environment).model
    best = collector.outputs(policy)["action"].argmax(-1).numpy()
    differing = np.stack([collector.greedy(policy, 0.5) != best for _ in range(200)])
    assert differing.mean() == pytest.approx(0.25, abs=0.02)
    assert differing.any(1).all(), "never once for all"
    assert not differing.all(1).any()
    assert np.array_equal(collector.greedy(policy, 0.0), best)


def test_epsilon_falls_by_environment_steps() -> None:
    options = EpsilonOptions(start=1.0, end=0.1, steps=100)
    assert [epsilon_at(options, s) for s in (0, 50, 100, 500)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_the_buffer_holds_raw_observations_and_actions_in_learner_space() -> None:
    environment = EnvironmentOptions(id="Pendulum-v1", count=2)
    options = ReplayOptions(learning_starts=30)
    source = ReplaySource(options, environment=environment, seed=0, batch=64)
    learner = _learner(SquashedGaussianOptions(sizes=(8,), normalise=True), SACOptions(critic_sizes=(8,)), environment)
    source.publish(learner, Clock())
    for _ in range(20):
        experience = source.next(Clock())
    assert isinstance(experience, Experience)
    action, observation = experience.batch["action"], section(experience.batch, "observation")["observation"]
    assert isinstance(action, torch.Tensor)
    assert action.abs().max() <= 1
    assert torch.allclose(observation[:, 0] ** 2 + observation[:, 1] ** 2, torch.ones(64), atol=1e-5), "cos and sin"
    seen = source.buffer.newest(10**6)["observation"]
    assert float(learner.model.normalisers["observation"].count) == len(seen)
    assert np.allclose(learner.model.normalisers["observation"].mean.numpy(), seen.mean(0), atol=1e-6)


@pytest.mark.parametrize("prioritised", [False, True])
def test_a_restored_source_goes_on_to_the_bit(prioritised: bool) -> None:
    options = ReplayOptions(
        capacity=100, learning_starts=20, n_step=3, priorities=PrioritiesOptions() if prioritised else None
    )
    learner = _learner(QNetworkOptions(sizes=(8,)), DQNOptions(), CARTPOLE)
    first, second = (ReplaySource(options, environment=CARTPOLE, seed=s, batch=8) for s in (0, 1))
    for source in (first, second):
        source.publish(learner, Clock())

    def advance(source: ReplaySource) -> Experience:
        experience = source.next(Clock())
        assert isinstance(experience, Experience)
        errors = section(experience.batch, "observation")["observation"].sum(-1)
        source.feedback(experience, _outcome(errors))
        return experience

    for _ in range(60):
        advance(first)
    packed = pack(first.state_dict())
    second.load_state_dict(unpack(packed.skeleton, packed.tensors, packed.sealed))
    for _ in range(20):
        one, other = advance(first), advance(second)
        assert same(one.batch, other.batch)


def test_a_model_that_can_not_act_is_refused() -> None:
    source = ReplaySource(ReplayOptions(), environment=CARTPOLE, seed=0, batch=8)
    learner = torch.nn.Module()
    learner.model = torch.nn.Linear(4, 2)
    with pytest.raises(Exception, match="can't act"):
        source.publish(learner, Clock())


def test_an_infinite_error_never_reaches_the_tree() -> None:
    """Huber's gradient is finite where the error is not, so the update counts."""
    priorities, _ = _priorities()
    generator = np.random.default_rng(0)
    priorities.sample(4, generator, 0)
    priorities.feedback(_outcome(torch.tensor([1.0, float("inf"), float("nan"), 2.0])))
    priorities.feedback(_outcome(torch.ones(4)))
    assert np.isfinite(priorities.highest)
    assert np.isfinite(priorities.tree.total)
    assert np.isfinite(priorities.sample(4, generator, 0)[1]).all()
