"""Data sets of Minari, written by Minari itself: they give the rows that were recorded."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import DataError, MissingExtra
from reinforge.registry import REGISTRY
from reinforge.sources.options import TransitionOptions
from reinforge.sources.transitions import TransitionSource, read
from tests.sources.test_transitions import recorded, written

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore:`:UserWarning")

if "MinariGoals-v0" not in gym.registry:
    gym.register("MinariGoals-v0", "tests.environments.goal_world:Point", max_episode_steps=7)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def _stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _stacked([value[name] for value in values]) for name in values[0]}
    return np.array(values)


def minari_set(root: Path, environment: str, form: str, episodes: int = 4, act: Any = None, **limit: int) -> Path:
    """What random (or these) actions do, as Minari keeps it; the last episode is cut short and says so nowhere."""
    from minari.data_collector import EpisodeBuffer

    made, buffers = gym.make(environment, **limit), []
    made.action_space.seed(0)
    for number in range(episodes):
        observations = [made.reset(seed=number)[0]]
        actions, rewards, terminated, truncated = [], [], [False], [False]
        while not (terminated[-1] or truncated[-1]) and not (number == episodes - 1 and len(rewards) == 3):
            action = made.action_space.sample() if act is None else act(observations[-1])
            observation, reward, t, c, _ = made.step(action)
            told = (observation, action, float(reward), t, c)
            for values, value in zip((observations, actions, rewards, terminated, truncated), told):
                values.append(value)
        buffers.append(
            EpisodeBuffer(
                id=number, observations=_stacked(observations), actions=_stacked(actions), rewards=rewards,
                terminations=terminated[1:], truncations=truncated[1:],
            )
        )  # fmt: skip
    minari.create_dataset_from_buffers(
        "made/random-v0", buffers, env=made.spec, data_format=form, action_space=made.action_space,
        observation_space=made.observation_space,
    )  # fmt: skip
    return root / "made" / "random-v0"


def _source(path: Path | str, environment: str) -> TransitionSource:
    source: TransitionSource = REGISTRY.build(
        "source", TransitionOptions(path=str(path)), environment=EnvironmentOptions(id=environment), seed=0, batch=8
    )
    return source


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "MinariGoals-v0"])
def test_rows_are_those_that_were_recorded(form: str, environment: str, root: Path) -> None:
    folder = minari_set(root, environment, form, max_episode_steps=30)
    source = _source(folder, environment)
    count = len(source.buffer)
    rows: Any = source.buffer.gather(np.arange(count), 1)
    made, i = gym.make(environment, max_episode_steps=30), 0
    made.action_space.seed(0)
    for episode in range(4):
        observation, _ = made.reset(seed=episode)
        for step in range(1000):
            action = made.action_space.sample()
            following, reward, terminated, truncated, _ = made.step(action)
            for key, value in (("observation", observation), ("next_observation", following)):
                given = value if isinstance(value, dict) else {"observation": value}
                for name, part in given.items():
                    assert np.allclose(rows[key][name][i], part, atol=1e-6), (episode, step, key, name)
            space: Any = made.action_space
            expected = (
                action
                if isinstance(space, gym.spaces.Discrete)
                else (action - space.low) / (space.high - space.low) * 2 - 1
            )
            assert np.allclose(rows["action"][i], expected, atol=1e-6)
            assert rows["rewards"][i, 0] == pytest.approx(float(reward), abs=1e-5)
            assert rows["terminated"][i] == terminated
            observation, i = following, i + 1
            if terminated or truncated or (episode == 3 and step == 2):
                break
    assert i == count


def test_an_episode_that_was_cut_is_not_joined_to_the_next(root: Path) -> None:
    folder = minari_set(root, "CartPole-v1", "hdf5", episodes=1)
    columns = read(str(folder))
    assert len(columns["reward"]) == 3
    assert columns["truncated"].tolist() == [False, False, True]
    assert not columns["terminated"].any()


def test_the_folder_or_the_data_in_it(root: Path) -> None:
    folder = minari_set(root, "CartPole-v1", "hdf5")
    assert _source(folder, "CartPole-v1").digest == _source(folder / "data", "CartPole-v1").digest


def test_what_is_wrong_is_told(root: Path, tmp_path: Path) -> None:
    folder = minari_set(root, "CartPole-v1", "hdf5")
    with pytest.raises(DataError, match="shape"):
        _source(folder, "Pendulum-v1")
    with pytest.raises(DataError, match="no data set of Minari"):
        _source(tmp_path, "CartPole-v1")
    file = folder / "data" / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="can't be read"):
        _source(folder, "CartPole-v1")
    file.unlink()
    with pytest.raises(DataError, match="can't be read"):
        _source(folder, "CartPole-v1")


def test_no_environment_is_made_that_the_data_name(root: Path) -> None:
    """Its description may name any module of the machine."""
    folder = minari_set(root, "CartPole-v1", "hdf5")
    description = folder / "data" / "metadata.json"
    stated = json.loads(description.read_text())
    del stated["observation_space"]
    description.write_text(json.dumps(stated))
    with pytest.raises(DataError, match="both spaces"):
        _source(folder, "CartPole-v1")


def test_without_the_package_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = minari_set(root, "CartPole-v1", "hdf5")
    for name in [name for name in sys.modules if name.partition(".")[0] == "minari"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingExtra, match="minari") as caught:
        _source(folder, "CartPole-v1")
    assert "reinforge[offline]" in str(caught.value)


def test_a_file_of_the_same_rows_is_the_same_data(root: Path, tmp_path: Path) -> None:
    folder = minari_set(root, "CartPole-v1", "arrow", max_episode_steps=12)
    path = written(tmp_path, "npz", read(str(folder)))
    assert _source(path, "CartPole-v1").digest == _source(folder, "CartPole-v1").digest
    assert set(recorded("CartPole-v1", 3)) == set(read(str(folder)))
    shutil.rmtree(folder)
