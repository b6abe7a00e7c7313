"""Random numbers that are a function of what they are for, not of what was drawn before.

A hash of (seed, epoch, row, call, place): no state to keep, and a row draws the same in any batch, on any rank and
after any restart. Per row and call splitmix64 (Steele et al., 2014) makes 64 bits; per place they are mixed with a
counter by rounds of multiplication and exclusive or, whose constants are those of Wellons' `lowbias32` (2018).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reinforge.core.seeds import derive

Uniform = NDArray[np.float64]
_GOLDEN_64 = 0x9E3779B97F4A7C15
_GOLDEN_32 = np.uint32(0x9E3779B9)
_UNIT = np.float64(2.0**-32)


def between(uniform: Uniform, low: float, high: float) -> Uniform:
    """From [0, 1) to [low, high)."""
    return low + (high - low) * uniform


class Draws:
    """Random numbers of some rows in one epoch. Each call is a new draw; the same calls give the same numbers.

    `rows`: (n,) int64, what names each row.
    """

    def __init__(self, rows: NDArray[np.int64], seed: int, epoch: int) -> None:
        self._rows = _splitmix64(rows.astype(np.uint64) * np.uint64(_GOLDEN_64) + np.uint64(derive(seed, epoch)))
        self._calls = 0

    def __len__(self) -> int:
        return len(self._rows)

    def uniform(self, count: int) -> Uniform:
        """(n, count) in [0, 1), multiples of 2^-32."""
        low, high = self._next()
        return _mixed(low[:, None], high[:, None], np.arange(count, dtype=np.uint32)) * _UNIT

    def normal(self, count: int) -> NDArray[np.float32]:
        """(n, count) standard normal, by the transform of Box and Muller (1958) of the two halves of each word; none is
        beyond 4.8."""
        low, high = self._next()
        half = (count + 1) // 2
        words = _mixed(low[:, None], high[:, None], np.arange(half, dtype=np.uint32))
        angle = (words & np.uint32(0xFFFF)).astype(np.float32)
        angle *= np.float32(2 * np.pi / 2**16)
        words >>= np.uint32(16)
        radius = words.astype(np.float32)
        radius += np.float32(0.5)  # never 0: the logarithm is finite
        radius *= np.float32(2.0**-16)
        np.log(radius, out=radius)
        radius *= np.float32(-2)
        np.sqrt(radius, out=radius)
        out = np.empty((len(self), 2 * half), np.float32)
        np.multiply(radius, np.cos(angle), out=out[:, :half])
        np.multiply(radius, np.sin(angle, out=angle), out=out[:, half:])
        return out[:, :count]

    def uniform_at(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> Uniform:
        """(m,) in [0, 1): what `uniform` gives at these rows and places, for rows of different lengths."""
        low, high = self._next()
        return _mixed(low[rows], high[rows], places.astype(np.uint32)) * _UNIT

    def _next(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Two words per row, (n,) each, the second odd."""
        self._calls += 1
        words = _splitmix64(self._rows + np.uint64(self._calls * _GOLDEN_64 % 2**64))
        return words.astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def _mixed(low: NDArray[np.uint32], high: NDArray[np.uint32], places: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x: NDArray[np.uint32] = low ^ (places * _GOLDEN_32)
    x *= high
    shifted = x >> 16
    x ^= shifted
    x *= np.uint32(0x7FEB352D)
    x ^= np.right_shift(x, 15, out=shifted)
    x *= np.uint32(0x846CA68B)
    x ^= np.right_shift(x, 16, out=shifted)
    return x


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
