"""Frames: acting one step at a time, learning from stretches and from replayed rows see the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from reinforge.core.contracts import Clock, Experience
from reinforge.engine.loop import Engine
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.frames import Frames, merged, stacked
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    MemoryOptions,
    QNetworkOptions,
    SquashedGaussianOptions,
)
from reinforge.objectives.options import DQNOptions, PPOOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import ReplayOptions, RolloutOptions
from tests.environments.probes import Counter

BLOCKS = {
    "image": Input(form="image", shape=(3, 4, 5)),
    "box": Input(form="box", shape=(2,)),
    "number": Input(form="box", shape=()),
    "cube": Input(form="box", shape=(2, 3, 4)),
    "mode": Input(form="categories", sizes=(3, 4)),
}
K = 4
gym.register("tests/Frames-v0", lambda: Counter(((3, True, False), (6, False, True), (1, True, False))))


def _values(rows: int, time: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, block in BLOCKS.items():
        match block.form:
            case "image":
                found[name] = torch.randint(0, 256, (rows, time, *block.shape), generator=g, dtype=torch.uint8)
            case "categories":
                found[name] = torch.randint(0, 3, (rows, time, len(block.sizes)), generator=g)
            case _:
                found[name] = torch.randn(rows, time, *block.shape, generator=g)
    return found


def _expected(values: Tensor, start: Tensor) -> Tensor:
    """By definition, row by row: (rows, time, K, ...)."""
    rows, time = start.shape
    found = []
    for row in range(rows):
        first = 0
        for t in range(time):
            first = t if start[row, t] else first
            found.append(torch.stack([values[row, max(first, t - back)] for back in reversed(range(K))]))
    return torch.stack(found).unflatten(0, (rows, time))


@pytest.mark.parametrize("cut", [1, 2, 5, 12])
def test_steps_stretches_and_definition_agree(cut: int) -> None:
    rows, time = 5, 12
    values, frames = _values(rows, time), Frames(BLOCKS, K)
    start = torch.rand(rows, time, generator=torch.Generator().manual_seed(1)) < 0.25
    start[:, 0] = True
    expected = {name: _expected(value, start) for name, value in values.items()}
    state: Any = frames.initial_state(rows, torch.device("cpu"))
    for t in range(time):
        seen, state = frames({**{n: v[:, t] for n, v in values.items()}, "start": start[:, t]}, state)
        for name in BLOCKS:
            assert torch.equal(seen[name], expected[name][:, t]), name
    last, state = state, frames.initial_state(rows, torch.device("cpu"))
    for begin in range(0, time, cut):
        stretch = slice(begin, begin + cut)
        seen, state = frames({**{n: v[:, stretch] for n, v in values.items()}, "start": start[:, stretch]}, state)
        for name in BLOCKS:
            assert torch.equal(seen[name], expected[name][:, stretch]), name
    assert all(torch.equal(last[name], state[name]) and last[name].dtype == state[name].dtype for name in last)


def test_a_row_without_a_state_begins_an_episode() -> None:
    values, frames = _values(3, 2), Frames(BLOCKS, K)
    seen, _ = frames({name: value[:, 0] for name, value in values.items()}, None)
    both, _ = frames(values, None)
    for name, value in values.items():
        assert torch.equal(seen[name], value[:, :1].expand(-1, K, *value.shape[2:]))
        assert torch.equal(both[name][:, 0], seen[name])


def test_what_an_encoder_takes_has_the_shape_that_it_was_built_for() -> None:
    for name, block in BLOCKS.items():
        value, _ = Frames({name: block}, K)({name: _values(3, 1)[name][:, 0]}, None)
        wanted = stacked(block, K)
        shape = (len(wanted.sizes),) if wanted.form == "categories" else wanted.shape
        assert merged(block, value[name]).shape == (3, *shape)


def _policies() -> list[Any]:
    discrete = Output(form="discrete", size=3)
    continuous = Output(form="continuous", size=2, low=(-1.0, -1.0), high=(1.0, 1.0))
    several: dict[str, Any] = {"frames": K, "normalise": True, "sizes": (8,)}
    return [
        (QNetworkOptions(**several), discrete),
        (ActorCriticOptions(**several), discrete),
        (ActorCriticOptions(**several, memory=MemoryOptions(size=6)), continuous),
        (SquashedGaussianOptions(**several), continuous),
        (DeterministicOptions(**several), continuous),
    ]


@pytest.mark.parametrize(("options", "output"), _policies(), ids=lambda value: getattr(value, "kind", ""))
def test_every_policy_sees_in_training_what_it_saw_acting(options: Any, output: Output) -> None:
    """Over all kinds of parts; then the same from a state that was carried, and rows alone with what was before."""
    torch.manual_seed(0)
    policy = REGISTRY.build("model", options, Signature(inputs=BLOCKS, outputs={"action": output})).eval()
    assert policy.frames == K
    values = _values(4, 9)
    start = torch.zeros(4, 9, dtype=torch.bool)
    start[:, 0], start[1, 4], start[2, 7] = True, True, True
    state, acted, before = policy.initial_state(4), [], None
    for t in range(9):
        if t == 5:
            before = dict(state)
        outputs, state = policy.act({**{n: v[:, t] for n, v in values.items()}, "start": start[:, t]}, state)
        acted.append(outputs["action"])
    learned, _ = policy({**values, "start": start}, policy.initial_state(4))
    assert torch.allclose(learned["action"], torch.stack(acted, 1), atol=1e-6)
    rest = {**{n: v[:, 5:] for n, v in values.items()}, "start": start[:, 5:]}
    assert torch.allclose(policy(rest, before)[0]["action"], torch.stack(acted[5:], 1), atol=1e-6)
    if getattr(options, "memory", None) is None:
        past = {f"past/{n}": _expected(v, start)[:, 6, :-1] for n, v in values.items()}
        alone, _ = policy({**{n: v[:, 6] for n, v in values.items()}, **past})
        assert torch.allclose(alone["action"], acted[6], atol=1e-6)


class _Learner(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model


@pytest.mark.parametrize("capacity", [1000, 60])
def test_replayed_rows_come_with_what_was_seen_before_them(capacity: int) -> None:
    """The probe shows (episode, step): its frames are known. Also after loading, and where the ring went round."""
    environment = EnvironmentOptions(id="tests/Frames-v0", count=3)
    options = ReplayOptions(capacity=capacity, learning_starts=100, updates_per_round=40, n_step=2)
    model = REGISTRY.build("model", QNetworkOptions(frames=3, sizes=(4,)), signature(environment))
    source = REGISTRY.build("source", options, environment=environment, seed=0, batch=16)
    source.publish(_Learner(model), Clock())
    other = REGISTRY.build("source", options, environment=environment, seed=0, batch=16)
    other.publish(_Learner(model), Clock())
    for again in range(3):
        if again == 1:
            other.buffer.load_state_dict(source.buffer.state_dict())
            numbers = np.arange(source.buffer.oldest, source.buffer.total)
            one, two = (s.buffer.gather(numbers, 2, 3) for s in (source, other))
            assert np.array_equal(one["observation"]["past/observation"], two["observation"]["past/observation"])
        experience = source.next(Clock())
        assert isinstance(experience, Experience)
        for when in ("observation", "next_observation"):
            batch: Any = experience.batch[when]
            now, past = batch["observation"].numpy(), batch["past/observation"].numpy()
            assert past.shape == (len(now), 2, 2)
            steps = now[:, 1:]
            expected = np.maximum(steps - np.array([[2, 1]]), 0)
            assert (past[..., 0] == now[:, :1]).all()
            whole = capacity == 1000
            assert (past[..., 1] == expected).all() if whole else (past[..., 1] == expected).mean() > 0.8
            assert (past[..., 1] <= steps).all()


@pytest.mark.parametrize("kind", ["dqn", "ppo"])
def test_a_policy_of_several_frames_learns_and_acts_at_random_with_its_state(kind: str) -> None:
    environment = EnvironmentOptions(id="tests/Frames-v0", count=2)
    of = signature(environment)
    if kind == "dqn":
        model = REGISTRY.build("model", QNetworkOptions(frames=3, sizes=(4,)), of)
        objective = REGISTRY.build("objective", DQNOptions(), of)
        chosen: Any = ReplayOptions(capacity=100, learning_starts=20)
    else:
        model = REGISTRY.build("model", ActorCriticOptions(frames=3, sizes=(4,)), of)
        objective = REGISTRY.build("objective", PPOOptions(), of)
        chosen = RolloutOptions(steps=12, sequence=4)
    source = REGISTRY.build("source", chosen, environment=environment, seed=0, batch=8)
    engine = Engine(objective, model, source, learn=Learn(batch=8, stop=Stop(updates=6)))
    engine.run()
    collector = source.collector
    held, now = collector.memory["past/observation"], collector.observation["observation"]
    # What was seen last, one step ago: of this episode, or of the one before.
    assert torch.equal(held[:, -1, 0], torch.from_numpy(now[:, 0] - collector.start))
