"""Images of observations at another size or in grey: one implementation for environments and for bundles."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]

# Shares of red, green and blue in grey, in thousandths (ITU-R BT.601).
_GREY = (299, 587, 114)
# Whole numbers below this are exact in float32.
_EXACT = 1 << 24


def image_shape(shape: tuple[int, ...]) -> Shape | None:
    """(channels, height, width) of bytes of this shape, where it is an image: (height, width), or with channels last
    (1, 3 or 4 of them) or first. None where it is none."""
    match shape:
        case (height, width):
            return (1, height, width)
        case (height, width, 1 | 3 | 4 as channels) if min(height, width) > channels:
            return (channels, height, width)
        case (channels, height, width):
            return (channels, height, width)
    return None


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether an image of this shape has its channels last."""
    return len(shape) == 3 and image_shape(shape) != shape


class Scaling:
    """Bytes (n, *given) to bytes (n, *wanted), both (channels, height, width); one channel from several is grey.

    A new pixel is the mean of the area that it covers, of grey first rounded to a byte, half rounded up. All sums are
    whole numbers that their type holds exactly, so an image gives the same bytes alone, in a batch and on any machine.
    """

    def __init__(self, given: Shape, wanted: Shape) -> None:
        if not fits(given, wanted):
            raise ValueError(f"an image of shape {given} can't be had as {wanted}")
        self.grey = wanted[0] != given[0]
        self.wanted = wanted
        self.rows, self.columns = _shares(given[1], wanted[1]), _shares(given[2], wanted[2])
        self.total = int(self.rows[0].sum() * self.columns[0].sum())
        self.resizes = given[1:] != wanted[1:]
        dtype = np.float32 if 255 * self.total < _EXACT else np.float64
        self.rows, self.columns = self.rows.astype(dtype), np.ascontiguousarray(self.columns.T.astype(dtype))

    def __call__(self, images: Array) -> Array:
        """uint8 (n, *given) to uint8 (n, *wanted)."""
        if self.grey:
            red, green, blue = (images[:, channel].astype(np.uint32) for channel in range(3))
            mixed = red * _GREY[0] + green * _GREY[1] + blue * _GREY[2] + 500
            images = (mixed // 1000).astype(np.uint8)[:, None]
        if not self.resizes:
            return images
        sums = (self.rows @ images.astype(self.rows.dtype) @ self.columns).astype(np.int64)
        found: Array = ((2 * sums + self.total) // (2 * self.total)).astype(np.uint8)
        return found


def fits(given: Shape, wanted: Shape) -> bool:
    """Whether an image of one shape can be had as the other: of any size, with the same channels or in grey."""
    return min(*given, *wanted) > 0 and (wanted[0] == given[0] or (wanted[0] == 1 and given[0] in (3, 4)))


def _shares(given: int, wanted: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How much of each given pixel each wanted one covers, (wanted, given), in units that make all of it whole."""
    unit = gcd(given, wanted)
    edges, places = np.arange(wanted + 1) * (given // unit), np.arange(given + 1) * (wanted // unit)
    begin = np.maximum(edges[:-1, None], places[None, :-1])
    end = np.minimum(edges[1:, None], places[None, 1:])
    shares: np.ndarray[Any, np.dtype[np.int64]] = np.clip(end - begin, 0, None)
    return shares
