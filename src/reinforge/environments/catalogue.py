"""Which package an environment's name needs: a closed table, since a recipe can't name code to import."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import NamedTuple

import gymnasium as gym

from reinforge.errors import MissingExtra

OWN = "reinforge/"


class Package(NamedTuple):
    """Names that begin with one of `prefixes` are registered by importing `module`, which the extra `extra` installs.

    `native` False: its vectorised form observes something else than its single one, so copies are made of the latter.
    """

    prefixes: tuple[str, ...]
    module: str
    extra: str
    native: bool = True


PACKAGES = (
    Package(("ALE/",), "ale_py", "games", native=False),
    Package(("MiniGrid-", "BabyAI-"), "minigrid", "games"),
    Package(
        ("Fetch", "HandReach", "HandManipulate", "PointMaze_", "AntMaze_", "AdroitHand", "FrankaKitchen-"),
        "gymnasium_robotics",
        "control",
    ),
)
# What Gymnasium registers itself but can't make alone.
_CONTROL = (
    "Ant-", "HalfCheetah-", "Hopper-", "Humanoid", "InvertedDoublePendulum-", "InvertedPendulum-", "Pusher-",
    "Reacher-", "Swimmer-", "Walker2d-", "LunarLander", "BipedalWalker", "CarRacing-",
)  # fmt: skip


def package_of(name: str) -> Package | None:
    """The package that registers this name; None where Gymnasium or the user does."""
    return next((package for package in PACKAGES if name.startswith(package.prefixes)), None)


def register_own() -> None:
    """Register the environments of this library with Gymnasium; once."""
    room = "reinforge.environments.grid_world"
    name = f"{OWN}GridWorld-v0"
    if name not in gym.registry:
        gym.register(name, f"{room}:GridWorld", vector_entry_point=f"{room}:GridWorldVector", max_episode_steps=100)


def require(name: str) -> None:
    """Make sure that what registers this name is imported. Raises MissingExtra where its package is not installed."""
    if name.startswith(OWN):
        register_own()
        return
    package = package_of(name)
    if package is None or name in gym.registry:
        return
    try:
        # One of them prints news of other versions on import.
        with contextlib.redirect_stderr(io.StringIO()):
            module = importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or package.module, package.extra) from error
    if package.module == "ale_py":
        # Its banner, at every emulator.
        module.ALEInterface.setLoggerMode(module.LoggerMode.Error)


def missing(name: str) -> str:
    """The extra that makes an environment run whose package Gymnasium could not import."""
    package = package_of(name)
    return package.extra if package else "control" if name.startswith(_CONTROL) else "games"
