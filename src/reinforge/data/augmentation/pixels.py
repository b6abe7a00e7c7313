"""Changing pixels where they are: noise, and covered rectangles."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Batch, Leaf
from reinforge.data.augmentation.blocks import changed, chosen, to_bytes
from reinforge.data.augmentation.options import EraseOptions, NoiseOptions
from reinforge.data.augmentation.random import Draws
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
            draws = Draws(rows.numpy(), seed, epoch)
            deviation = np.where(draws.coin(self.probability), self.deviation, 0).astype(np.float32)
            noise = draws.normal(images[0].numel())
            noise *= deviation[:, None]
            values = torch.from_numpy(noise).to(images.device).view(images.shape)
            return to_bytes(values.add_(images))

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
            draws = Draws(rows.numpy(), seed, epoch)
            area = np.where(draws.coin(options.probability), draws.between(options.low, options.high), 0)
            ratio = np.exp(draws.between(-1, 1) * np.log(options.ratio) / 2)
            places = draws.uniform(2)
            high = np.minimum(np.rint(np.sqrt(area) * ratio * height), height).astype(np.int64)
            wide = np.minimum(np.rint(np.sqrt(area) / ratio * width), width).astype(np.int64)
            top = np.floor(places[:, 0] * (height - high + 1)).astype(np.int64)
            left = np.floor(places[:, 1] * (width - wide + 1)).astype(np.int64)
            covered = rectangles(top, left, top + high, left + wide, height, width)
            return images.masked_fill(covered.to(images.device), options.value)

        return changed(batch, self.inputs, erase)


def rectangles(top: Sides, left: Sides, bottom: Sides, right: Sides, height: int, width: int) -> Tensor:
    """(n, 1, height, width) bool, True from top to bottom and left to right (exclusive), each (n,)."""
    y, x = np.arange(height), np.arange(width)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    return torch.from_numpy(rows[:, :, None] & columns[:, None, :])[:, None]
