"""Transitions of a file, for learning without an environment at hand."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from reinforge.core.contracts import Clock, Experience, Outcome, Signal, State
from reinforge.core.seeds import derive
from reinforge.environments.build import spaces
from reinforge.environments.observations import Array, Observation
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import Codec
from reinforge.errors import CheckpointError, ComponentError, DataError, EnvironmentFault
from reinforge.models.policy import Policy
from reinforge.sources import minari
from reinforge.sources.buffer import TransitionBuffer
from reinforge.sources.collector import as_batch, moments_of
from reinforge.sources.options import TransitionOptions

Columns = Mapping[str, Array]


class TransitionSource:
    """Batches drawn uniformly, with replacement, from the transitions of a file; what `ReplaySource` says of a row
    holds here.

    Rows follow one another where one ends neither way and its next observation is the following row's observation. A
    policy's normalisers, where they have seen nothing yet, are shown all observations once, before anything is learned.
    """

    sharded = False
    exact = True

    def __init__(self, options: TransitionOptions, *, environment: EnvironmentOptions, seed: int, batch: int) -> None:
        self.options, self.batch = options, batch
        codec = Codec(*spaces(environment), environment.inputs, environment.images)
        self.buffer, self.digest = filled(options.path, codec)
        self.generator = np.random.default_rng(derive(seed, "transitions"))
        self.drawn = 0
        self._frames = 1

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """Show normalisers that have seen nothing all observations."""
        model = learner.model
        if not isinstance(model, Policy):
            raise ComponentError(f"a {type(model).__name__} can't act", remedy="Use a policy as model, q-network say.")
        self._frames = model.frames
        if any(float(normaliser.count) == 0 for normaliser in model.normalisers.values()):
            model.observe(moments_of(model, self.buffer.newest(len(self.buffer))))

    def next(self, clock: Clock) -> Experience | Signal:
        numbers = self.generator.integers(0, len(self.buffer), size=self.batch)
        self.drawn += self.batch
        return Experience(
            as_batch(self.buffer.gather(numbers, self.options.n_step, self._frames)),
            samples=self.batch,
            epochs=self.drawn / len(self.buffer),
            extra={"updates": torch.tensor(1)},
        )

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Nothing to learn from outcomes."""

    def state_dict(self) -> State:
        return {"generator": self.generator.bit_generator.state, "drawn": self.drawn, "digest": self.digest}

    def load_state_dict(self, state: State) -> None:
        """Raises CheckpointError where the file is no longer the same."""
        if state["digest"] != self.digest:
            raise CheckpointError(f"{self.options.path} is not what the run began with", remedy="Put it back.")
        self.generator.bit_generator.state = state["generator"]
        self.drawn = state["drawn"]


def filled(path: str, codec: Codec) -> tuple[TransitionBuffer, str]:
    """A buffer with the file's transitions, actions in learner space, and the digest of them. Raises DataError that
    names the column."""
    columns = read(path)
    count = len(_column(columns, "reward", path))
    if count == 0:
        raise DataError("it holds no transitions", where=path)
    before, after = (_observations(columns, name, codec, count, path) for name in ("observation", "next_observation"))
    terminated, truncated = (_flags(columns, name, count, path) for name in ("terminated", "truncated"))
    try:
        reward = codec.rewards(columns["reward"], count, "reward")
        action = codec.taken(_column(columns, "action", path))
    except (EnvironmentFault, ValueError, TypeError) as error:
        raise DataError(str(error), where=path) from error
    if codec.output.form == "continuous":
        low, high = np.array(codec.output.low, np.float32), np.array(codec.output.high, np.float32)
        action = np.clip((action - low) * (2 / (high - low)) - 1, -1, 1)
    done = terminated | truncated
    follows = np.ones(count - 1, np.bool_)
    for name, array in before.items():
        follows &= (array[1:] == after[name][:-1]).reshape(count - 1, -1).all(1)
    done[:-1] |= ~follows
    rows = {"action": action, "reward": reward, "terminated": terminated}
    digest = hashlib.blake2b(digest_size=16)
    for value in (*before.values(), *after.values(), *rows.values(), done):
        digest.update(np.ascontiguousarray(value).tobytes())
    buffer = TransitionBuffer(count, codec, 1)
    buffer.fill(rows, before, after, done)
    return buffer, digest.hexdigest()


def read(path: str) -> dict[str, Array]:
    """The columns of a file, or of a folder of Minari. Raises DataError where it can't be read."""
    file = Path(path).expanduser()
    if file.is_dir():
        return minari.read(file)
    if not file.is_file():
        raise DataError("there is no such file", where=path)
    try:
        match file.suffix:
            case ".npz":
                with np.load(file, allow_pickle=False) as archive:
                    return {name: archive[name] for name in archive.files}
            case ".parquet":
                table = pl.read_parquet(file)
            case ".jsonl" | ".ndjson":
                table = pl.read_ndjson(file)
            case _:
                remedy = "Give .parquet, .npz or .jsonl, or a folder of Minari."
                raise DataError("its form is not known", where=path, remedy=remedy)
        return {name: _array(table[name]) for name in table.columns}
    except (OSError, ValueError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise DataError(f"it can't be read: {str(error).splitlines()[0]}", where=path) from error


def _array(series: pl.Series) -> Array:
    nested = isinstance(series.dtype, pl.List | pl.Array)
    array: Array = np.array(series.to_list()) if nested else series.to_numpy()
    return array


def _column(columns: Columns, name: str, path: str) -> Array:
    if name not in columns:
        raise DataError(f"it has no column {name!r}", where=path, remedy=f"Its columns: {', '.join(columns)}.")
    return columns[name]


def _flags(columns: Columns, name: str, count: int, path: str) -> Array:
    array = _column(columns, name, path)
    if array.shape != (count,) or array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise DataError(f"the column {name!r} is not true or false in each row", where=path)
    return array.astype(np.bool_)


def _observations(columns: Columns, name: str, codec: Codec, count: int, path: str) -> Observation:
    """As the environment would give them, checked and encoded."""
    given: Any = {}
    for block in codec.blocks.values():
        key = ".".join((name, *block.keys))
        array = _column(columns, key, path)
        if array.dtype.kind not in "fiub" or len(array) != count:
            raise DataError(f"the column {key!r} holds no arrays of numbers of one shape", where=path)
        array = array.astype(block.native)
        if not block.keys:
            given = array.reshape(count, *block.given) if array.size == count * int(np.prod(block.given)) else array
            continue
        place = given
        for part in block.keys[:-1]:
            place = place.setdefault(part, {})
        place[block.keys[-1]] = array
    try:
        return codec.observations(given, count, name)
    except EnvironmentFault as error:
        raise DataError(str(error), where=path, remedy="Give what the environment itself gives.") from error
