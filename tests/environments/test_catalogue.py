"""Names of environments: whose they are, what they need, and a user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from pydantic import ValidationError

from reinforge.environments import catalogue
from reinforge.environments.build import build, is_native, signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import EnvironmentFault, MissingExtra
from reinforge.recipe.user_code import load_user_code, loaded_user_code

OWN = """
import gymnasium as gym
import numpy as np


class Corridor(gym.Env):
    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(2))
        return np.array([self.cell], np.float32), {}

    def step(self, action):
        self.cell = max(0, self.cell + (1 if action else -1))
        done = self.cell >= self.length
        return np.array([self.cell], np.float32), float(done), done, False, {}


gym.register("tests/Corridor-v3", Corridor, max_episode_steps=50)
"""


@pytest.mark.parametrize("vectorization", ["auto", "processes"])
def test_an_environment_of_ones_own_is_registered_by_a_file_given_with_use(tmp_path: Path, vectorization: str) -> None:
    file = tmp_path / "corridor.py"
    file.write_text(OWN)
    load_user_code([file])
    assert str(file) in loaded_user_code()
    options = EnvironmentOptions.model_validate(
        {"id": "tests/Corridor-v3", "count": 2, "options": {"length": 3}, "vectorization": vectorization}
    )
    environments = build(options, seed=0)
    try:
        environments.reset()
        ended = [environments.step(np.ones(2, np.int64)).terminated.any() for _ in range(3)]
        assert ended[-1] or ended[-2]
    finally:
        environments.close()


def test_a_recipe_can_not_name_code_to_import() -> None:
    for name in ("os:CartPole-v1", "mine.py:Env-v0", "my_package.envs:Mine-v0"):
        with pytest.raises(ValidationError):
            EnvironmentOptions(id=name)


@pytest.mark.parametrize(
    ("name", "inputs", "extra"),
    [("MiniGrid-DoorKey-5x5-v0", ("image", "direction"), "games"), ("ALE/Pong-v5", None, "games"),
     ("PointMaze_UMaze-v3", None, "control"), ("FetchReach-v4", None, "control")],
)  # fmt: skip
def test_a_package_is_imported_when_a_name_needs_it(name: str, inputs: tuple[str, ...] | None, extra: str) -> None:
    package = catalogue.package_of(name)
    assert package is not None
    assert package.extra == extra
    pytest.importorskip(package.module)
    options = EnvironmentOptions(id=name, count=1, inputs=inputs)
    assert not is_native(options)
    environments = build(options, seed=0)
    first = environments.reset()
    assert set(first) == set(environments.signature.inputs) == set(signature(options).inputs)
    assert environments.exact
    if extra == "control":
        assert set(first) == {"observation", "achieved_goal", "desired_goal"}
    environments.close()


@pytest.mark.parametrize("package", catalogue.PACKAGES, ids=lambda package: package.module)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    package: catalogue.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{package.prefixes[0]}Nothing-v0"
    monkeypatch.setitem(sys.modules, package.module, None)
    with pytest.raises(MissingExtra, match=rf"reinforge\[{package.extra}\]"):
        build(EnvironmentOptions(id=name), seed=0)


def test_the_prefixes_are_those_that_the_packages_register() -> None:
    for package in catalogue.PACKAGES:
        module = pytest.importorskip(package.module)
        catalogue.require(f"{package.prefixes[0]}x")
        mine = [name for name, spec in gym.registry.items() if str(spec.entry_point).startswith(module.__name__)]
        for prefix in package.prefixes:
            assert any(name.startswith(prefix) for name in mine), prefix


def test_what_gymnasium_can_not_make_for_want_of_a_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object, **__: object) -> gym.Env:
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gym, "make", lacking)
    with pytest.raises(EnvironmentFault, match=r"reinforge\[control\]"):
        build(EnvironmentOptions(id="Hopper-v5"), seed=0)


def test_what_an_environment_raises_while_it_is_made_comes_with_its_traceback() -> None:
    def broken() -> gym.Env:
        raise RuntimeError("no such robot")

    gym.register("tests/Broken-v0", broken)
    with pytest.raises(EnvironmentFault, match="no such robot") as caught:
        build(EnvironmentOptions(id="tests/Broken-v0"), seed=0)
    assert "in broken" in str(caught.value)
