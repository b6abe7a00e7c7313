"""Several runs at once, each in a process of its own: what each becomes is what it would be alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from reinforge.errors import EnvironmentFault, ReinforgeError
from reinforge.messages import _
from reinforge.recipe.user_code import loaded_user_code
from reinforge.workflow.run import Run

_PAUSE_SECONDS = 0.05
# What a command ends with that was interrupted: in the midst of it, or while its modules were still loading.
_INTERRUPTED = (130, -signal.SIGINT)
_TOLD_LINES = 5


class _Child:
    """`reinforge train --resume` of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "reinforge", "train", "--resume", str(run.folder), "--jobs", "1", "--json"]
        # Ctrl-C goes to a terminal's whole group, and a child that hears of it twice would end without a checkpoint.
        apart: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        self.process = subprocess.Popen(
            [*command, *(f"--use={file}" for file in loaded_user_code())],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.complaints, **apart,
        )  # fmt: skip

    def error(self) -> ReinforgeError | None:
        """What it ended with, as an error; None where it was finished or interrupted."""
        code = self.process.wait()
        if code == 0 or code in _INTERRUPTED:
            return None
        lines = [_read(file).splitlines() for file in (self.output, self.complaints)]
        with contextlib.suppress(IndexError, ValueError, KeyError, TypeError):
            told = json.loads(lines[0][-1])["error"]
            error = ReinforgeError(told["problem"], where=told["where"] or self.run.recipe.name, remedy=told["remedy"])
            error.exit_status = told["exit_status"]
            return error
        how = signal.Signals(-code).name if code < 0 else str(code)
        return EnvironmentFault(
            _("its process ended without a word ({how})").format(how=how), where=self.run.recipe.name,
            trace="\n".join(lines[1][-_TOLD_LINES:]) or None,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of what it printed."""
        self.output.close()
        self.complaints.close()


def train_at_once(runs: Sequence[Run], jobs: int, report: Callable[[Sequence[Run]], None]) -> bool:
    """Train runs whose folders are there, `jobs` of them at a time; whether all were finished.

    Ctrl-C and SIGTERM interrupt all, with their checkpoints. Where one fails, the others are interrupted, and its error
    is raised. `report` hears which are running.
    """
    waiting, running, failed = list(runs), list[_Child](), list[ReinforgeError]()
    with _handing_on(running) as stopped:
        while running or (waiting and not failed and not stopped.is_set()):
            while waiting and len(running) < jobs and not failed and not stopped.is_set():
                running.append(_Child(waiting.pop(0)))
                report([child.run for child in running])
            time.sleep(_PAUSE_SECONDS)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                error = child.error()
                child.close()
                if error is not None and not failed:
                    failed.append(error)
                    for other in running:
                        other.process.send_signal(signal.SIGINT)
                report([child.run for child in running])
    if failed:
        raise failed[0]
    return all(run.finished for run in runs)


@contextmanager
def _handing_on(running: Sequence[_Child]) -> Iterator[threading.Event]:
    """Hand the signals that mean an end on to who is running; the event is set once there was one."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        for child in running:
            child.process.send_signal(signal.SIGINT)

    listening = threading.current_thread() is threading.main_thread()
    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)} if listening else {}
    try:
        yield stopped
    except BaseException:
        for child in running:
            child.process.kill()
            child.process.wait()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
