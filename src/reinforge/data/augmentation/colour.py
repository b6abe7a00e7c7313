"""Brightness, contrast, saturation and hue: one matrix of colours per image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Batch, Leaf
from reinforge.data.augmentation.blocks import by_blocks, changed, chosen, to_bytes
from reinforge.data.augmentation.options import ColourOptions
from reinforge.data.augmentation.random import Draws, between
from reinforge.schema.signature import Signature

Factors = NDArray[np.float64]
# Of red, green and blue in grey, and the two axes of colour in YIQ (NTSC, FCC 1953).
GREY = np.array([0.299, 0.587, 0.114])
YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class Colour:
    """Every change is linear in the colours, or in the mean grey, so all of them are one product per pixel."""

    mixes = False

    def __init__(self, options: ColourOptions, signature: Signature) -> None:
        self.options = options
        self.inputs = chosen(signature, options.inputs, "image", options.kind)

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with other colours."""
        options = self.options

        def colour(images: Leaf) -> Leaf:
            assert isinstance(images, Tensor)
            coin, *numbers = Draws(rows.numpy(), seed, epoch).uniform(5).T
            strengths = (options.brightness, options.contrast, options.saturation, options.hue)
            bright, contrast, saturation, hue = (
                np.where(coin < options.probability, between(number, -strength, strength), 0.0)
                for number, strength in zip(numbers, strengths)
            )
            return recoloured(images, 1 + bright, 1 + contrast, 1 + saturation, hue)

        return changed(batch, self.inputs, colour)


def recoloured(images: Tensor, brightness: Factors, contrast: Factors, saturation: Factors, hue: Factors) -> Tensor:
    """Images, uint8 (n, 1 or 3, height, width), changed by factors (n,) and turns of the colours (n,), in this order.

    Brightness b: b x. Contrast c: m + c (x - m), with m the image's mean grey. Saturation s: g + s (x - g), with g the
    pixel's grey. Hue: a turn about the axis of grey in YIQ, which keeps each pixel's grey. Clipped once, at the end.
    """
    # A grey offset stays what it is under saturation and hue.
    matrix = brightness[:, None] * contrast[:, None]
    if images.shape[1] == 3:
        matrix = matrix[:, None] * colour_matrices(saturation, hue)
    weights = torch.from_numpy(matrix.astype(np.float32).reshape(len(images), *[images.shape[1]] * 2)).to(images.device)
    share = torch.from_numpy(((1 - contrast) * brightness).astype(np.float32)).to(images.device)

    def some(images: Tensor, which: slice) -> Tensor:
        flat = images.flatten(2).float()
        means = flat.mean(2)
        mean = means[:, 0] if len(means.T) == 1 else sum(part * means[:, i] for i, part in enumerate(GREY.tolist()))
        offsets = (share[which] * mean)[:, None, None].expand(-1, images.shape[1], 1)
        return to_bytes(torch.baddbmm(offsets, weights[which], flat)).view(images.shape)

    return by_blocks(images, some)


def colour_matrices(saturation: Factors, hue: Factors) -> Factors:
    """(n, 3, 3) on red, green and blue: saturation first, then hue (in turns). Grey stays as it is."""
    grey = np.broadcast_to(GREY, (3, 3))
    saturate = grey + saturation[:, None, None] * (np.eye(3) - grey)
    angle = 2 * np.pi * hue
    turn = np.tile(np.eye(3), (len(hue), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    found: Factors = np.linalg.inv(YIQ) @ turn @ YIQ @ saturate
    return found
