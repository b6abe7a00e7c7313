"""Brightness, contrast, saturation and hue: one matrix of colours per image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Batch, Leaf
from reinforge.data.augmentation.blocks import changed, chosen, to_bytes
from reinforge.data.augmentation.options import ColourOptions
from reinforge.data.augmentation.random import Draws
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
            draws = Draws(rows.numpy(), seed, epoch)
            there = draws.coin(options.probability)
            strengths = (options.brightness, options.contrast, options.saturation)
            bright, contrast, saturation = (np.where(there, 1 + draws.between(-s, s), 1.0) for s in strengths)
            turns = np.where(there, draws.between(-options.hue, options.hue), 0.0)
            return recoloured(images, bright, contrast, saturation, turns)

        return changed(batch, self.inputs, colour)


def recoloured(images: Tensor, brightness: Factors, contrast: Factors, saturation: Factors, hue: Factors) -> Tensor:
    """Images, uint8 (n, 1 or 3, height, width), changed by factors (n,) and turns of the colours (n,), in this order.

    Brightness b: b x. Contrast c: m + c (x - m), with m the image's mean grey. Saturation s: g + s (x - g), with g the
    pixel's grey. Hue: a turn about the axis of grey in YIQ, which keeps each pixel's grey. Clipped once, at the end.
    """
    flat = images.flatten(2).float()
    device = images.device
    mean = flat.mean(2).cpu().numpy().astype(np.float64) @ (GREY if images.shape[1] == 3 else np.ones(1))
    offset = (1 - contrast) * brightness * mean
    gain = brightness * contrast
    if images.shape[1] == 1:
        gains, offsets = (torch.from_numpy(v.astype(np.float32)).to(device)[:, None, None] for v in (gain, offset))
        return to_bytes(flat.mul_(gains).add_(offsets)).view(images.shape)
    matrix = colour_matrices(saturation, hue)
    # A grey offset stays what it is under saturation and hue.
    weights = torch.from_numpy((matrix * gain[:, None, None]).astype(np.float32)).to(device)
    offsets = torch.from_numpy(np.repeat(offset[:, None, None], 3, 1).astype(np.float32)).to(device)
    return to_bytes(torch.baddbmm(offsets, weights, flat)).view(images.shape)


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
