"""Building a described network without letting the description choose how much memory that takes.

Building on torch's meta device would need no bounds, but its first use imports a symbolic algebra system: seconds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from reinforge.errors import BundleError

# What a network may hold beside its weights: rotary tables, masks, parts without weights.
_SPARE_BYTES, _SPARE_MODULES, _FACTOR = 16 << 20, 1_000, 64
_WHERE = "model.json"
# What gives another view of a tensor: nothing is allocated, and shapes need not be alike.
_VIEWS = (Tensor.view_as, Tensor.reshape_as, Tensor.view)
_RANGES = (torch.linspace, torch.logspace, torch.eye)
_BY_SIZE = (
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.empty_strided,
    torch.normal, Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.repeat, torch.tile,
)  # fmt: skip


@contextmanager
def bounded(count: int, size: int) -> Iterator[None]:
    """Raise BundleError as soon as a network, built inside, outgrows `count` weights of `size` bytes together."""
    limit = _SPARE_BYTES + _FACTOR * size
    thread = threading.get_ident()
    modules, tensors = _SPARE_MODULES + 100 * count, limit

    def count_module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        modules -= threading.get_ident() == thread
        if modules < 0:
            raise BundleError("it describes a network far larger than its weights", where=_WHERE)

    def count_tensor(parent: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal tensors
        count_module(parent, name, None)
        if threading.get_ident() == thread and tensor is not None:
            tensors -= tensor.nbytes
            if tensors < 0:
                raise BundleError("it describes tensors far larger than its weights", where=_WHERE)

    handles = [
        hooks.register_module_module_registration_hook(count_module),
        hooks.register_module_parameter_registration_hook(count_tensor),
        hooks.register_module_buffer_registration_hook(count_tensor),
    ]
    try:
        with _Allocations(limit):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Allocations(TorchFunctionMode):
    """Refuses single tensors beyond the limit before they are allocated."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if _elements(func, args, keywords) > self.limit:
            raise BundleError("it describes a tensor far larger than its weights", where=_WHERE)
        return func(*args, **keywords)


def _elements(func: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> float:
    """About how many elements the result will have: from the sizes asked for, or from broadcasting."""
    if func in _VIEWS:
        return 0
    values = [*args, *keywords.values()]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if func is torch.arange:
        start, stop, step = [0, *numbers, 1][:3] if len(numbers) == 1 else [*numbers, 1][:3]
        return abs(stop - start) / abs(step or 1)
    if func in _RANGES:
        return numbers[0] * numbers[-1] if func is torch.eye else max(numbers[2:], default=0)
    shapes: list[Sequence[int]] = [v.shape for v in values if isinstance(v, Tensor)]
    if func in _BY_SIZE:
        sizes = [v for v in values if isinstance(v, list | tuple)]
        asked: float = math.prod(sizes[0] if sizes else numbers)
        return asked * math.prod(shapes[0]) if func in (Tensor.repeat, torch.tile) and shapes else asked
    sides = zip(*_aligned(shapes))
    elements: int = math.prod(max(side) for side in sides)
    return elements


def _aligned(shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, shapes), default=0)
    return [[1] * (longest - len(shape)) + list(shape) for shape in shapes]
