"""Moving pixels: every change is an affine map, successive ones are multiplied, and the picture is sampled once.

A map takes a point of the result to the point of the picture that is seen there, both in pixels from the middle, x to
the right and y down: (n, 3, 3), acting on (x, y, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reinforge.core.batch import Batch, Leaf
from reinforge.data.augmentation.blocks import by_blocks, changed, chosen, covered_by, to_bytes
from reinforge.data.augmentation.options import (
    CropOptions,
    Fill,
    FlipOptions,
    ImageAugmentation,
    RotateOptions,
    ScaleOptions,
    ShiftOptions,
)
from reinforge.data.augmentation.random import Draws, Uniform, between
from reinforge.schema.signature import Signature

Maps = NDArray[np.float64]
_PADDING = {"black": "zeros", "edge": "border", "reflect": "reflection"}


class Geometric:
    """A component that only moves pixels, by so many random `numbers` per row. `fill` is None where nothing comes in
    from outside."""

    mixes = False
    numbers: ClassVar[int]

    def __init__(self, options: ImageAugmentation, signature: Signature) -> None:
        self.probability = options.probability
        self.inputs = chosen(signature, options.inputs, "image", str(getattr(options, "kind", "")))
        self.fill: Fill | None = getattr(options, "fill", None)

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with its images moved."""
        return moved(batch, [(self, seed)], rows, epoch)

    def maps(self, draws: Draws, height: int, width: int) -> Maps:
        """(n, 3, 3) for images of that size; the identity for rows that stay as they are."""
        *numbers, coin = draws.uniform(self.numbers + 1).T
        found = self.draw(numbers, height, width)
        if self.probability < 1:
            found[coin >= self.probability] = np.eye(3)
        return found

    def draw(self, numbers: Sequence[Uniform], height: int, width: int) -> Maps:
        """(n, 3, 3), were all rows to move; `numbers`: (n,) each, in [0, 1)."""
        raise NotImplementedError


