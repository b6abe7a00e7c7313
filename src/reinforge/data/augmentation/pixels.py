"""Changing pixels where they are: noise, and covered rectangles."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Batch, Leaf
from reinforge.data.augmentation.blocks import by_blocks, changed, chosen, covered_by, to_bytes
from reinforge.data.augmentation.options import EraseOptions, NoiseOptions
from reinforge.data.augmentation.random import Draws, between
from reinforge.schema.signature import Signature

Sides = NDArray[np.int64]


class Noise:
    """Normal noise on every pixel and channel."""

    mixes = False

    def __init__(self, options: NoiseOptions, signature: Signature) -> None:
        self.deviation, self.probability = 255 * options.deviation, options.probability
        self.inputs = chosen(signature, options.inputs, "image", options.kind)

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with noisy images."""

        def add(images: Leaf) -> Leaf:
            assert isinstance(images, Tensor)

            def some(images: Tensor, which: slice) -> Tensor:
                draws = Draws(rows[which].numpy(), seed, epoch)
                noise = draws.normal(images[0].numel())
                if self.probability < 1:
                    noise *= draws.uniform(1) < self.probability
                noise *= np.float32(self.deviation)
                values = torch.from_numpy(noise).to(images.device).view(images.shape)
                return to_bytes(values.add_(images))

            return by_blocks(images, some)

        return changed(batch, self.inputs, add)


class Erase:
    """A covered rectangle."""

    mixes = False

    def __init__(self, options: EraseOptions, signature: Signature) -> None:
        self.options = options
        self.inputs = chosen(signature, options.inputs, "image", options.kind)

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with a part of each image covered."""
        options = self.options

        def erase(images: Leaf) -> Leaf:
            assert isinstance(images, Tensor)
            height, width = images.shape[2:]
            coin, part, shape, x, y = Draws(rows.numpy(), seed, epoch).uniform(5).T
            area = np.where(coin < options.probability, between(part, options.low, options.high), 0)
            ratio = np.exp(between(shape, -0.5, 0.5) * np.log(options.ratio))
            high = np.minimum(np.rint(np.sqrt(area) * ratio * height), height).astype(np.int64)
            wide = np.minimum(np.rint(np.sqrt(area) / ratio * width), width).astype(np.int64)
            top = np.floor(y * (height - high + 1)).astype(np.int64)
            left = np.floor(x * (width - wide + 1)).astype(np.int64)
            covered = rectangles(top, left, top + high, left + wide, height, width).to(images.device)
            return covered_by(images, options.value, covered)

        return changed(batch, self.inputs, erase)


def rectangles(top: Sides, left: Sides, bottom: Sides, right: Sides, height: int, width: int) -> Tensor:
    """(n, 1, height, width) uint8, 1 from top to bottom and left to right (exclusive), each (n,)."""
    y, x = np.arange(height), np.arange(width)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    return torch.from_numpy(rows[:, :, None].view(np.uint8) & columns[:, None, :].view(np.uint8))[:, None]
