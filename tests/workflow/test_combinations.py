"""Every kind of observation with every kind of action and every algorithm that takes it: trained, bundled, asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from reinforge.workflow.train import train
from reinforge.workflow.verify import verify

OBSERVATIONS: dict[str, Any] = {
    "box": gym.spaces.Box(-2, 2, (3,), np.float32),
    "matrix": gym.spaces.Box(-2, 2, (2, 3), np.float64),
    "discrete": gym.spaces.Discrete(4, start=2),
    "multi-discrete": gym.spaces.MultiDiscrete([3, 2]),
    "multi-binary": gym.spaces.MultiBinary(4),
    "dict": gym.spaces.Dict(
        {
            "image": gym.spaces.Box(0, 255, (36, 36, 3), np.uint8),
            "arm": gym.spaces.Dict({"angles": gym.spaces.Box(-3, 3, (2,), np.float32), "grip": gym.spaces.Discrete(2)}),
            "flags": gym.spaces.MultiBinary(3),
        }
    ),
}  # fmt: skip
ACTIONS: dict[str, Any] = {
    "discrete": gym.spaces.Discrete(3, start=-1),
    "multi-discrete": gym.spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "multi-binary": gym.spaces.MultiBinary(3),
    "box": gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 20], np.float32)),
}


class Spaces(gym.Env[Any, Any]):
    """Draws whatever its spaces hold; refuses actions that are none of its own."""

    def __init__(self, observation: str, action: str) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def _seen(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return self._seen(), 1.0, bool(self.np_random.random() < 0.1), self.time >= 9, {}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    gym.register("Spaces-v0", Spaces)
    yield
    gym.registry.pop("Spaces-v0")


ACTOR: dict[str, Any] = {"kind": "actor-critic", "sizes": [8]}
ROLLOUT, REPLAY = {"kind": "rollout", "steps": 12}, {"kind": "replay", "learning_starts": 24, "capacity": 100}
POLICY_GRADIENTS: dict[str, dict[str, Any]] = {
    "ppo": {"objective": {"kind": "ppo", "epochs": 1, "minibatches": 2}, "model": ACTOR, "source": ROLLOUT},
    "a2c": {"objective": {"kind": "a2c"}, "model": ACTOR, "source": ROLLOUT},
    "reinforce": {"objective": {"kind": "reinforce"}, "model": ACTOR, "source": ROLLOUT},
    "gru": {
        "objective": {"kind": "ppo", "epochs": 1, "minibatches": 1},
        "model": {**ACTOR, "memory": {"kind": "gru", "size": 6}}, "source": {**ROLLOUT, "sequence": 6},
    },
    "lstm": {
        "objective": {"kind": "a2c"}, "model": {**ACTOR, "memory": {"kind": "lstm", "size": 6}, "normalise": True},
        "source": ROLLOUT,
    },
    "frames": {
        "objective": {"kind": "ppo", "epochs": 1, "minibatches": 1}, "model": {**ACTOR, "frames": 3}, "source": ROLLOUT,
    },
}  # fmt: skip
POLICY_GRADIENTS["transformer"] = {
    "objective": {"kind": "ppo", "epochs": 1, "minibatches": 2}, "source": ROLLOUT,
    "model": {
        **ACTOR, "frames": 3, "normalise": True,
        "encoders": {"observation": {"kind": "attention", "width": 8, "heads": 2, "pool": "last"}},
    },
}  # fmt: skip
NETWORK = {"kind": "q-network", "sizes": [8]}
VALUES: dict[str, dict[str, Any]] = {
    "dqn": {"objective": {"kind": "dqn", "double": True}, "model": NETWORK, "source": REPLAY},
    "rainbow": {
        "objective": {"kind": "dqn", "munchausen": {}},
        "model": {**NETWORK, "duelling": True, "noisy": 0.5, "distribution": {"atoms": 5}, "normalise": True},
        "source": {**REPLAY, "n_step": 3, "priorities": {}},
    },
}  # fmt: skip
CONTINUOUS: dict[str, dict[str, Any]] = {
    "sac": {"objective": {"kind": "sac", "critic_sizes": [8]}, "model": {"kind": "squashed-gaussian", "sizes": [8]}},
    "td3": {"objective": {"kind": "td3", "critic_sizes": [8]}, "model": {"kind": "deterministic", "sizes": [8]}},
    "ddpg": {"objective": {"kind": "ddpg", "critic_sizes": [8]}, "model": {"kind": "deterministic", "sizes": [8]}},
}
CASES = [
    *[(o, a, n) for o in OBSERVATIONS for a in ACTIONS for n in POLICY_GRADIENTS if (o, a) == ("box", a) or n == "ppo"],
    *[("dict", "multi-discrete", name) for name in ("gru", "lstm", "frames", "a2c", "reinforce")],
    *[(o, "discrete", name) for o in OBSERVATIONS for name in VALUES],
    *[(o, "box", name) for o in OBSERVATIONS for name in CONTINUOUS],
]  # fmt: skip


@pytest.mark.parametrize(("observation", "action", "name"), CASES)
def test_trained_bundled_and_asked(observation: str, action: str, name: str, tmp_path: Path) -> None:
    chosen = (POLICY_GRADIENTS | VALUES | CONTINUOUS)[name]
    recipe = {
        "name": "spaces",
        "data": {
            "kind": "environment", "id": "Spaces-v0", "count": 2,
            "options": {"observation": observation, "action": action},
        },
        "source": REPLAY, **chosen,
        "learn": {"batch": 8, "stop": {"updates": 3}, "threads": 1, "compile": "off"},
        "evaluate": {"episodes": 2, "clip": False},
    }  # fmt: skip
    run = train(recipe, output=tmp_path / "run")
    verify(run.folder)
    space = OBSERVATIONS[observation]
    space.seed(3)
    (told,) = run.bundle.predict([_row(space.sample())])
    given = told["action"]["action"]
    made = np.array(given, ACTIONS[action].dtype) if action != "discrete" else np.int64(given)
    assert ACTIONS[action].contains(made), given


def _row(seen: Any, prefix: str = "") -> dict[str, Any]:
    """An observation as JSON would say it."""
    if isinstance(seen, dict):
        return {key: value for name, part in seen.items() for key, value in _row(part, f"{prefix}{name}.").items()}
    return {prefix.rstrip(".") or "observation": np.asarray(seen).tolist()}
