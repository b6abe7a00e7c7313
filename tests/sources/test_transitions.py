"""Transitions of a file: every form of file gives the same rows, in learner space; what is wrong is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import polars as pl
import pytest
import torch

from reinforge.core.contracts import Clock
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import CheckpointError, DataError
from reinforge.models.policy_options import ActorCriticOptions
from reinforge.registry import REGISTRY
from reinforge.sources.options import TransitionOptions
from reinforge.sources.transitions import TransitionSource

PENDULUM = EnvironmentOptions(id="Pendulum-v1")
Columns = dict[str, Any]


def recorded(name: str, steps: int, act: Any = None, limit: int = 25, **options: Any) -> Columns:
    """What an environment does, step by step, in its own units."""
    environment = gym.make(name, max_episode_steps=limit, **options)
    environment.action_space.seed(0)
    rows: dict[str, list[Any]] = {
        key: [] for key in ("observation", "action", "reward", "next_observation", "terminated", "truncated")
    }
    observation, _ = environment.reset(seed=0)
    for _ in range(steps):
        action = environment.action_space.sample() if act is None else act(observation)
        following, reward, terminated, truncated, _ = environment.step(action)
        for key, value in zip(rows, (observation, action, float(reward), following, terminated, truncated)):
            rows[key].append(value)
        observation = environment.reset()[0] if terminated or truncated else following
    return {key: np.array(values) for key, values in rows.items()}


def written(folder: Path, form: str, columns: Columns) -> str:
    """A file with these columns."""
    path = folder / f"data.{form}"
    if form == "npz":
        np.savez(path, **columns)
    elif form == "parquet":
        pl.DataFrame({name: value.tolist() for name, value in columns.items()}).write_parquet(path)
    else:
        rows = zip(*(value.tolist() for value in columns.values()))
        path.write_text("\n".join(json.dumps(dict(zip(columns, row))) for row in rows))
    return str(path)


def _source(path: str, environment: EnvironmentOptions = PENDULUM, **options: Any) -> TransitionSource:
    chosen = TransitionOptions(path=path, **options)
    source: TransitionSource = REGISTRY.build("source", chosen, environment=environment, seed=0, batch=16)
    return source


@pytest.mark.parametrize("form", ["npz", "parquet", "jsonl"])
def test_every_form_of_file_gives_the_same_rows_in_learner_space(form: str, tmp_path: Path) -> None:
    columns = recorded("Pendulum-v1", 60)
    buffer = _source(written(tmp_path, form, columns)).buffer
    rows: Any = buffer.gather(np.arange(60), 1)
    assert np.allclose(rows["observation"]["observation"], columns["observation"], atol=1e-6)
    assert np.allclose(rows["next_observation"]["observation"], columns["next_observation"], atol=1e-6)
    assert np.allclose(rows["rewards"][:, 0], columns["reward"], atol=1e-5)
    assert np.allclose(rows["action"], columns["action"] / 2, atol=1e-6), "torques up to 2 are actions up to 1"
    assert not rows["terminated"].any()


def test_sums_of_n_steps_end_with_the_episode_and_where_rows_do_not_follow(tmp_path: Path) -> None:
    columns = recorded("CartPole-v1", 60, limit=12)
    columns = {name: np.delete(value, 30, 0) for name, value in columns.items()}
    buffer = _source(written(tmp_path, "npz", columns), EnvironmentOptions(id="CartPole-v1")).buffer
    rows: Any = buffer.gather(np.arange(59), 4)
    assert columns["truncated"].any()
    for i in range(59):
        length = 1
        while length < 4 and i + length < 59:
            last = i + length - 1
            if columns["terminated"][last] or columns["truncated"][last] or last == 29:
                break
            length += 1
        assert rows["length"][i] == length, i
        last = i + length - 1
        assert rows["terminated"][i] == columns["terminated"][last]
        assert np.array_equal(rows["next_observation"]["observation"][i], columns["next_observation"][last])


def test_normalisers_see_the_whole_file_once(tmp_path: Path) -> None:
    columns = recorded("Pendulum-v1", 60)
    source = _source(written(tmp_path, "npz", columns))
    learner = torch.nn.Module()
    learner.model = REGISTRY.build("model", ActorCriticOptions(normalise=True), signature(PENDULUM))
    for _ in range(2):
        source.publish(learner, Clock())
        statistics = learner.model.normalisers["observation"]  # type: ignore[operator,union-attr,index]
        assert float(statistics.count) == 60
        assert np.allclose(statistics.mean.numpy(), columns["observation"].mean(0), atol=1e-6)


def test_another_file_is_not_gone_on_with(tmp_path: Path) -> None:
    columns = recorded("Pendulum-v1", 20)
    state = _source(written(tmp_path, "npz", columns)).state_dict()
    columns["reward"][3] += 1
    with pytest.raises(CheckpointError, match="began with"):
        _source(written(tmp_path, "npz", columns)).load_state_dict(state)


def _without(columns: Columns, name: str) -> Columns:
    return {key: value for key, value in columns.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: _without(c, "truncated"), "no column 'truncated'"),
        (lambda c: {**c, "observation": c["observation"][:, :2]}, "shape"),
        (lambda c: {**c, "reward": np.where(np.arange(20) == 4, np.nan, c["reward"])}, "NaN"),
        (lambda c: {**c, "terminated": np.full(20, 0.5)}, "true or false"),
        (lambda c: {name: value[:0] for name, value in c.items()}, "no transitions"),
    ],
    ids=["column", "shape", "nan", "flag", "empty"],
)
def test_what_is_wrong_with_a_file_is_told(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        _source(written(tmp_path, "npz", change(recorded("Pendulum-v1", 20))))


def test_actions_that_are_none_are_refused(tmp_path: Path) -> None:
    columns = recorded("CartPole-v1", 20)
    columns["action"][5] = 2
    with pytest.raises(DataError, match="choices"):
        _source(written(tmp_path, "npz", columns), EnvironmentOptions(id="CartPole-v1"))
    with pytest.raises(DataError, match="no such file"):
        _source(str(tmp_path / "none.npz"))
    (tmp_path / "data.csv").write_text("a")
    with pytest.raises(DataError, match="form"):
        _source(str(tmp_path / "data.csv"))
