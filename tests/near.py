"""Predictions compared but for the rounding of numbers: rows are computed with whatever else is computed."""

from __future__ import annotations

import math
from typing import Any


def near(found: Any, expected: Any, relative: float = 1e-5) -> bool:
    """Whether both are alike, numbers to so much."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[name], expected[name], relative) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(near(*pair, relative) for pair in zip(found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=relative, abs_tol=1e-9)
    return bool(found == expected)
