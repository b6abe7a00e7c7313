"""What saving and resuming a full replay buffer costs: 1M transitions of HalfCheetah-v5, or of stacks of frames.

A full buffer of `--rows` transitions (observations of 17 numbers, 6 actions, reward, ends), half a segment of it not
sealed yet, is saved, takes 1,000 more, is saved again, and read back, through the checkpoints that runs use. The peer
is a state in which the buffer is plain arrays, written anew each time. Bytes on disk are those of all files that stand,
links counted once.

    python -m benchmarks.replay [--rows 1000000] [--frames] [--alone]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from reinforge.engine.checkpoint import CheckpointStore
from reinforge.environments.spaces import Codec
from reinforge.environments.vector import Transition
from reinforge.sources.buffer import TransitionBuffer

COPIES, MORE, EPISODE = 10, 1_000, 1_000
MIB = 1 << 20


def codec(frames: bool) -> Codec:
    """The spaces of HalfCheetah-v5, or one frame of 84 by 84 bytes."""
    if frames:
        return Codec(gym.spaces.Box(0, 255, (1, 84, 84), np.uint8), gym.spaces.Discrete(6), "frames")
    action = gym.spaces.Box(-1, 1, (6,), np.float32)
    return Codec(gym.spaces.Box(-np.inf, np.inf, (17,), np.float64), action, "HalfCheetah-v5")


def collect(buffer: TransitionBuffer, spaces: Codec, rows: int, generator: np.random.Generator) -> None:
    """Add rows of random content, COPIES at a time, with episodes of a thousand steps."""
    block = spaces.blocks["observation"]
    nothing, random = (
        np.zeros(COPIES, np.bool_),
        generator.integers(0, 256, (64, COPIES, *block.shape)).astype(block.dtype),
    )
    shape = (COPIES, *spaces.action_shape)
    for time_step in range(rows // COPIES):
        ends = np.full(COPIES, buffer.total // COPIES % EPISODE == EPISODE - 1)
        seen, after = ({"observation": random[(time_step + k) % 64]} for k in (0, 1))
        reward, action = generator.normal(size=COPIES).astype(np.float32), generator.random(shape)
        step = Transition(after, reward, nothing, ends, after, ~nothing, ends)
        buffer.add(seen, action.astype(spaces.action_dtype), step)


def on_disk(folder: Path) -> int:
    """Bytes of all files, links counted once."""
    return sum({(s := file.stat()).st_ino: s.st_size for file in folder.rglob("*") if file.is_file()}.values())


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(rows: int, frames: bool, plain: bool) -> dict[str, float]:
    """Seconds of the first save, the next, and of reading back; MiB of memory and on disk."""
    spaces, generator = codec(frames), np.random.default_rng(0)
    buffer = TransitionBuffer(rows, spaces, COPIES)
    collect(buffer, spaces, rows + rows // 32, generator)

    def state() -> Any:
        return {"source": buffer._rows(slice(0, buffer.length)) if plain else buffer.state_dict()}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = CheckpointStore(folder)
        first = seconds(lambda: store.save(state(), updates=1))
        once = on_disk(folder)
        collect(buffer, spaces, MORE, generator)
        following = seconds(lambda: store.save(state(), updates=2))
        twice = on_disk(folder)
        again = TransitionBuffer(rows, spaces, COPIES)

        def load() -> None:
            found = CheckpointStore(folder).latest()
            assert found is not None
            if not plain:
                again.load_state_dict(found["source"])

        back = seconds(load)
        if not plain:
            drawn = generator.integers(buffer.oldest, buffer.total, 4096)
            one, other = buffer.gather(drawn, 3), again.gather(drawn, 3)
            assert all(np.array_equal(one[key], other[key]) for key in ("action", "rewards", "length", "terminated"))
            for key in ("observation", "next_observation"):
                assert np.array_equal(one[key]["observation"], other[key]["observation"])  # type: ignore[index]
    return {
        "first": first, "next": following, "load": back, "memory": buffer.nbytes / MIB, "once": once / MIB,
        "twice": twice / MIB,
    }  # fmt: skip


def main() -> None:
    """Print both, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--frames", action="store_true", help="frames of 84 by 84 bytes; a million take 8 GiB twice")
    parser.add_argument("--alone", action="store_true", help="without the peer")
    arguments = parser.parse_args()
    found = {}
    for name, plain in (("sealed segments", False), ("plain arrays", True))[: 1 if arguments.alone else 2]:
        found[name] = row = measure(arguments.rows, arguments.frames, plain)
        print(
            f"{name}: first save {row['first']:.2f} s, next after {MORE} rows {row['next']:.2f} s, "
            f"read back {row['load']:.2f} s; memory {row['memory']:.0f} MiB, on disk {row['once']:.0f} MiB, with the "
            f"next {row['twice']:.0f} MiB"
        )
    ours, peer = found["sealed segments"], found.get("plain arrays", {})
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}; {' '.join(sys.argv)}"
    )
    summary = {
        "name": "replay.save",
        "ratio": round(peer["next"] / ours["next"], 2) if peer else None,
        "ours": round(ours["next"], 3),
        "peer": round(peer["next"], 3) if peer else None,
        "unit": "seconds of the save after 1,000 rows",
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
