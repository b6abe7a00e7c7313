"""A trained policy acts the same wherever it is asked: evaluated, by `predict`, from a file, over HTTP, and after
`verify`; what normalises observations and scales actions is inside the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import httpx
import numpy as np
import pytest

import reinforge
from reinforge.bundle.bundle import Bundle
from reinforge.environments.build import single
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.errors import DataError
from reinforge.evaluation.episodes import play
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from reinforge.workflow.train import train
from tests.environments.probes import Recall


class Parts(gym.Env[Any, Any]):
    """Observes a position and a mode; the mode says which way is right."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            {"place": gym.spaces.Box(-50, 50, (2,), np.float32), "mode": gym.spaces.Discrete(3, start=1)}
        )
        self.action_space = gym.spaces.Discrete(2, start=5)

    def _seen(self) -> dict[str, Any]:
        return {"place": self.place.copy(), "mode": self.mode}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.normal(20, 5, 2).astype(np.float32)
        self.mode, self.time = int(self.np_random.integers(1, 4)), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        self.place = (self.place + (action - 5) + self.np_random.normal(size=2)).astype(np.float32)
        return self._seen(), 1.0, False, self.time >= 15, {}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    made: dict[str, Any] = {"ReinforgeParts-v0": Parts, "ReinforgeRecall-v0": Recall}
    for name, maker in made.items():
        gym.register(name, maker)
    yield
    for name in made:
        gym.registry.pop(name)


