"""Sampling in proportion to priorities, by a sum tree over arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class SumTree:
    """Sums of `size` non-negative numbers, so that setting and drawing k of them cost k log(size).

    Every inner node is its children's sum computed anew, never a running difference, so the tree is a function of its
    leaves alone and restores bit for bit. Source: Schaul et al., "Prioritized Experience Replay" (2016), appendix B.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._leaves = 1 << max(size - 1, 0).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._nodes[1])

    @property
    def leaves(self) -> Array:
        """The numbers themselves: (size,), a view."""
        view: Array = self._nodes[self._leaves : self._leaves + self.size]
        return view

    def set(self, index: Array, value: Array | float) -> None:
        """Set the numbers at index (k,); of repeated places the last counts."""
        if len(index) == 0:
            return
        nodes = index + self._leaves
        self._nodes[nodes] = value
        while nodes[0] > 1:
            nodes = np.unique(nodes >> 1)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, mass: Array) -> Array:
        """For each mass (k,) in [0, total): the place where the running sum passes it, int64 (k,)."""
        mass = mass.copy()
        nodes = np.ones(len(mass), dtype=np.int64)
        while nodes[0] < self._leaves:
            nodes *= 2
            left = self._nodes[nodes]
            # Rounding may leave a mass beyond the right child: never walk into what has none.
            right = (mass >= left) & (self._nodes[nodes + 1] > 0)
            mass -= np.where(right, left, 0.0)
            nodes += right
        return nodes - self._leaves

    def load(self, leaves: Array) -> None:
        """Set all numbers and every sum."""
        self._nodes[:] = 0
        self._nodes[self._leaves : self._leaves + self.size] = leaves
        level = self._leaves
        while level > 1:
            children = self._nodes[level : 2 * level]
            self._nodes[level // 2 : level] = children[0::2] + children[1::2]
            level //= 2
