"""Decision trees as tensors: one, the mean of many, or the sum of many."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from reinforge.errors import IntegrityError
from reinforge.models.classic.classic import FLOOR, Classic
from reinforge.models.classic.options import Grown, TreesOptions
from reinforge.schema.signature import Output

# Numbers that are looked up at once, so many that they stay in a processor's cache.
_AT_ONCE = 1 << 17
EMPTY = Grown(nodes=1, trees=0, values=1, sets=0, codes=0, depth=0)
Link = Literal["none", "log", "logit"]


class Trees(nn.Module):
    """All trees of one output, their nodes end to end, each before the two `below` (nodes, 2) it; of a leaf that is
    the leaf itself.

    A row goes to the first of the two where its `feature` is at most `threshold`, or, where the node has a `category`
    (the number of one of the `sets`, else -1), where the set holds the code. The `value` (nodes, values) of the leaves
    that it ends in, one for each of `roots` (trees,), are added to `base` (size,), a single value in the tree's own
    `column`, and divided by `divisor` (size,). `rows` (nodes,) are the training rows that went through. Numbers are
    compared as scikit-learn does: 32 bits with a threshold of 64.
    """

    feature: Tensor
    threshold: Tensor
    below: Tensor
    category: Tensor
    sets: Tensor
    value: Tensor
    rows: Tensor
    roots: Tensor
    column: Tensor
    base: Tensor
    divisor: Tensor

    def __init__(self, grown: Grown, size: int, columns: int, link: Link = "none") -> None:
        super().__init__()
        self.grown, self.columns, self.link = grown, columns, link
        nodes, trees = grown.nodes, grown.trees
        shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "feature": (torch.int32, (nodes,)),
            "threshold": (torch.float64, (nodes,)),
            "below": (torch.int32, (nodes, 2)),
            "category": (torch.int32, (nodes if grown.sets else 0,)),
            "sets": (torch.bool, (grown.sets, grown.codes)),
            "value": (torch.float64, (nodes, grown.values)),
            "rows": (torch.int32, (nodes,)),
            "roots": (torch.int32, (trees,)),
            "column": (torch.int32, (trees,)),
            "base": (torch.float64, (size,)),
            "divisor": (torch.float64, (size,)),
        }
        for name, (dtype, shape) in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.divisor.fill_(1.0)

    def forward(self, design: Tensor) -> Tensor:
        """(rows, columns) to (rows, size) float32."""
        each = max(1, _AT_ONCE // max(1, self.grown.trees * self.grown.values))
        # What is exported takes any number of rows, at once.
        whole = torch.compiler.is_compiling()
        parts = [] if whole else [self.raw(design[first : first + each]) for first in range(0, design.shape[0], each)]
        raw = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else self.raw(design)
        if self.link == "log":
            raw = raw.clamp(min=FLOOR).log()
        elif self.link == "logit":
            # As tensors: graphs hold plain numbers in 32 bits, where this is 1.
            raw = raw.clamp(raw.new_tensor(FLOOR), raw.new_tensor(1 - FLOOR)).logit()
        return raw.float()

    def raw(self, design: Tensor) -> Tensor:
        """(rows, columns) to what the trees say together, (rows, size) float64."""
        said = self.value[self.leaves(design)]
        total = self.base.expand(design.shape[0], -1)
        if self.grown.values == 1:
            if torch.compiler.is_compiling():
                columns = torch.nn.functional.one_hot(self.column.long(), len(self.base)).to(said.dtype)
                return (total + said.squeeze(-1) @ columns) / self.divisor
            # One after another, as scikit-learn adds.
            total = total.clone().index_add_(1, self.column.long(), said.squeeze(-1))
        else:
            total = total + said.sum(1)
        return total / self.divisor

    def leaves(self, design: Tensor) -> Tensor:
        """(rows, columns) to the node that each tree ends in, (rows, trees) int64."""
        place = self.roots.long().expand(design.shape[0], -1)
        for _step in range(self.grown.depth):
            place = self.step(design, place)
        return place

    def step(self, design: Tensor, place: Tensor) -> Tensor:
        """From nodes (rows, trees) to the next ones."""
        flat = place.reshape(-1)
        seen = design.gather(1, self.feature.index_select(0, flat).view_as(place).long())
        left = seen.double() <= self.threshold.index_select(0, flat).view_as(place)
        if self.grown.sets:
            category = self.category.index_select(0, flat).view_as(place)
            held = self.sets[category.clamp(min=0).long(), seen.long().clamp(0, self.grown.codes - 1)]
            left = ((category >= 0) & held) | ((category < 0) & left)
        chosen = 2 * flat + (~left).reshape(-1).long()
        return self.below.view(-1).index_select(0, chosen).view_as(place).long()

    def check(self) -> None:
        """Raise IntegrityError where nodes are out of place."""
        nodes = torch.arange(self.grown.nodes)
        inner = (self.below != nodes[:, None]).any(1)
        sound = bool(
            (self.below[inner] > nodes[inner, None]).all()
            and _within(self.below, 0, self.grown.nodes)
            and _within(self.roots, 0, self.grown.nodes)
            and _within(self.feature, 0, max(self.columns, 1))
            and _within(self.column, 0, len(self.base))
            and _within(self.category, -1, self.grown.sets)
            and (self.grown.codes > 0 or not self.grown.sets)
            and self.grown.values in (1, len(self.base))
            and all(tensor.isfinite().all() for tensor in (self.value, self.base, self.divisor))
            and not self.threshold.isnan().any()
            and (self.divisor > 0).all()
        )
        if not sound or depth(self.below, self.roots) != self.grown.depth:
            raise IntegrityError("its trees are malformed", where="weights.safetensors")


def depth(below: Tensor, roots: Tensor) -> int:
    """Splits above the deepest leaf, of nodes that lie before those below them."""
    found, places = 0, _once(roots)
    while True:
        inner = places[below[places, 0] != places]
        if not len(inner):
            return found
        places, found = _once(below[inner].flatten()), found + 1


def _once(places: Tensor) -> Tensor:
    return torch.bincount(places.long()).nonzero()[:, 0]


def _within(values: Tensor, low: int, high: int) -> bool:
    return not len(values) or bool((values >= low).all() and (values < high).all())


class OfTrees(Classic):
    """What models made of trees share. `links`: from what the trees say together to the output, by its form."""

    links: ClassVar[dict[str, Link]] = {"category": "log", "ordinal": "log", "labels": "logit", "count": "log"}

    def part(self, name: str, output: Output) -> Trees:
        """Trees as the options say they grew; none, until it is fitted."""
        assert isinstance(self.described, TreesOptions)
        grown = self.described.grown.get(name, EMPTY)
        return Trees(grown, output.size, self.design.columns, self.links.get(output.form, "none"))

    def put(self, name: str, tensors: dict[str, Tensor], grown: Grown) -> None:
        """Take an output's fitted trees."""
        assert isinstance(self.described, TreesOptions)
        self.described = self.described.model_copy(update={"grown": {**self.described.grown, name: grown}})
        part = self.part(name, self.signature.outputs[name])
        part.load_state_dict(tensors)
        self.parts.put(name, part)

    def check(self) -> None:
        """Raise IntegrityError where nodes are out of place."""
        for _name, part in self.parts.items():
            assert isinstance(part, Trees)
            part.check()


class Tree(OfTrees):
    """One decision tree for each value, label, or category: shares of the leaf's rows, or their mean."""


class Forest(OfTrees):
    """The mean of what trees say."""


class Boosting(OfTrees):
    """The sum of what trees say: logits, numbers, logarithms of rates. Splits by sets of labels."""

    coded = True
    links: ClassVar[dict[str, Link]] = {}
