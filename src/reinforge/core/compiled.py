"""C that is compiled once for this processor, where it has a compiler, and loaded.

The shared object stays in the user's cache, under a name that its source, the compiler and the processor decide.
Without a compiler, or with REINFORGE_NATIVE=0, there is none, and torch does what it would have done.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from reinforge.messages import _

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
COMPILING_SECONDS = 120
T = TypeVar("T")


def compiled(source: Path, made_of: Callable[[ctypes.CDLL], T], more: Sequence[str] = ()) -> tuple[T | None, str]:
    """What is `made_of` a library that is compiled with `more` flags, or was before; or None and why there is none."""
    if os.environ.get("REINFORGE_NATIVE") == "0":
        return None, "REINFORGE_NATIVE=0"
    if sys.platform != "linux":
        return None, _("they are for Linux")
    named = os.environ.get("CC") or "cc"
    try:
        # It may bring options, or be called by another ("gcc -m64", "ccache gcc").
        words = shlex.split(named)
    except ValueError:
        words = []
    compiler = shutil.which(words[0]) if words else None
    if compiler is None:
        return None, _("there is no C compiler {name}").format(name=named)
    command = [compiler, *words[1:], *FLAGS, *more]
    try:
        # What the compiler defines names its version and all that this processor can do.
        known = subprocess.run(
            [*command, "-E", "-dM", "-x", "c", os.devnull], capture_output=True, check=True, timeout=COMPILING_SECONDS
        ).stdout
        name = hashlib.sha256(b"\0".join((source.read_bytes(), " ".join(command).encode(), known))).hexdigest()
        folder, name = _folder(), f"{source.stem}-{name[:32]}"
        for path in folder.glob(f"{name}-*.so"):
            try:
                # Its length is in its name: of one that is cut short, as a full disk leaves it, the loader would read
                # beyond the end, which ends the process.
                if path.stat().st_size == int(path.stem.rpartition("-")[2]):
                    return made_of(ctypes.CDLL(str(path))), ""
            except (OSError, AttributeError, ValueError):
                pass
            # What is damaged is made anew.
            path.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / "made.so"
            subprocess.run(
                [*command, "-o", str(made), str(source), "-lm"], capture_output=True, check=True,
                timeout=COMPILING_SECONDS,
            )  # fmt: skip
            with made.open("rb") as file:
                os.fsync(file.fileno())
            path = folder / f"{name}-{made.stat().st_size}.so"
            # Several processes may make it at once: each replaces it by the same.
            os.replace(made, path)
        return made_of(ctypes.CDLL(str(path))), ""
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines() or [str(error)]
        return None, f"{named}: {told[0]}"
    except (OSError, AttributeError, RuntimeError, subprocess.SubprocessError) as error:
        return None, str(error)


def _folder() -> Path:
    """The user's own, where nobody else can put a library. Raises OSError or RuntimeError where there is none."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    # As its specification has it, a relative one counts for nothing.
    folder = (base if base.is_absolute() else Path.home() / ".cache") / "reinforge"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(_("{folder} can be written by others").format(folder=folder))
    return folder
