"""The design matrix of classic models: a batch's blocks side by side, one column for each thing that is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.schema.signature import Input, Signature

# scikit-learn's histograms tell no more labels of a category apart.
MOST_LABELS = 255


@dataclass(frozen=True)
class Source:
    """Where a column comes from: the block, the place in it, and the label's code where the column is of one label."""

    block: str
    place: int
    code: int | None = None


class Design:
    """Input blocks to (rows, columns) float32, categories first; images as parts of 255.

    `coded`: a category is one column of codes; otherwise each of its labels is a column of 0 and 1. `widest`: leave out
    categories with more labels. Raises ComponentError for a text, which has no columns.
    """

    def __init__(self, signature: Signature, *, coded: bool, widest: int | None = None) -> None:
        tokens = [name for name, block in signature.inputs.items() if block.form == "tokens"]
        if tokens:
            raise ComponentError(
                f"it reads no texts, and {', '.join(map(repr, tokens))} is one",
                where="model",
                remedy="Leave it out (data.drop), or take model: composed.",
            )
        self.coded = coded
        first = {name: block for name, block in signature.inputs.items() if block.form == "categories"}
        self.blocks: dict[str, Input] = {**first, **signature.inputs}
        self.chosen = {
            name: [place for place, size in enumerate(block.sizes) if widest is None or size <= widest]
            for name, block in first.items()
        }
        self.sources = tuple(source for name in self.blocks for source in self._sources(name))
        # Labels of a column of codes; 0 for a column of numbers.
        self.labels = tuple(
            self.blocks[s.block].sizes[s.place] if self.blocks[s.block].form == "categories" and coded else 0
            for s in self.sources
        )

    @property
    def columns(self) -> int:
        """How many there are."""
        return len(self.sources)

    @property
    def categorical(self) -> list[bool]:
        """Which columns are codes of few enough labels to be told apart one by one."""
        return [0 < count <= MOST_LABELS for count in self.labels]

    def __call__(self, inputs: Batch) -> Tensor:
        """(rows, columns) float32."""
        parts = [part for name, block in self.blocks.items() for part in self._parts(name, block, inputs)]
        return torch.cat(parts, 1) if parts else torch.empty(0, 0)

    def names(self, known: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]]) -> list[str]:
        """A name for each column. `known`: of a block's places, by block; `labels`: of a category's codes, by the
        category's name. What has no name goes by its block and place."""
        found = []
        for source in self.sources:
            names = known.get(source.block, ())
            name = names[source.place] if source.place < len(names) else f"{source.block} {source.place}"
            if source.code is not None:
                codes = labels.get(name, ())
                name += f" = {codes[source.code] if source.code < len(codes) else source.code}"
            elif self.blocks[source.block].form == "numbers" and source.block != "numbers":
                name = f"{source.block}: {name}"
            found.append(name)
        return found

    def _sources(self, name: str) -> list[Source]:
        block = self.blocks[name]
        if block.form != "categories":
            return [Source(name, place) for place in range(math.prod(block.shape))]
        if self.coded:
            return [Source(name, place) for place in self.chosen[name]]
        return [Source(name, place, code) for place in self.chosen[name] for code in range(block.sizes[place])]

    def _parts(self, name: str, block: Input, inputs: Batch) -> list[Tensor]:
        value = inputs[name]
        assert isinstance(value, Tensor)
        if block.form != "categories":
            flat = value.flatten(1)
            return [flat.float() / 255 if value.dtype == torch.uint8 else flat.float()]
        if self.coded:
            return [value[:, self.chosen[name]].float()]
        return [functional.one_hot(value[:, place], block.sizes[place]).float() for place in self.chosen[name]]
