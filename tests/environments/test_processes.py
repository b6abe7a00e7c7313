"""Copies in processes: the same to the bit, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from reinforge.core.tree import pack, unpack
from reinforge.environments.build import build
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.processes import ProcessEnvironments
from reinforge.environments.spaces import Codec
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Environments
from reinforge.errors import EnvironmentFault
from tests.environments.probes import Drift, Faulty

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and forks")
SEED = 11


class Parts(gym.Env[Any, Any]):
    """A Dict observation of every kind; its action is multi-discrete."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, (4, 5, 3), np.uint8),
                "inner": gym.spaces.Dict({"speed": gym.spaces.Box(-9, 9, (2,), np.float64)}),
                "mode": gym.spaces.Discrete(3, start=2),
            }
        )
        self.action_space = gym.spaces.MultiDiscrete([3, 2])

    def _observe(self) -> dict[str, Any]:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._observe(), float(action.sum()), bool(self.np_random.random() < 0.2), False, {}


class Dies(gym.Env[Any, Any]):
    """Takes its whole process with it at the eighth step."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how: str) -> None:
        self.how, self.time = how, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        if self.time == 8:
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "signal" else os._exit(7)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def _both(make: Any, count: int, processes: int) -> tuple[SynchronousEnvironments, ProcessEnvironments]:
    return SynchronousEnvironments(make, count, SEED, "probe"), _processes(make, count, processes)


def _processes(make: Any, count: int, processes: int) -> ProcessEnvironments:
    def copies(first: int, number: int) -> SynchronousEnvironments:
        return SynchronousEnvironments(make, number, SEED, "probe", first=first)

    one = make()
    return ProcessEnvironments(
        copies, Codec(one.observation_space, one.action_space, "probe"), count, "probe", processes
    )


def _actions(environments: Environments, steps: int) -> list[Any]:
    generator, output = np.random.default_rng(0), environments.signature.outputs["action"]
    n = environments.count
    match output.form:
        case "discrete":
            return list(generator.integers(output.size, size=(steps, n)))
        case "multi-discrete":
            return list(generator.integers(output.sizes, size=(steps, n, len(output.sizes))))
    return list(generator.uniform(-3, 12, (steps, n, output.size)).astype(np.float32))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(_equal(one[name], other[name]) for name in one)
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other)


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("make", [Drift, lambda: Drift(continuous=True), Parts], ids=["drift", "box", "parts"])
def test_processes_give_what_one_process_gives_to_the_bit(make: Any, processes: int) -> None:
    """Observations, rewards, flags and true next observations of each copy, however copies are shared out."""
    one, several = _both(make, 5, processes)
    try:
        assert _equal(one.reset(), several.reset())
        for action in _actions(one, 60):
            assert all(_equal(a, b) for a, b in zip(one.step(action), several.step(action), strict=True))
    finally:
        several.close()


def test_their_state_is_that_of_one_process_and_goes_on_in_either() -> None:
    one, several = _both(Drift, 5, 2)
    again = _processes(Drift, 5, 3)
    try:
        one.reset(), several.reset(), again.reset()
        actions = _actions(one, 70)
        for action in actions[:33]:
            one.step(action), several.step(action)
        packed = pack(several.state_dict())
        state = unpack(packed.skeleton, packed.tensors)
        assert state["digests"] == one.state_dict()["digests"]
        one.load_state_dict(state), again.load_state_dict(state)
        assert again.exact
        for action in actions[33:]:
            expected = several.step(action)
            for other in (one, again):
                assert all(_equal(a, b) for a, b in zip(expected, other.step(action), strict=True))
    finally:
        several.close(), again.close()


def test_another_seed_is_handed_on() -> None:
    one, several = _both(Drift, 3, 2)
    try:
        one.reseed(99), several.reseed(99)
        assert _equal(one.reset(), several.reset())
    finally:
        several.close()


def test_what_an_environment_raises_comes_with_its_traceback_and_its_copy() -> None:
    before = _children()
    environments = _processes(lambda: Faulty("raises"), 4, 2)
    environments.reset()
    environments.step(np.zeros(4, np.int64))
    with pytest.raises(EnvironmentFault, match="boom") as caught:
        environments.step(np.zeros(4, np.int64))
    assert "in step 2 of episode 0, copy 0" in caught.value.problem
    assert caught.value.trace is not None
    assert "probes.py" in caught.value.trace
    assert 'raise RuntimeError("boom")' in str(caught.value)
    assert _children() == before
    with pytest.raises(EnvironmentFault, match="closed"):
        environments.step(np.zeros(4, np.int64))


@pytest.mark.parametrize(("how", "words"), [("signal", "SIGKILL"), ("exit", "status 7")])
def test_a_process_that_dies_is_a_fault_that_says_how(how: str, words: str) -> None:
    before = _children()
    environments = _processes(lambda: Dies(how), 3, 2)
    environments.reset()
    # Some steps are taken to see whether it keeps to its seed.
    environments.step(np.zeros(3, np.int64))
    with pytest.raises(EnvironmentFault, match=words):
        _trace(environments, 8)
    assert _children() == before


def test_nothing_stays_behind_when_closed_or_forgotten() -> None:
    before, shared = _children(), set(os.listdir("/dev/shm"))
    environments = _processes(Drift, 3, 3)
    environments.reset()
    assert len(_children() - before) == 3
    environments.close()
    environments.close()
    assert _children() == before
    forgotten = _processes(Drift, 2, 2)
    forgotten.reset()
    del forgotten
    assert _children() == before
    assert set(os.listdir("/dev/shm")) == shared


class Hangs(Drift):
    """Its sixth step takes for ever."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.time == 5:
            time.sleep(1000)
        return super().step(action)


