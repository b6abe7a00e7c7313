"""Which blocks of a batch an augmentation changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from reinforge.core.batch import Batch, Leaf
from reinforge.errors import ComponentError
from reinforge.schema.signature import Signature

# Elements of images that are changed at once.
BLOCK = 1 << 19


def chosen(signature: Signature, names: Sequence[str] | None, form: str, kind: str) -> tuple[str, ...]:
    """The input blocks of a form: all of them, or those named. Raises ComponentError where there is none such."""
    fitting = [name for name, block in signature.inputs.items() if block.form == form]
    wrong = next((name for name in names or () if name not in fitting), None)
    if wrong is None and (names or fitting):
        return tuple(names or fitting)
    raise ComponentError(
        f"no input of the form {form!r} is called {wrong!r}" if wrong else f"there is no input of the form {form!r}",
        where=f"augmentation {kind!r}",
        remedy=f"Inputs of that form: {', '.join(fitting) or 'none'}.",
    )


def changed(batch: Batch, names: Iterable[str], function: Callable[[Leaf], Leaf]) -> Batch:
    """The batch with those input blocks changed; everything else is the same."""
    inputs = cast(Batch, batch["inputs"])
    return {**batch, "inputs": {**inputs, **{name: function(cast(Leaf, inputs[name])) for name in names}}}


def by_blocks(images: Tensor, function: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """`function(some images, which)` for all of them, uint8 (n, ...): so few at a time that they stay in a processor's
    cache as floats."""
    size = max(1, BLOCK * len(images) // max(1, images.numel()))
    if size >= len(images):
        return function(images, slice(None))
    out = torch.empty_like(images)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        out[part] = function(images[part], part)
    return out


def to_bytes(values: Tensor) -> Tensor:
    """Floats from 0 to 255 as uint8, rounded and clipped; they are overwritten."""
    return values.clamp_(0, 255).add_(0.5).to(torch.uint8)


def covered_by(images: Tensor, others: Tensor | int, covered: Tensor) -> Tensor:
    """Images, uint8 (n, channels, height, width), with others (or one value) where `covered` is 1. By arithmetic, which
    is several times faster than `where` on bytes."""
    shown = images * (1 - covered)
    return shown if isinstance(others, int) and others == 0 else shown.add_(others * covered)
