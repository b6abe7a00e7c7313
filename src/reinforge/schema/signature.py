"""What a model takes and gives: tensor blocks by name, derived from schema and pipeline; enough to build it again."""

from __future__ import annotations

from typing import Literal

from reinforge.registry import Options


class Input(Options):
    """One input block of a batch's "inputs".

    numbers: float32 (rows, *shape). categories: int64 (rows, len(sizes)), column i in [0, sizes[i]).
    tokens: Ragged int64, or int64 (rows, time), in [0, sizes[0]); at most shape[0] a row where shape is given.
    box: observations, float32 or uint8 (rows, *shape). image: uint8 (rows, channels, height, width) = (rows, *shape).

    All numeric columns of a table are the block "numbers", all categorical ones "categories"; a text, an image, a set
    of labels (numbers of 0 and 1) or a box is a block under its field's name.
    """

    form: Literal["numbers", "categories", "tokens", "box", "image"]
    shape: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


class Output(Options):
    """One head's target, under its name in a batch's "targets".

    number: `size` values, float32 (rows, size). category: `size` classes, int64 (rows,), or float32 (rows, size) of
    probabilities where classes were mixed. labels: `size` labels that may hold at once, float32 (rows, size) of 0 or 1.
    ordinal: `size` classes in order, int64 (rows,). count: how often, float32 (rows, 1) of whole numbers. span: first
    and last token, int64 (rows, 2), of the tokens block `of`, which has at most `size` a row. tokens: `size` words.
    discrete: `size` actions, int64 (rows,). multi-discrete: several choices at once, int64 (rows, choices), the i-th in
    [0, sizes[i]), whose sum is `size`. continuous: `size` action dimensions between `low` and `high`.
    """

    form: Literal[
        "number", "category", "labels", "ordinal", "count", "span", "tokens", "discrete", "multi-discrete", "continuous"
    ]
    size: int
    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    of: str | None = None


class Signature(Options):
    """Inputs and outputs by name. Targets stand in a batch's "targets" under the output's name, with validity (bool,
    per row) in "valid" under the same name where some are missing."""

    inputs: dict[str, Input]
    outputs: dict[str, Output]
