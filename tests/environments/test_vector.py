"""Vector environments: both autoreset modes, exact state, broken contracts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reinforge.core.tree import pack, unpack
from reinforge.environments.build import build, signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import Codec
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Environments, NativeEnvironments
from reinforge.errors import EnvironmentFault
from tests.environments.probes import Counter, Drift, Faulty

SCRIPT = ((3, True, False), (2, False, True), (1, True, True), (4, False, True), (1, False, True), (2, True, False))


def _environments(kind: str, make: Any, count: int = 2) -> Environments:
    if kind == "synchronous":
        return SynchronousEnvironments(make, count, 5, "probe")
    vector = SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode(kind))
    return NativeEnvironments(vector, 5, "probe")


KINDS = ["NextStep", "SameStep", "synchronous"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_valid_transition_is_a_real_one_in_each_autoreset_mode(kind: str) -> None:
    """Observation, reward, flags and true next observation of each transition, against the script, for every end."""
    environments = _environments(kind, lambda: Counter(SCRIPT))
    observation = environments.reset()["observation"]
    begun = float(observation[0, 0])
    seen: list[tuple[float, ...]] = []
    for _ in range(40):
        before = observation
        step = environments.step(np.zeros(2, np.int64))
        observation = step.observation["observation"]
        assert not (step.terminated & step.truncated).any(), "a terminal state wins"
        assert np.array_equal(step.start, observation[:, 1] == 0)
        if step.valid[0]:
            flags = float(step.terminated[0]), float(step.truncated[0])
            seen.append((*before[0], float(step.reward[0]), *step.final_observation["observation"][0], *flags))
        else:
            assert step.reward[0] == 0
            assert not (step.terminated | step.truncated)[0]
    expected: list[tuple[float, ...]] = []
    for episode in range(int(begun), 100):
        length, terminated, truncated = SCRIPT[episode % len(SCRIPT)]
        for time in range(length):
            ends = time == length - 1
            flags = float(ends and terminated), float(ends and truncated and not terminated)
            expected.append((episode, time, time + 1, episode, time + 1, *flags))
    assert len(seen) > 20
    assert seen == expected[: len(seen)]


def test_the_modes_agree_with_each_other_and_only_next_step_has_invalid_steps() -> None:
    invalid = {}
    for kind in KINDS:
        environments = _environments(kind, lambda: Counter(SCRIPT))
        environments.reset()
        invalid[kind] = sum(int((~environments.step(np.zeros(2, np.int64)).valid).sum()) for _ in range(30))
    assert invalid["NextStep"] > 0
    assert invalid["SameStep"] == invalid["synchronous"] == 0


def _trace(environments: Environments, actions: list[Any]) -> list[Any]:
    out = []
    for action in actions:
        step = environments.step(action)
        out.append([np.array(value["observation"] if isinstance(value, dict) else value) for value in step])
    return out


def _same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("continuous", [False, True])
def test_single_environments_resume_by_replaying_the_running_episode(continuous: bool) -> None:
    generator = np.random.default_rng(0)
    actions: list[Any] = [
        generator.uniform(-3, 12, (3, 2)).astype(np.float32) if continuous else generator.integers(3, size=3)
        for _ in range(80)
    ]
    first = SynchronousEnvironments(lambda: Drift(continuous), 3, 11, "drift")
    first.reset()
    _trace(first, actions[:37])
    packed = pack(first.state_dict())
    state = unpack(packed.skeleton, packed.tensors)
    expected = _trace(first, actions[37:])
    second = SynchronousEnvironments(lambda: Drift(continuous), 3, 999, "drift")
    second.load_state_dict(state)
    assert second.exact
    assert _same(expected, _trace(second, actions[37:]))


def test_native_environments_resume_from_their_arrays() -> None:
    options = EnvironmentOptions(id="CartPole-v1", count=5)
    generator = np.random.default_rng(1)
    actions = [generator.integers(2, size=5) for _ in range(150)]
    first, second = build(options, seed=3), build(options, seed=4)
    assert isinstance(first, NativeEnvironments)
    assert first.exact
    first.reset()
    for cut in (40, 41, 42, 43):  # in the middle of resets, too
        _trace(first, actions[:cut])
        packed = pack(first.state_dict())
        state = unpack(packed.skeleton, packed.tensors)
        expected = _trace(first, actions[cut:])
        second.load_state_dict(state)
        assert _same(expected, _trace(second, actions[cut:]))


def test_an_environment_that_ignores_its_seed_is_not_exact_and_begins_anew() -> None:
    environments = SynchronousEnvironments(lambda: Drift(seeded=False), 2, 0, "drift")
    assert not environments.exact
    environments.reset()
    environments.step(np.zeros(2, np.int64))
    environments.load_state_dict(environments.state_dict())
    assert environments.step(np.zeros(2, np.int64)).valid.all()


def test_a_replay_that_comes_out_differently_is_a_fault() -> None:
    environments = SynchronousEnvironments(Drift, 1, 0, "drift")
    environments.reset()
    environments.step(np.ones(1, np.int64))
    state = environments.state_dict()
    state["actions"] = [np.zeros_like(state["actions"][0])]
    with pytest.raises(EnvironmentFault, match="differently"):
        environments.load_state_dict(state)


def test_episode_seeds_depend_on_run_copy_and_episode() -> None:
    def first(seed: int) -> Any:
        return SynchronousEnvironments(Drift, 3, seed, "drift").reset()["observation"]

    assert np.array_equal(first(1), first(1))
    assert len({tuple(row) for row in np.concatenate([first(1), first(2)]).tolist()}) == 6


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dtype", "float64"), ("nan", "NaN"), ("shape", r"shape"), ("object", "shape"), ("reward text", "not a number"),
        ("reward none", "NaN"), ("reward nan", "NaN"), ("flag", "terminated"), ("raises", "boom"),
        ("four values", "unpack"), ("raises in reset", "lost"),
    ],
)  # fmt: skip
def test_a_broken_contract_says_what_where_and_how_to_mend(kind: str, words: str) -> None:
    def run() -> None:
        environments = SynchronousEnvironments(lambda: Faulty(kind), 1, 0, "environment 'Faulty-v0'")
        environments.reset()
        for _ in range(3):
            environments.step(np.zeros(1, np.int64))

    with pytest.raises(EnvironmentFault, match=words) as caught:
        run()
    assert caught.value.where == "environment 'Faulty-v0'"
    assert caught.value.remedy
    assert "copy 0" in caught.value.problem or kind == "flag"


def test_a_native_environment_that_breaks_is_a_fault() -> None:
    vector = SyncVectorEnv([lambda: Faulty("nan")] * 2)
    environments = NativeEnvironments(vector, 0, "probe")
    environments.reset()
    environments.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFault, match="NaN"):
        environments.step(np.zeros(2, np.int64))


def test_the_environment_gets_clipped_actions_and_a_signature_with_bounds() -> None:
    environments = SynchronousEnvironments(lambda: Drift(continuous=True), 1, 0, "drift")
    environments.reset()
    environments.step(np.array([[-9.0, 4.0]], np.float32))
    inner: Any = environments._environments[0]
    assert np.array_equal(inner.last_action, np.array([-2.0, 4.0], np.float32))
    output = environments.signature.outputs["action"]
    assert (output.form, output.size, output.low, output.high) == ("continuous", 2, (-2.0, 0.0), (2.0, 10.0))


def test_discrete_spaces_count_from_zero() -> None:
    space = gym.spaces.Discrete(3, start=5)
    codec = Codec(space, space, "here")
    assert codec.observations(np.array([5, 7]), 2, "now")["observation"].tolist() == [[0], [2]]
    assert codec.actions(np.array([0, 2])).tolist() == [5, 7]
    with pytest.raises(EnvironmentFault, match="outside"):
        codec.observations(np.array([5, 8]), 2, "now")


def test_unknown_and_unsupported_environments_are_clear_errors() -> None:
    with pytest.raises(EnvironmentFault, match="CartPol"):
        build(EnvironmentOptions(id="CartPol-v1"), seed=0)
    with pytest.raises(EnvironmentFault, match="unknown_option"):
        build(EnvironmentOptions(id="Acrobot-v1", options={"unknown_option": 1}), seed=0)
    with pytest.raises(EnvironmentFault, match="no Box, Discrete"):
        Codec(gym.spaces.Dict({"x": gym.spaces.Text(2)}), gym.spaces.Discrete(2), "here")
    with pytest.raises(EnvironmentFault, match="no bounds"):
        Codec(gym.spaces.Discrete(2), gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), "here")


def test_signature_of_an_environment() -> None:
    found = signature(EnvironmentOptions(id="Pendulum-v1"))
    assert found.inputs["observation"].shape == (3,)
    assert found.outputs["action"].high == (2.0,)


def test_a_native_environment_with_hidden_state_does_not_claim_to_be_exact() -> None:
    """A second generator, a dictionary, or what only reset creates."""

    class Hidden(gym.vector.VectorEnv[Any, Any, Any]):
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

        def __init__(self, name: str, value: object) -> None:
            self.num_envs = 2
            self.single_observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
            self.single_action_space = gym.spaces.Discrete(2)
            self.name, self.value = name, value

        def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            setattr(self, self.name, self.value)
            return np.zeros((2, 1), np.float32), {}

    hidden = [np.random.default_rng(), {"time": 3}, [1, 2]]
    for value in hidden:
        environments = NativeEnvironments(Hidden("late", value), 0, "hidden")
        environments.reset()
        assert not environments.exact, value
    environments = NativeEnvironments(Hidden("late", "a text"), 0, "open")
    environments.reset()
    assert environments.exact
