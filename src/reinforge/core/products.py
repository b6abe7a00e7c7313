"""Products of fp32 matrices on a CPU, by the faster of the two libraries that torch has for them.

torch gives them to MKL, which keeps to AVX2 on processors of other makers than Intel; oneDNN takes AVX-512 wherever it
is. Measured on an AMD EPYC (Zen 5), a product of 256 x 256 matrices on one thread: 309 us by MKL, 141 by oneDNN; of
64 x 64: 7 and 13, since oneDNN looks up its kernel. torch asks oneDNN where products may be computed in bf16; without
units for that (AMX), it computes them in fp32.
"""

from __future__ import annotations

import functools
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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


class _Block(NamedTuple):
    """A part of the program that is run at this moment."""

    rounded: bool
    by_onednn: bool


# The blocks there are, on all threads, and what was set before the first.
_lock = threading.RLock()
_blocks: list[_Block] = []
_before: _Set | None = None
# What `_onednn_is_exact` found.
_exact: bool | None = None


@contextmanager
def faster_products(model: nn.Module, rounded: bool = False) -> Iterator[None]:
    """Within the block oneDNN multiplies fp32 matrices, where that is faster for the model's layers, and is exact: on
    any thread of this process. Where they may be `rounded` first, to TF32 on a GPU and to bf16 on a CPU, what has units
    for that uses them. What was set before is set again after it.

    Blocks of several threads may overlap in any order: what is not exact is set while all of them allow it.
    """
    global _before
    wide = any(min(p.shape[-2:]) >= _WIDE for p in model.parameters() if p.dim() >= 2 and p.device.type == "cpu")
    with _lock:
        # Finding out whether oneDNN rounds would disturb what runs: then it is left out.
        known = _exact is not None or not _blocks
        rounds = rounded and wide and known and not _onednn_is_exact()
        block = _Block(rounded, wide and (rounds or _onednn_is_faster()))
        if not _blocks:
            _before = _Set.now()
        _blocks.append(block)
        _set()
    try:
        yield
    finally:
        with _lock:
            _blocks.remove(block)
            _set()


class _Set(NamedTuple):
    """What torch is told of products: for CPUs, for GPUs, and for both in its older way (None: it contradicts)."""

    cpu: str
    gpu: str
    both: str | None

    @classmethod
    def now(cls) -> _Set:
        try:
            both = torch.get_float32_matmul_precision()
        except RuntimeError:
            both = None
        cpu: Any = torch.backends.mkldnn
        gpu: Any = torch.backends.cuda
        return cls(cpu.matmul.fp32_precision, gpu.matmul.fp32_precision, both)


def _set() -> None:
    """What the blocks there are allow."""
    assert _before is not None
    cpu: Any = torch.backends.mkldnn
    gpu: Any = torch.backends.cuda
    rounded = rounding()
    by_onednn = any(each.by_onednn for each in _blocks) and (rounded or _onednn_is_exact())
    # The older way first, which sets all: what reads it (Inductor) would be told of a contradiction.
    if _before.both is not None and (rounded or _Set.now().both != _before.both):
        torch.set_float32_matmul_precision("medium" if rounded else _before.both)
    cpu.matmul.fp32_precision = "bf16" if by_onednn else _before.cpu
    gpu.matmul.fp32_precision = "tf32" if rounded else _before.gpu


@functools.cache
def _onednn_is_faster() -> bool:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or _maker() == "GenuineIntel":
        return False
    return _onednn_is_exact()


def _onednn_is_exact() -> bool:
    """Whether what may be computed in bf16 is not: bf16 has 8 bits of fp32's 24, and numbers with 12 tell."""
    global _exact
    if _exact is None:
        one = torch.full((_WIDE, _WIDE), 1 + 2.0**-11)
        library: Any = torch.backends.mkldnn
        before, library.matmul.fp32_precision = library.matmul.fp32_precision, "bf16"
        try:
            _exact = bool((one @ torch.eye(_WIDE) == one).all())
        finally:
            library.matmul.fp32_precision = before
    return _exact


def rounding() -> bool:
    """Whether at this moment all that runs allows factors to be rounded."""
    return bool(_blocks) and all(each.rounded for each in _blocks)


def _maker() -> str:
    """Of the processor, as it calls itself ("AuthenticAMD"); "" where the system doesn't tell."""
    try:
        facts = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        # On Windows: "AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD".
        return platform.processor().split(", ")[-1]
    found = (line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("vendor_id"))
    return next(found, "")