class Flip(Geometric):
    """Left and right, top and bottom change places."""

    numbers = 2

    def __init__(self, options: FlipOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.horizontal, self.vertical = options.horizontal, options.vertical

    def draw(self, numbers: Sequence[Uniform], height: int, width: int) -> Maps:
        """Mirrors."""
        horizontal, vertical = numbers
        return flips(horizontal < self.horizontal, vertical < self.vertical)


class Rotate(Geometric):
    """Turns about the middle."""

    numbers = 1

    def __init__(self, options: RotateOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.degrees = options.degrees

    def draw(self, numbers: Sequence[Uniform], height: int, width: int) -> Maps:
        """Uniform angles."""
        return rotations(np.deg2rad(between(numbers[0], -self.degrees, self.degrees)))


class Scale(Geometric):
    """Smaller and larger."""

    numbers = 1

    def __init__(self, options: ScaleOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.low, self.high = np.log(options.low), np.log(options.high)

    def draw(self, numbers: Sequence[Uniform], height: int, width: int) -> Maps:
        """Log-uniform factors."""
        factor = np.exp(between(numbers[0], self.low, self.high))
        return windows(1 / factor, 1 / factor, 0.0, 0.0)


class Crop(Geometric):
    """A window, made as large as the picture."""

    numbers = 4

    def __init__(self, options: CropOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.area, self.ratio = options.area, np.log(options.ratio)

    def draw(self, numbers: Sequence[Uniform], height: int, width: int) -> Maps:
        """Windows of uniform area and log-uniform proportions, anywhere within the picture."""
        area, ratio = between(numbers[0], self.area, 1.0), np.exp(between(numbers[1], -self.ratio, self.ratio) / 2)
        across, along = np.minimum(np.sqrt(area) * ratio, 1.0), np.minimum(np.sqrt(area) / ratio, 1.0)
        x, y = (numbers[2] - 0.5) * (1 - across) * width, (numbers[3] - 0.5) * (1 - along) * height
        return windows(across, along, x, y)


class Shift(Geometric):
    """Whole pixels to any side."""

    numbers = 2

    def __init__(self, options: ShiftOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.by = options.by

    def draw(self, numbers: Sequence[Uniform], height: int, width: int) -> Maps:
        """Uniform moves."""
        x, y = (between(number, -self.by, self.by) for number in numbers)
        return windows(1.0, 1.0, np.rint(x * width), np.rint(y * height))


def still(count: int) -> Maps:
    """The identity, so many times."""
    out = np.zeros((count, 9))
    out[:, ::4] = 1
    return out.reshape(count, 3, 3)


def flips(horizontal: NDArray[np.bool_], vertical: NDArray[np.bool_]) -> Maps:
    """Mirrors, where these (n,) are True."""
    out = still(len(horizontal))
    out[:, 0, 0] -= 2 * horizontal
    out[:, 1, 1] -= 2 * vertical
    return out


def rotations(angles: Maps) -> Maps:
    """Turns to the left by these angles (n,), in radians."""
    out = still(len(angles))
    cosine, sine = np.cos(angles), np.sin(angles)
    out[:, 0, 0], out[:, 0, 1] = cosine, -sine
    out[:, 1, 0], out[:, 1, 1] = sine, cosine
    return out


def windows(across: Maps | float, along: Maps | float, x: Maps | float, y: Maps | float) -> Maps:
    """Windows (n,) of these parts of the width and height, whose middles are at (x, y)."""
    parts = np.broadcast_arrays(across, along, x, y)
    out = still(max(part.size for part in parts))
    out[:, 0, 0], out[:, 1, 1], out[:, 0, 2], out[:, 1, 2] = parts
    return out


def moved(batch: Batch, steps: Sequence[tuple[Geometric, int]], rows: Tensor, epoch: int) -> Batch:
    """The batch with several components applied, each with its seed, and sampled once. They have the same inputs."""
    names = rows.numpy()
    fill: Fill = next((step.fill for step, _ in steps if step.fill is not None), "edge")

    def move(images: Leaf) -> Leaf:
        assert isinstance(images, Tensor)
        height, width = images.shape[2:]
        total: Maps | None = None
        for step, seed in steps:
            maps = step.maps(Draws(names, seed, epoch), height, width)
            total = maps if total is None else total @ maps
        assert total is not None
        return warp(images, total, fill)

    return changed(batch, steps[0][0].inputs, move)


def warp(images: Tensor, maps: Maps, fill: Fill) -> Tensor:
    """Images, uint8 (n, channels, height, width), as they are seen through maps (n, 3, 3); sampled bilinearly.

    Rows that stay, and rows that are only mirrored, are copied exactly.
    """
    flat = maps.reshape(-1, 9)
    lengths = np.abs(flat)
    mirrored = (lengths[:, ::4] == 1).all(1) & (lengths.sum(1) == 3)
    if not mirrored.any():
        return _sampled(images, maps, fill)
    out = images
    for axis, side in ((-1, 0), (-2, 4)):
        turned = mirrored & (flat[:, side] < 0)
        if turned.any():
            out = covered_by(
                out, out.flip(axis), torch.from_numpy(turned.astype(np.uint8)).to(out.device).view(-1, 1, 1, 1)
            )
    rest = np.flatnonzero(~mirrored)
    if not len(rest):
        return out
    index = torch.from_numpy(rest).to(images.device)
    return out.index_copy(0, index, _sampled(images.index_select(0, index), maps[rest], fill))


def _sampled(images: Tensor, maps: Maps, fill: Fill) -> Tensor:
    height, width = images.shape[2:]
    # To grid_sample's coordinates, in which the picture reaches from -1 to 1. In one addition per coordinate: several
    # times faster than torch's affine_grid.
    scale = np.array([2 / width, 2 / height])[None, :, None]
    a = torch.from_numpy((maps[:, :2] * scale).astype(np.float32)).to(images.device)
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    along_x, along_y = a[:, :, 0, None] * x, a[:, :, 1, None] * y + a[:, :, 2, None]

    def sample(some: Tensor, which: slice) -> Tensor:
        grid = some.new_empty((len(some), height, width, 2), dtype=torch.float32)
        for k in (0, 1):
            torch.add(along_x[which, k, None, :], along_y[which, k, :, None], out=grid[..., k])
        found = functional.grid_sample(some.float(), grid, padding_mode=_PADDING[fill], align_corners=False)
        return to_bytes(found)

    return by_blocks(images, sample)
