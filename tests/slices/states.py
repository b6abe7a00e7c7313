"""Comparing state trees, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from reinforge.core.ragged import Ragged
from reinforge.core.sealed import Sealed

# Wall time is no part of exactness.
_IGNORED = {"seconds", "files"}


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """The paths at which two state trees differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(set(a) | set(b), key=str):
            if key in _IGNORED:
                continue
            if key not in a or key not in b:
                yield f"{path}/{key}: on one side alone"
            else:
                yield from differences(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            yield f"{path}: lengths {len(a)} and {len(b)}"
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{path}/{i}")
    elif isinstance(a, Sealed) and isinstance(b, Sealed):
        yield from differences(dict(a.tensors), dict(b.tensors), f"{path}/{a.name}")
    elif isinstance(a, Ragged) and isinstance(b, Ragged):
        yield from differences([a.values, a.offsets], [b.values, b.offsets], path)
    elif isinstance(a, torch.Tensor | np.ndarray) and isinstance(b, torch.Tensor | np.ndarray):
        x, y = torch.as_tensor(a), torch.as_tensor(b)
        if x.shape != y.shape or x.dtype != y.dtype or not torch.equal(_bits(x), _bits(y)):
            yield f"{path}: tensors differ"
    elif a != b and not (a != a and b != b):
        yield f"{path}: {a!r} is not {b!r}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():
        # An empty one may have a stride of 0, which can't be viewed.
        return torch.empty(0, dtype=torch.uint8)
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8)
