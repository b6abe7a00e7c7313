"""Products of fp32 matrices on a CPU, by the faster of the two libraries that torch has for them.

torch gives them to MKL, which keeps to AVX2 on processors of other makers than Intel; oneDNN takes AVX-512 wherever it
is. Measured on an AMD EPYC (Zen 5), a product of 256 x 256 matrices on one thread: 309 us by MKL, 141 by oneDNN; of
64 x 64: 7 and 13, since oneDNN looks up its kernel. torch asks oneDNN where products may be computed in bf16; without
units for that (AMX), it computes them in fp32.
"""

from __future__ import annotations

import enum
import functools
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The smaller side of a matrix from which oneDNN is faster.
_WIDE = 128
# oneDNN makes a kernel for each number of rows, in some 5 ms, and keeps it, about a megabyte: where numbers vary, they
# are rounded up to multiples of this, but not so few rows that it would be felt.
_ROWS, _MANY = 64, 512


def spare_rows(x: Tensor) -> int:
    """How many more rows x (n, ...) should have for products on a CPU, where n varies from one to the next."""
    return -len(x) % _ROWS if len(x) >= _MANY and x.device.type == "cpu" else 0


@contextmanager
def faster_products(model: nn.Module, rounded: bool = False) -> Iterator[None]:
    """Within the block oneDNN multiplies fp32 matrices, where that is faster for the model's layers, and is exact: on
    any thread of this process. Where they may be `rounded` first, to TF32 on a GPU and to bf16 on a CPU, what has units
    for that uses them. What was set before is set again after it.

    Blocks of several threads may overlap in any order: what is not exact is set while all of them allow it.
    """
    wide = any(min(p.shape[-2:]) >= _WIDE for p in model.parameters() if p.dim() >= 2 and p.device.type == "cpu")
    exact = _Wanted.EXACT_BY_ONEDNN if wide and _onednn_is_faster() else _Wanted.EXACT
    with _setting(_Wanted.ROUNDED if rounded else exact):
        yield


@functools.cache
def _onednn_is_faster() -> bool:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or _maker() == "GenuineIntel":
        return False
    return _onednn_is_exact()


@functools.cache
def _onednn_is_exact() -> bool:
    """Whether what may be computed in bf16 is not: bf16 has 8 bits of fp32's 24, and numbers with 12 tell."""
    one = torch.full((_WIDE, _WIDE), 1 + 2.0**-11)
    library: Any = torch.backends.mkldnn
    with _lock:
        before, library.matmul.fp32_precision = library.matmul.fp32_precision, "bf16"
        try:
            return bool((one @ torch.eye(_WIDE) == one).all())
        finally:
            library.matmul.fp32_precision = before


class _Wanted(enum.Enum):
    """Of the products in a block."""

    EXACT = enum.auto()
    EXACT_BY_ONEDNN = enum.auto()
    ROUNDED = enum.auto()


# The blocks there are at this moment, on all threads, and what was set before the first, of CPUs and GPUs.
_lock = threading.RLock()
_blocks: list[_Wanted] = []
_before = ("", "")


@contextmanager
def _setting(wanted: _Wanted) -> Iterator[None]:
    global _before
    cpu: Any = torch.backends.mkldnn
    gpu: Any = torch.backends.cuda
    with _lock:
        if not _blocks:
            _before = (cpu.matmul.fp32_precision, gpu.matmul.fp32_precision)
        _blocks.append(wanted)
        _set(cpu, gpu)
    try:
        yield
    finally:
        with _lock:
            _blocks.remove(wanted)
            _set(cpu, gpu)


def _set(cpu: Any, gpu: Any) -> None:
    """What the blocks there are allow."""
    rounded = rounding()
    by_onednn = rounded or (any(each is not _Wanted.EXACT for each in _blocks) and _onednn_is_exact())
    cpu.matmul.fp32_precision = "bf16" if by_onednn else _before[0]
    gpu.matmul.fp32_precision = "tf32" if rounded else _before[1]


def rounding() -> bool:
    """Whether at this moment all that runs allows factors to be rounded."""
    return bool(_blocks) and all(each is _Wanted.ROUNDED for each in _blocks)


def _maker() -> str:
    """Of the processor, as it calls itself ("AuthenticAMD"); "" where the system doesn't tell."""
    try:
        facts = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        # On Windows: "AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD".
        return platform.processor().split(", ")[-1]
    found = (line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("vendor_id"))
    return next(found, "")
