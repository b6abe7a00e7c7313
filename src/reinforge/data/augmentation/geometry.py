"""Moving pixels: every change is an affine map, successive ones are multiplied, and the picture is sampled once.

A map takes a point of the result to the point of the picture that is seen there, both in pixels from the middle, x to
the right and y down: (n, 3, 3), acting on (x, y, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reinforge.core.batch import Batch, Leaf
from reinforge.data.augmentation.blocks import changed, chosen, to_bytes
from reinforge.data.augmentation.options import (
    CropOptions,
    Fill,
    FlipOptions,
    ImageAugmentation,
    RotateOptions,
    ScaleOptions,
    ShiftOptions,
)
from reinforge.data.augmentation.random import Draws
from reinforge.schema.signature import Signature

Maps = NDArray[np.float64]
_PADDING = {"black": "zeros", "edge": "border", "reflect": "reflection"}


class Geometric:
    """A component that only moves pixels. `fill` is None where nothing comes in from outside."""

    mixes = False

    def __init__(self, options: ImageAugmentation, signature: Signature) -> None:
        self.probability = options.probability
        self.inputs = chosen(signature, options.inputs, "image", str(getattr(options, "kind", "")))
        self.fill: Fill | None = getattr(options, "fill", None)

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with its images moved."""
        return moved(batch, [(self, seed)], rows, epoch)

    def maps(self, draws: Draws, height: int, width: int) -> Maps:
        """(n, 3, 3) for images of that size; the identity for rows that stay as they are."""
        found = self.draw(draws, height, width)
        if self.probability < 1:
            found[~draws.coin(self.probability)] = np.eye(3)
        return found

    def draw(self, draws: Draws, height: int, width: int) -> Maps:
        """(n, 3, 3), were all rows to move."""
        raise NotImplementedError


class Flip(Geometric):
    """Left and right, top and bottom change places."""

    def __init__(self, options: FlipOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.horizontal, self.vertical = options.horizontal, options.vertical

    def draw(self, draws: Draws, height: int, width: int) -> Maps:
        """Mirrors."""
        return flips(draws.coin(self.horizontal), draws.coin(self.vertical))


class Rotate(Geometric):
    """Turns about the middle."""

    def __init__(self, options: RotateOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.degrees = options.degrees

    def draw(self, draws: Draws, height: int, width: int) -> Maps:
        """Uniform angles."""
        return rotations(np.deg2rad(draws.between(-self.degrees, self.degrees)))


class Scale(Geometric):
    """Smaller and larger."""

    def __init__(self, options: ScaleOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.low, self.high = np.log(options.low), np.log(options.high)

    def draw(self, draws: Draws, height: int, width: int) -> Maps:
        """Log-uniform factors."""
        factor = np.exp(draws.between(self.low, self.high))
        return windows(1 / factor, 1 / factor, 0.0, 0.0)


class Crop(Geometric):
    """A window, made as large as the picture."""

    def __init__(self, options: CropOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.area, self.ratio = options.area, np.log(options.ratio)

    def draw(self, draws: Draws, height: int, width: int) -> Maps:
        """Windows of uniform area and log-uniform proportions, anywhere within the picture."""
        area, ratio = draws.between(self.area, 1.0), np.exp(draws.between(-self.ratio, self.ratio) / 2)
        across, along = np.minimum(np.sqrt(area) * ratio, 1.0), np.minimum(np.sqrt(area) / ratio, 1.0)
        x, y = (draws.uniform(2) - 0.5).T
        return windows(across, along, x * (1 - across) * width, y * (1 - along) * height)


class Shift(Geometric):
    """Whole pixels to any side."""

    def __init__(self, options: ShiftOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        self.by = options.by

    def draw(self, draws: Draws, height: int, width: int) -> Maps:
        """Uniform moves."""
        x, y = (2 * draws.uniform(2) - 1).T * self.by
        return windows(1.0, 1.0, np.rint(x * width), np.rint(y * height))


def flips(horizontal: NDArray[np.bool_], vertical: NDArray[np.bool_]) -> Maps:
    """Mirrors, where these (n,) are True."""
    out = np.tile(np.eye(3), (len(horizontal), 1, 1))
    out[horizontal, 0, 0] = -1
    out[vertical, 1, 1] = -1
    return out


def rotations(angles: Maps) -> Maps:
    """Turns to the left by these angles (n,), in radians."""
    out = np.tile(np.eye(3), (len(angles), 1, 1))
    cosine, sine = np.cos(angles), np.sin(angles)
    out[:, 0, 0], out[:, 0, 1] = cosine, -sine
    out[:, 1, 0], out[:, 1, 1] = sine, cosine
    return out


def windows(across: Maps | float, along: Maps | float, x: Maps | float, y: Maps | float) -> Maps:
    """Windows (n,) of these parts of the width and height, whose middles are at (x, y)."""
    parts = np.broadcast_arrays(across, along, x, y)
    out = np.tile(np.eye(3), (max(part.size for part in parts), 1, 1))
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
    sides = maps[:, [0, 1], [0, 1]]
    mirrored = (np.abs(sides) == 1).all(1) & (maps[:, [0, 0, 1, 1], [1, 2, 0, 2]] == 0).all(1)
    if not mirrored.any():
        return _sampled(images, maps, fill)
    out = images.clone()
    for axis, side in ((-1, 0), (-2, 1)):
        turned = _where(mirrored & (sides[:, side] < 0), images)
        if len(turned):
            out[turned] = out[turned].flip(axis)
    rest = _where(~mirrored, images)
    if len(rest):
        out[rest] = _sampled(images[rest], maps[~mirrored], fill)
    return out


def _where(mask: NDArray[np.bool_], images: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask)).to(images.device)


def _sampled(images: Tensor, maps: Maps, fill: Fill) -> Tensor:
    n, _, height, width = images.shape
    # To grid_sample's coordinates, in which the picture reaches from -1 to 1. In one addition per coordinate: several
    # times faster than torch's affine_grid.
    scale = np.array([2 / width, 2 / height])[None, :, None]
    a = torch.from_numpy((maps[:, :2] * scale).astype(np.float32)).to(images.device)
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    grid = images.new_empty((n, height, width, 2), dtype=torch.float32)
    for k in (0, 1):
        along = (a[:, k, 1, None] * y + a[:, k, 2, None])[:, :, None]
        torch.add((a[:, k, 0, None] * x)[:, None, :], along, out=grid[..., k])
    found = functional.grid_sample(images.float(), grid, padding_mode=_PADDING[fill], align_corners=False)
    return to_bytes(found)