@pytest.mark.parametrize(
    ("how", "make"), [(signal.SIGKILL, "Drift"), (signal.SIGINT, "Drift"), (signal.SIGKILL, "Hangs")]
)
def test_no_process_outlives_a_parent_that_was_killed(how: signal.Signals, make: str) -> None:
    program = (
        "import signal\nimport numpy as np, time\n"
        # Whoever runs the tests in the background may have told its children to ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.environments.test_processes import Drift, Hangs, _processes, _children\n"
        f"two = [_processes({make}, 4, 2) for _ in range(2)]\n"
        "[one.reset() for one in two]\n"
        "print(*_children(), flush=True)\n"
        "while True: [one.step(np.zeros(4, np.int64)) for one in two]\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    try:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 4
        if make == "Hangs":
            time.sleep(0.5)
        parent.send_signal(how)
        parent.wait(20)
    finally:
        parent.kill()
        parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if _runs(pid)]
    # Shared memory is named by the process that asked for it.
    theirs = [f"-{pid}-" for pid in (parent.pid, *workers)]
    assert not [name for name in os.listdir("/dev/shm") if any(part in name for part in theirs)]


def _trace(environments: Environments, steps: int) -> list[Any]:
    return [environments.step(action) for action in _actions(environments, steps)]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_signal_to_the_whole_group_reaches_the_parent_alone() -> None:
    """As Ctrl-C in a terminal, or `timeout`: what it means is the parent's affair, and its workers go on."""
    program = (
        "import numpy as np, os, signal, sys\n"
        "from tests.environments.test_processes import Drift, _processes\n"
        "told = []\n"
        "[signal.signal(which, lambda *_: told.append(1)) for which in (signal.SIGINT, signal.SIGTERM)]\n"
        "one = _processes(Drift, 4, 2)\n"
        "one.reset()\n"
        "[os.killpg(0, which) for which in (signal.SIGINT, signal.SIGTERM)]\n"
        "[one.step(np.zeros(4, np.int64)) for _ in range(5)]\n"
        "one.close()\n"
        "sys.exit(len(told))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], start_new_session=True, timeout=60).returncode == 2


def test_a_recipe_asks_for_processes_by_one_option() -> None:
    asked = EnvironmentOptions(id="Pendulum-v1", count=3, vectorization="processes")
    environments = build(asked, seed=4)
    try:
        assert isinstance(environments, ProcessEnvironments)
        assert environments.exact
        expected = build(asked.model_copy(update={"vectorization": "synchronous"}), seed=4)
        assert _equal(expected.reset(), environments.reset())
        action = np.full((3, 1), 0.5, np.float32)
        assert _equal(expected.step(action).reward, environments.step(action).reward)
    finally:
        environments.close()
