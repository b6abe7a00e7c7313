"""Walking a road by the commands a user would type: each stage is run, timed, and told in a table at the end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "reinforge"]
# How long a server may take to listen.
LISTENING = 60.0
Row = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One line of the table."""

    recipe: str
    name: str
    seconds: float
    result: str


@dataclass
class Walk:
    """The stages done so far, in `folder`; all of them may take `seconds`, on two cores, and a command that would
    overrun them is stopped."""

    folder: Path
    seconds: float
    began: float = field(default_factory=time.monotonic)
    stages: list[Stage] = field(default_factory=list)

    def left(self) -> float:
        """Seconds that are left."""
        return max(1.0, self.seconds - (time.monotonic() - self.began))

    def command(self, *arguments: str | Path) -> Row:
        """Run a command and return its JSON line. Ends the program where it fails."""
        words = [str(argument) for argument in arguments]
        print(f"\n$ reinforge {' '.join(_quoted(word) for word in words)}", flush=True)
        try:
            done = subprocess.run([*COMMAND, *words, "--json"], stdout=subprocess.PIPE, text=True, timeout=self.left())
        except subprocess.TimeoutExpired:
            sys.exit(f"it took more than {self.seconds:.0f} seconds; is the machine busy?")
        *told, last = done.stdout.rstrip("\n").split("\n")
        print("\n".join(told), flush=True)
        if done.returncode != 0:
            sys.exit(f"the command ended with status {done.returncode}")
        found: Row = json.loads(last)
        return found

    @contextmanager
    def stage(self, recipe: str, name: str, seconds: float | None = None) -> Iterator[list[str]]:
        """Times the block, unless it is known how long it took; the texts put into the list are the stage's result."""
        began, result = time.monotonic(), list[str]()
        yield result
        took = time.monotonic() - began if seconds is None else seconds
        self.stages.append(Stage(recipe, name, took, ", ".join(result)))

    def table(self) -> str:
        """The stages, and how long all of it took."""
        rows = [("recipe", "stage", "seconds", "result")]
        rows += [(stage.recipe, stage.name, f"{stage.seconds:.1f}", stage.result) for stage in self.stages]
        rows.append(("", "all", f"{time.monotonic() - self.began:.1f}", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{r[0]:<{widths[0]}}  {r[1]:<{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]}".rstrip() for r in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join(lines)


@contextmanager
def serving(walk: Walk, bundle: Path) -> Iterator[tuple[str, str]]:
    """A server of the bundle on a free port: its address, and the path to predict by. It is stopped at the end."""
    words = ["serve", str(bundle), "--port", "0"]
    print(f"\n$ reinforge {' '.join(words)}", flush=True)
    server = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    try:
        yield _address(server, min(LISTENING, walk.left()))
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Where the server says it listens, and the path to predict by."""
    assert server.stderr is not None
    began = time.monotonic()
    for line in server.stderr:
        print(line, end="", flush=True)
        address, path = re.search(r"https?://[\w.:\[\]-]+", line), re.search(r"/v1/models/[\w.-]+/predict", line)
        if address and path:
            return address[0], path[0]
        if time.monotonic() - began > seconds:
            break
    sys.exit("the server did not say where it listens")


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./=,:\[\]-]+", word) else f"'{word}'"
