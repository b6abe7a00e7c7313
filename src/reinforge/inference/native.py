"""What lies between the matrix products of a decoding step, in C, compiled once for this processor where it has a
compiler: torch takes a dozen passes over memory, and as many calls, where these take one.

The shared object stays in the user's cache, under a name that its source, the compiler and the processor decide.
Without a compiler, or with REINFORGE_NATIVE=0, torch does it all, with equal results but for rounding.

Shape suffixes: n rows, d width, f hidden width, h query heads, k key-value heads, e head width, c positions, s slots,
v vocabulary.
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
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from reinforge.messages import _

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
HALF = {torch.float32: (), torch.bfloat16: ("-DHALF",)}
# Numbers in a vector; rows must be whole ones.
LANES = 16
WIDEST = 256
COMPILING_SECONDS = 120

_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


class Native:
    """The functions for one type of numbers. Tensors are on the CPU; each result is a new one."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._normalise = library.normalise
        self._normalise.argtypes = [_pointer] * 3 + [_long] * 2 + [_float]
        self._gate = library.gate
        self._gate.argtypes = [_pointer] * 2 + [_long] * 3
        self._attend = library.attend
        self._attend.argtypes = [_pointer] * 3 + [_long] * 3 + [_pointer] * 6 + [_long] * 6 + [_float, _long]
        self._draw = getattr(library, "draw", None)
        if self._draw is not None:
            self._draw.argtypes = [_pointer] * 4 + [_long] * 3

    def normalise(self, x_nd: Tensor, gain_d: Tensor, epsilon: float) -> Tensor:
        """x / rms(x) * gain over the last dimension, rounded once. The gain is float32."""
        x_nd = x_nd.contiguous()
        out_nd = torch.empty_like(x_nd)
        width = x_nd.shape[-1]
        rows = x_nd.numel() // width
        self._normalise(x_nd.data_ptr(), gain_d.data_ptr(), out_nd.data_ptr(), rows, width, epsilon)
        return out_nd

    def gate(self, both_nf: Tensor, gelu: bool) -> Tensor:
        """SiLU, or GELU by its tanh form, of the first half, times the second: (n, f) of (n, 2 f)."""
        both_nf = both_nf.contiguous()
        hidden = both_nf.shape[-1] // 2
        out_nf = both_nf.new_empty(*both_nf.shape[:-1], hidden)
        self._gate(both_nf.data_ptr(), out_nf.data_ptr(), out_nf.numel() // hidden, hidden, gelu)
        return out_nf

    def attend(
        self, q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor, tables: tuple[Tensor, Tensor] | None, position_n: Tensor,
        keys_skce: Tensor, values_skce: Tensor, *, window: int | None, scale: float,
    ) -> Tensor:  # fmt: skip
        """One token more in each of the first n slots: queries and keys are turned by the `tables` (cosines and signed
        sines (c, e), float32), keys and values written to the cache at `position_n`, and attention reads it up to
        there: (n, h, e)."""
        rows, heads, width = q_nhe.shape
        position_n = position_n.contiguous()
        # Rows may lie apart, as the parts of one product do; a row's heads lie end to end.
        q_nhe, k_nke, v_nke = (
            each if each.stride()[1:] == (width, 1) else each.contiguous() for each in (q_nhe, k_nke, v_nke)
        )
        out_nhe = q_nhe.new_empty(rows, heads, width)
        cos, sin = (None, None) if tables is None else (tables[0].data_ptr(), tables[1].data_ptr())
        self._attend(
            q_nhe.data_ptr(), k_nke.data_ptr(), v_nke.data_ptr(), q_nhe.stride(0), k_nke.stride(0), v_nke.stride(0),
            cos, sin, position_n.data_ptr(), keys_skce.data_ptr(), values_skce.data_ptr(), out_nhe.data_ptr(), rows,
            heads, k_nke.shape[1], width, keys_skce.shape[2], window or 0, scale, torch.get_num_threads(),
        )  # fmt: skip
        return out_nhe

    def draw(self, logits_nv: Tensor, uniform_n: Tensor) -> tuple[Tensor, Tensor]:
        """By inversion, a token of softmax(logits), and its log-probability: (n,) int64, (n,) float32. Logits are
        float32, uniform numbers float64 in [0, 1)."""
        assert self._draw is not None
        logits_nv, uniform_n = logits_nv.contiguous(), uniform_n.contiguous()
        rows, size = logits_nv.shape
        token_n = torch.empty(rows, dtype=torch.int64)
        log_prob_n = torch.empty(rows)
        self._draw(
            logits_nv.data_ptr(), uniform_n.data_ptr(), token_n.data_ptr(), log_prob_n.data_ptr(), rows, size,
            torch.get_num_threads(),
        )  # fmt: skip
        return token_n, log_prob_n


def native(like: Tensor) -> Native | None:
    """The functions for a tensor's type and device; None where there are none."""
    return built(like.dtype) if like.dtype in HALF and like.device.type == "cpu" else None


@cache
def built(dtype: torch.dtype) -> Native | None:
    """The same, compiled where no process did so before."""
    return attempt(dtype)[0]


def attempt(dtype: torch.dtype) -> tuple[Native | None, str]:
    """The same, looked for anew, and why there are none."""
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
    command = [compiler, *words[1:], *FLAGS, *HALF[dtype]]
    try:
        # What the compiler defines names its version and all that this processor can do.
        known = subprocess.run(
            [*command, "-E", "-dM", "-x", "c", os.devnull], capture_output=True, check=True, timeout=COMPILING_SECONDS
        ).stdout
        name = hashlib.sha256(b"\0".join((SOURCE.read_bytes(), " ".join(command).encode(), known))).hexdigest()
        path = _folder() / f"native-{name[:32]}.so"
        if path.exists():
            try:
                return Native(path), ""
            except (OSError, AttributeError):
                # What is damaged is made anew.
                path.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            subprocess.run(
                [*command, "-o", str(made), str(SOURCE), "-lm"], capture_output=True, check=True,
                timeout=COMPILING_SECONDS,
            )  # fmt: skip
            # Several processes may make it at once: each replaces it by the same.
            os.replace(made, path)
        return Native(path), ""
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
