"""Folders of Minari, Farama's format of offline data: episodes in HDF5 or Arrow, with a description beside them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reinforge.environments.observations import Array
from reinforge.errors import DataError, MissingExtra

_DESCRIPTION = "metadata.json"


def read(folder: Path) -> dict[str, Array]:
    """Its transitions as columns, a row per step, episodes one after another: those that `transitions` takes.

    An episode that ends neither way was cut when it was recorded, so its last step counts as truncated. Raises
    DataError where it can't be read, MissingExtra without minari or what its files need.
    """
    inner = _inner(folder)
    if inner is None:
        raise DataError(
            "the folder is no data set of Minari", where=str(folder),
            remedy="Give the folder of one data set, ~/.minari/datasets/ENVIRONMENT/NAME-v0 say.",
        )  # fmt: skip
    try:
        storage: Any = importlib.import_module("minari.dataset.minari_storage").MinariStorage
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "minari", "offline") from None
    rows: dict[str, list[Array]] = {}
    try:
        if not {"observation_space", "action_space"} <= storage.read_raw_metadata(inner).keys():
            # It would make the environment that the data name: code that strangers choose.
            raise DataError("its description does not state both spaces", where=str(folder))
        found = storage.read(inner)
        for episode in found.get_episodes(range(int(found.total_episodes))):
            for name, values in _steps(episode):
                rows.setdefault(name, []).append(values)
    except ImportError as error:
        raise MissingExtra("h5py or pyarrow", "offline") from error
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(
            f"it can't be read: {(str(error) or type(error).__name__).splitlines()[0]}", where=str(folder)
        ) from error
    return {name: np.concatenate(values) for name, values in rows.items()} or {"reward": np.zeros(0)}


def _inner(folder: Path) -> Path | None:
    for candidate in (folder / "data", folder):
        if (candidate / _DESCRIPTION).is_file():
            return candidate
    return None


def _steps(episode: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """The columns of one episode of T steps, which has T + 1 observations. Raises ValueError for other lengths."""
    reward = np.asarray(episode["rewards"])
    steps = len(reward)
    if steps == 0:
        return
    for name, values in _flat("observation", episode["observations"]):
        if len(values) != steps + 1:
            raise ValueError(f"episode {episode['id']} has {steps} steps and {len(values)} observations")
        yield name, values[:-1]
        yield f"next_{name}", values[1:]
    terminated, truncated = (np.array(episode[name], dtype=np.bool_) for name in ("terminations", "truncations"))
    truncated[-1] |= not terminated[-1]
    for name, values in (
        ("action", np.asarray(episode["actions"])),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        if len(values) != steps:
            raise ValueError(f"episode {episode['id']} has {steps} rewards and {len(values)} of {name}")
        yield name, values
    yield "reward", reward


def _flat(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}", part)
        return
    if isinstance(value, tuple):
        raise ValueError("observations are tuples, which no policy here can see")
    yield name, np.asarray(value)
