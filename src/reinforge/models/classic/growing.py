"""From fitted trees of scikit-learn to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.models.classic.options import Grown
from reinforge.models.classic.trees import depth

Array = NDArray[Any]


@dataclass(frozen=True)
class Branches:
    """One tree: arrays as `Trees` has them, numbered from its root, 0. `held` (n, codes): the codes that go left, for
    the nodes that have a `category`. `column`: where its single value belongs."""

    feature: Array
    threshold: Array
    below: Array
    value: Array
    rows: Array
    category: Array
    held: Array
    column: int = 0


def of_decision_tree(tree: Any, classes: Array | None = None, size: int = 1, column: int = 0) -> Branches:
    """A fitted `tree_`: means; or shares of `classes` among `size`, or of the class 1 where `size` is 1."""
    inner = tree.children_left >= 0
    nodes = np.arange(tree.node_count)
    below = np.where(inner[:, None], np.stack([tree.children_left, tree.children_right], 1), nodes[:, None])
    found = tree.value[:, 0, :]
    if classes is not None:
        value = np.zeros((tree.node_count, max(size, 2)))
        value[:, classes] = found[:, : len(classes)]
        found = value if size > 1 else value[:, 1:]
    return Branches(
        np.where(inner, tree.feature, 0), np.where(inner, tree.threshold, 0.0), below, found, tree.n_node_samples,
        np.full(tree.node_count, -1), np.zeros((0, 0), bool), column,
    )  # fmt: skip


def of_predictor(predictor: Any, known: Sequence[Array | None], column: int = 0) -> Branches:
    """A fitted predictor of histogram gradient boosting.

    `known`: the codes that training saw, in order, of each column that is a category; scikit-learn numbers them anew,
    and sends the others where it sends what is missing.
    """
    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    own = np.arange(len(nodes))
    pairs = np.stack([nodes["left"], nodes["right"]], 1).astype(np.int64)
    below = np.where(inner[:, None], pairs, own[:, None])
    sets = np.flatnonzero(inner & (nodes["is_categorical"] == 1))
    codes = max((int(c.max()) + 1 for c in known if c is not None and len(c)), default=0)
    held = np.zeros((len(sets), codes + 1), bool)
    for place, node in enumerate(sets):
        bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
        seen = known[nodes["feature_idx"][node]]
        assert seen is not None
        held[place] = nodes["missing_go_to_left"][node] == 1
        held[place, seen] = [bool(bits[i // 32] >> np.uint32(i % 32) & np.uint32(1)) for i in range(len(seen))]
    category = np.full(len(nodes), -1)
    category[sets] = np.arange(len(sets))
    return Branches(
        np.where(inner, nodes["feature_idx"], 0), np.where(inner, nodes["num_threshold"], 0.0), below,
        np.where(inner, 0.0, nodes["value"])[:, None], nodes["count"].astype(np.int64), category, held, column,
    )  # fmt: skip


def leaf(value: Array, rows: int = 0, column: int = 0) -> Branches:
    """A tree that says the same, (1, values), of every row."""
    return Branches(
        np.zeros(1, np.int64), np.zeros(1), np.zeros((1, 2), np.int64), value, np.full(1, rows), np.full(1, -1),
        np.zeros((0, 0), bool), column,
    )  # fmt: skip


def gather(trees: Sequence[Branches], base: Array, divisor: Array, codes: int = 0) -> tuple[dict[str, Tensor], Grown]:
    """The tensors of `Trees`, and how large they are. `codes`: the most labels that a category has."""
    trees = trees or [leaf(np.zeros((1, 1)))]
    firsts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    before = np.cumsum([0, *(len(tree.held) for tree in trees)])
    sets = int(before[-1])
    held = np.zeros((sets, codes if sets else 0), bool)
    for tree, first in zip(trees, before):
        if len(tree.held):
            seen = min(codes, tree.held.shape[1])
            held[first : first + len(tree.held), :seen] = tree.held[:, :seen]
            # Codes beyond those of training go where all go that training did not see.
            held[first : first + len(tree.held), seen:] = tree.held[:, -1:]
    category = np.concatenate([np.where(t.category >= 0, t.category + first, -1) for t, first in zip(trees, before)])
    columns: dict[str, tuple[Array, torch.dtype]] = {
        "feature": (np.concatenate([t.feature for t in trees]), torch.int32),
        "threshold": (np.concatenate([t.threshold for t in trees]), torch.float64),
        "below": (np.concatenate([t.below + first for t, first in zip(trees, firsts)]), torch.int32),
        "category": (category if sets else category[:0], torch.int32),
        "sets": (held, torch.bool),
        "value": (np.concatenate([t.value for t in trees]), torch.float64),
        "rows": (np.concatenate([t.rows for t in trees]), torch.int32),
        "roots": (firsts[:-1], torch.int32),
        "column": (np.array([t.column for t in trees]), torch.int32),
        "base": (np.asarray(base), torch.float64),
        "divisor": (np.asarray(divisor), torch.float64),
    }
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(dtype) for name, (array, dtype) in columns.items()
    }
    grown = Grown(
        nodes=len(tensors["feature"]), trees=len(trees), values=tensors["value"].shape[1], sets=sets,
        codes=held.shape[1], depth=depth(tensors["below"], tensors["roots"]),
    )  # fmt: skip
    return tensors, grown