ROLLOUT = {"kind": "rollout", "steps": 32}
REPLAY = {"kind": "replay", "learning_starts": 64}
CASES: dict[str, dict[str, Any]] = {
    "dqn": {"id": "CartPole-v1", "model": {"kind": "q-network"}, "objective": "dqn", "source": REPLAY},
    "ppo": {"id": "Acrobot-v1", "model": {"kind": "actor-critic"}, "objective": "ppo", "source": ROLLOUT},
    "ppo-continuous": {"id": "Pendulum-v1", "model": {"kind": "actor-critic"}, "objective": "ppo", "source": ROLLOUT},
    "sac": {"id": "Pendulum-v1", "model": {"kind": "squashed-gaussian"}, "objective": "sac", "source": REPLAY},
    "parts": {"id": "ReinforgeParts-v0", "model": {"kind": "actor-critic"}, "objective": "ppo", "source": ROLLOUT},
    "memory": {
        "id": "ReinforgeRecall-v0", "model": {"kind": "actor-critic", "memory": {"kind": "lstm", "size": 8}},
        "objective": "ppo", "source": ROLLOUT,
    },
}  # fmt: skip


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Notes what was observed, as a JSON row, and what was done about it, of the first episode."""

    def __init__(self, environment: gym.Env[Any, Any]) -> None:
        super().__init__(environment)
        self.rows: list[dict[str, Any]] = []
        self.actions: list[Any] = []
        self.ended = False

    def reset(self, **keywords: Any) -> Any:
        observation, information = super().reset(**keywords)
        self._now = observation
        if not self.ended:
            # What came before was the look whether it can be seeded.
            self.rows, self.actions = [], []
        return observation, information

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if not self.ended:
            now = self._now if isinstance(self._now, dict) else {"observation": self._now}
            self.rows.append({name: np.asarray(value).tolist() for name, value in now.items()})
            self.actions.append(np.asarray(action).tolist())
        self.ended = self.ended or result[2] or result[3]
        self._now = result[0]
        return result


@pytest.fixture(scope="module", params=CASES)
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, Recorder]:
    """A bundle, its folder, and an episode that it played."""
    given = CASES[request.param]
    recipe = {
        "data": {"kind": "environment", "id": given["id"], "count": 2},
        "model": {"sizes": [16], "normalise": True, **given["model"]},
        "objective": given["objective"],
        "source": given["source"],
        "learn": {"stop": {"updates": 60}, "compile": "off"},
        "evaluate": {"episodes": 2, "clip": False},
    }
    run = train(recipe, output=tmp_path_factory.mktemp(request.param) / "run")
    bundle, options = run.bundle, EnvironmentOptions(id=given["id"])
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder(single(options)))
        return made[0]

    play(bundle.model, SynchronousEnvironments(make, 1, 3, given["id"]), 1)  # type: ignore[arg-type]
    assert len(made[0].actions) > 3
    return bundle, run.bundle_path, made[0]


def _asked(ask: Any, recorder: Recorder) -> list[Any]:
    """The actions of an episode, asked for one after another; a memory goes back as it came."""
    found, memory = [], None
    for row in recorder.rows:
        (told,) = ask([{**row, **({"memory": memory} if memory is not None else {})}])
        found.append(told["action"]["action"])
        memory = told["action"].get("memory")
    return found


def _same(found: list[Any], recorder: Recorder) -> None:
    np.testing.assert_array_equal(np.array(found, np.float32), np.array(recorder.actions, np.float32))


def test_predict_acts_as_the_evaluation(case: tuple[Bundle, Path, Recorder]) -> None:
    bundle, _path, recorder = case
    _same(_asked(bundle.predict, recorder), recorder)


def test_a_file_of_observations_acts_as_the_evaluation(case: tuple[Bundle, Path, Recorder], tmp_path: Path) -> None:
    bundle, path, recorder = case
    file = tmp_path / "rows.jsonl"
    told: list[Any] = reinforge.predict(path, recorder.rows)
    rows = recorder.rows
    if "memory" in told[0]["action"]:
        memories = [None, *_memories(bundle, recorder)[:-1]]
        rows = [{**row, "memory": memory} for row, memory in zip(rows, memories)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = reinforge.predict(path, file)
    values = [prediction["action"]["action"] for prediction in found]
    # All rows at once: the last digits of a sum may depend on how many are summed beside it.
    np.testing.assert_allclose(np.array(values), np.array(recorder.actions), rtol=1e-5, atol=1e-6)


def test_the_server_acts_as_the_evaluation(case: tuple[Bundle, Path, Recorder]) -> None:
    bundle, path, recorder = case
    before = path.stat().st_mtime_ns
    reinforge.verify(path)
    assert path.stat().st_mtime_ns == before
    server = Server({"policy": reinforge.load(path)}, listen("127.0.0.1", 0))
    with server.background() as url, httpx.Client() as client:

        def ask(rows: list[Any]) -> Any:
            answer = client.post(f"{url}/v1/models/policy/predict", json={"rows": rows})
            assert answer.status_code == 200, answer.text
            return answer.json()["predictions"]

        _same(_asked(ask, recorder), recorder)
        document = client.get(f"{url}/openapi.json").json()
    assert ("memory" in json.dumps(document)) == ("memory" in bundle.predict(recorder.rows[:1])[0]["action"])


def test_statistics_and_bounds_are_inside(case: tuple[Bundle, Path, Recorder]) -> None:
    bundle, _path, recorder = case
    model: Any = bundle.model
    assert all(float(normaliser.count) > 10 for normaliser in model.normalisers.values())
    found = reinforge.evaluate(bundle, episodes=3)
    assert found["episodes"] == 3
    if model.continuous:
        assert np.abs(np.array(recorder.actions)).max() <= 2.0
        assert np.abs(np.array(recorder.actions)).max() > 0.0


def _memories(bundle: Bundle, recorder: Recorder) -> list[Any]:
    memories, memory = [], None
    for row in recorder.rows:
        (told,) = bundle.predict([{**row, "memory": memory}])
        memory = told["action"]["memory"]
        memories.append(memory)
    return memories


def test_a_memory_that_is_none_is_refused(case: tuple[Bundle, Path, Recorder]) -> None:
    bundle, _path, recorder = case
    row = recorder.rows[0]
    if "memory" not in bundle.predict([row])[0]["action"]:
        with pytest.raises(DataError, match="this policy has no memory"):
            bundle.predict([{**row, "memory": {"memory": [0.0]}}])
        return
    good: Any = bundle.predict([row])[0]["action"]["memory"]
    assert set(good) == {"memory", "cell"}
    wrong: list[Any] = [3, [], {}, {"memory": good["memory"]}, {**good, "cell": [1.0]}, {**good, "cell": ["x"] * 8}]
    for bad in wrong:
        with pytest.raises(DataError, match=r"memory|cell"):
            bundle.predict([row, {**row, "memory": bad}])
    # Rows of several episodes, one of which begins.
    later = bundle.predict([{**recorder.rows[1], "memory": good}])[0]["action"]
    both = bundle.predict([row, {**recorder.rows[1], "memory": good}])
    assert both[0]["action"]["action"] == recorder.actions[0]
    assert both[1]["action"]["action"] == later["action"]
    np.testing.assert_allclose(both[1]["action"]["memory"]["cell"], later["memory"]["cell"], rtol=1e-5)
    assert later["memory"] != bundle.predict([recorder.rows[1]])[0]["action"]["memory"]
