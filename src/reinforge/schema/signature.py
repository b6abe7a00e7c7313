"""What a model takes and gives: tensor blocks by name, derived from schema and pipeline; enough to build it again."""

from __future__ import annotations

from typing import Literal

from reinforge.registry import Options


class Input(Options):
    """One input block of a batch's "inputs".

    numbers: float32 (rows, *shape). categories: int64 (rows, len(sizes)), column i in [0, sizes[i]).
    tokens: int64 (rows, time) or Ragged, in [0, sizes[0]). box: observations, float32 or uint8 (rows, *shape).
    """

    form: Literal["numbers", "categories", "tokens", "box"]
    shape: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


class Output(Options):
    """One head's target. number: `size` values; category: `size` classes; tokens: `size` words;
    discrete: `size` actions; continuous: `size` action dimensions between `low` and `high`."""

    form: Literal["number", "category", "tokens", "discrete", "continuous"]
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


class Signature(Options):
    """Inputs and outputs by name. Targets stand in a batch's "targets" under the output's name, with validity (bool,
    per row) in "valid" under the same name where some are missing."""

    inputs: dict[str, Input]
    outputs: dict[str, Output]
