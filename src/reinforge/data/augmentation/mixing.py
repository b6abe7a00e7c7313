"""Rows mixed with others of their batch, and their labels with them.

The partner is the next row of the batch in an order drawn from the rows; so what a row is mixed with depends on its
batch, and on nothing else: not on ranks, microbatches or restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.data.augmentation.blocks import by_blocks, covered_by, to_bytes
from reinforge.data.augmentation.options import CutmixOptions, Mixing, MixupOptions
from reinforge.data.augmentation.pixels import rectangles
from reinforge.data.augmentation.random import Draws, Uniform
from reinforge.errors import ComponentError
from reinforge.schema.signature import Signature

TARGETS = ("number", "category", "labels")


class _Mixing:
    """Names what is mixed, and mixes the labels. Raises ComponentError for inputs or outputs that can't be mixed."""

    mixes = True

    def __init__(self, options: Mixing, signature: Signature, forms: Collection[str]) -> None:
        kind = getattr(options, "kind", "")
        self.inputs = tuple(signature.inputs) if options.inputs is None else options.inputs
        for name in self.inputs:
            block = signature.inputs.get(name)
            if block is None or block.form not in forms:
                raise ComponentError(
                    f"input {name!r} " + ("is not there" if block is None else f"({block.form}) can't be mixed"),
                    where=f"augmentation {kind!r}",
                    remedy=f"It mixes inputs of the form {' and '.join(forms)}; name those to mix under `inputs`.",
                )
        for name, output in signature.outputs.items():
            if output.form not in TARGETS:
                raise ComponentError(
                    f"the labels of target {name!r} ({output.form}) can't be mixed",
                    where=f"augmentation {kind!r}",
                    remedy=f"It mixes targets of the form {', '.join(TARGETS)}.",
                )
        self.outputs = signature.outputs
        self.probability = options.probability
        self.beta = half_beta(options.alpha)

    def mixed(
        self, batch: Batch, partner: Tensor, kept: NDArray[np.float64], mix: Callable[[Tensor, Tensor], Tensor]
    ) -> Batch:
        """The batch with `mix(row's, partner's)` as inputs; each row keeps the part `kept` (n,) of its own targets."""
        inputs = batches.section(batch, "inputs")
        new = {name: mix(inputs[name], taken(inputs[name], partner)) for name in self.inputs}
        targets: dict[str, Tensor] = {}
        valid = dict(batches.section(batch, "valid"))
        share = torch.from_numpy(kept.astype(np.float32))
        for name, target in batches.section(batch, "targets").items():
            share = share.to(target.device)
            size = self.outputs[name].size
            values = functional.one_hot(target, size).float() if target.dtype == torch.int64 else target
            if name in valid:
                values = values.masked_fill(~along(valid[name], values), 0)
                valid[name] = valid[name] & (taken(valid[name], partner) | (share == 1))
            targets[name] = torch.lerp(taken(values, partner), values, along(share, values))
        return {**batch, "inputs": {**inputs, **new}, "targets": targets, "valid": valid}


class Mixup(_Mixing):
    """Inputs and labels are kept in one part, and taken from the partner in the other."""

    def __init__(self, options: MixupOptions, signature: Signature) -> None:
        super().__init__(options, signature, ("image", "numbers", "box"))

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with its rows mixed."""
        order, coin, number = Draws(rows.numpy(), seed, epoch).uniform(3).T
        partner = torch.from_numpy(partners(order))
        kept = np.where(coin < self.probability, 1 - self.beta(number), 1.0)
        share = torch.from_numpy(kept.astype(np.float32))

        def mix(own: Tensor, other: Tensor) -> Tensor:
            part = along(share.to(own.device), own)
            if own.dtype == torch.uint8:
                return by_blocks(own, lambda some, at: to_bytes(torch.lerp(other[at].float(), some.float(), part[at])))
            return torch.lerp(other, own, part.to(own.dtype))

        return self.mixed(batch, partner, kept, mix)


class Cutmix(_Mixing):
    """A rectangle of each image shows the partner's."""

    def __init__(self, options: CutmixOptions, signature: Signature) -> None:
        super().__init__(options, signature, ("image",))

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with its images cut and mixed; the part that a row keeps is the area that still shows it."""
        order, coin, greater, number, x, y = Draws(rows.numpy(), seed, epoch).uniform(6).T
        partner = torch.from_numpy(partners(order))
        part = self.beta(number)
        part = np.where(greater < 0.5, part, 1 - part)
        side = np.sqrt(np.where(coin < self.probability, part, 0.0))
        height, width = batches.section(batch, "inputs")[self.inputs[0]].shape[2:]
        high, wide = (np.rint(side * length).astype(np.int64) for length in (height, width))
        # In parts of the picture, so that images of several sizes are cut alike.
        top, left = np.floor(y * (height - high + 1)), np.floor(x * (width - wide + 1))
        edges = np.stack([top / height, left / width, (top + high) / height, (left + wide) / width])

        def mix(own: Tensor, other: Tensor) -> Tensor:
            lengths = np.array([*own.shape[2:], *own.shape[2:]])
            box = np.rint(edges * lengths[:, None]).astype(np.int64)
            return covered_by(own, other, rectangles(*box, *own.shape[2:]).to(own.device))

        return self.mixed(batch, partner, 1 - high * wide / (height * width), mix)


def taken(values: Tensor, rows: Tensor) -> Tensor:
    """Rows (m,) of values (n, ...), wherever these are."""
    return values.index_select(0, rows.to(values.device))


def along(row: Tensor, values: Tensor) -> Tensor:
    """A number per row (n,) with as many dimensions as `values` (n, ...)."""
    return row.view(-1, *[1] * (values.ndim - 1))


def partners(numbers: Uniform) -> NDArray[np.int64]:
    """(n,) for each row another one: all of them in one circle, in the order of their numbers (n,)."""
    order = np.argsort(numbers, kind="stable")
    out = np.empty_like(order)
    out[order] = np.roll(order, -1)
    return out


def half_beta(alpha: float) -> Callable[[Uniform], Uniform]:
    """From uniform numbers (n,) to Beta(alpha, alpha) below a half: the smaller of x and 1 - x.

    The distribution function is integrated once and inverted by interpolation: below alpha = 1 over t = (2 x)^alpha, in
    which the density (1 - x)^(alpha - 1) is bounded, however small alpha is; from there on over t = 2 x.
    """
    power = min(alpha, 1.0)
    t = np.linspace(0, 1, 8_193)
    x = t ** (1 / power) / 2
    density = (1 - x) ** (alpha - 1) * x ** max(alpha - 1, 0.0)
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    total /= total[-1]
    return lambda uniform: np.interp(uniform, total, t) ** (1 / power) / 2
