"""The fitted preprocessing: raw columns to tensors, the one road of training, evaluation, serving and export.

Every operation works row by row in IEEE double arithmetic, so a row gives the same tensors alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Leaf
from reinforge.data.blocks import (
    Block,
    CategoriesBlock,
    ImageBlock,
    LabelsBlock,
    NumbersBlock,
    TokensBlock,
    block_names,
    load_block,
    number_names,
    section,
)
from reinforge.data.columns import Columns, column, length
from reinforge.data.operations import labels
from reinforge.data.operations.numbers import Array, Arrays
from reinforge.data.options import WordOptions
from reinforge.data.targets import NumbersTarget, Target, fit_target, load_target, present
from reinforge.data.values import MEMORY, Nulls, Origin, read_list, text
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.registry import REGISTRY, Options
from reinforge.schema.derive import signature
from reinforge.schema.fields import (
    Box,
    Category,
    Continuous,
    Discrete,
    Field,
    Image,
    Labels,
    Number,
    Text,
    Vector,
    sources,
)
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature

FORMAT_VERSION = 2
Batch = dict[str, dict[str, Leaf]]
Tokenizers = Mapping[str, Options]
NO_TOKENIZERS: Tokenizers = {}


@dataclass(frozen=True)
class Pipeline:
    """Fitted blocks of inputs and coders of targets, over a schema that holds all labels. Immutable; `fit` makes one,
    `transform` uses it, `to_json` and `arrays` store it."""

    schema: Schema
    blocks: Mapping[str, Block]
    targets: Mapping[str, Target]
    # What serving one row would otherwise work out each time.
    _input_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _all_names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        schema = self.schema
        object.__setattr__(self, "_input_names", tuple(name for f in schema.inputs for name in sources(f)))
        object.__setattr__(self, "_all_names", tuple(name for f in schema.fields for name in sources(f)))

    @classmethod
    def fit(
        cls, columns: Columns, schema: Schema, origin: Origin = MEMORY, tokenizers: Tokenizers = NO_TOKENIZERS
    ) -> Pipeline:
        """Learn labels, tokenizers, fill values and scales from these (training) rows.

        `tokenizers`: options by text field, one token per word by default. Raises DataError with row and column.
        """
        unfit = [f for f in schema.fields if isinstance(f, Box | Discrete | Continuous)]
        if unfit or not schema.inputs:
            problem = f"a table's pipeline has no {unfit[0].kind} fields" if unfit else "there is no input left"
            raise DataError(problem, where=f"column {unfit[0].name!r}" if unfit else origin.at())
        count = length(columns, [name for f in schema.fields for name in sources(f)])
        schema = schema.model_copy(
            update={"fields": tuple(_with_labels(f, columns, count, schema, origin) for f in schema.fields)}
        )
        texts: dict[str, TokensBlock] = {}
        fields: list[Field] = []
        for f in schema.fields:
            if isinstance(f, Text):
                texts[f.name] = _fit_tokens(f, columns, count, schema, origin, tokenizers)
                f = texts[f.name].field
            fields.append(f)
        schema = schema.model_copy(update={"fields": tuple(fields)})
        blocks: dict[str, Block] = {}
        for name in block_names(schema):
            if name == NumbersBlock.kind:
                blocks[name] = NumbersBlock.fit(schema, columns, count, origin)
            elif name == CategoriesBlock.kind:
                blocks[name] = CategoriesBlock(schema)
            else:
                blocks[name] = texts[name] if name in texts else _block(schema.field(name), schema)
        targets = {f.name: fit_target(f, schema, columns, count, origin, texts) for f in schema.targets}
        return cls(schema, blocks, targets)

    def extended(self, schema: Schema, columns: Columns, origin: Origin = MEMORY) -> Pipeline:
        """The same for a schema with more labels, or more targets, which are fitted to these (training) rows; what was
        fitted stays as it is. Raises DataError."""
        count = length(columns, [name for f in schema.fields for name in sources(f)])
        blocks: dict[str, Block] = {}
        for name, old in self.blocks.items():
            if isinstance(old, NumbersBlock):
                blocks[name] = NumbersBlock(schema, old.operations)
            elif isinstance(old, CategoriesBlock):
                blocks[name] = CategoriesBlock(schema)
            elif isinstance(old, TokensBlock):
                blocks[name] = TokensBlock(old.field, schema, old.tokenizer)
            else:
                blocks[name] = _block(schema.field(name), schema)
        texts = {name: block for name, block in blocks.items() if isinstance(block, TokensBlock)}
        targets: dict[str, Target] = {}
        for f in schema.targets:
            was = self.targets.get(f.name)
            if isinstance(was, NumbersTarget) and isinstance(f, Number | Vector):
                targets[f.name] = NumbersTarget(f, schema, was.operations)
            else:
                targets[f.name] = fit_target(f, schema, columns, count, origin, texts)
        return Pipeline(schema, blocks, targets)

    @property
    def signature(self) -> Signature:
        """The blocks that `transform` gives."""
        return signature(self.schema)

    @property
    def feature_names(self) -> dict[str, tuple[str, ...]]:
        """The name of every column of the blocks of numbers, categories and labels."""
        found = {"numbers": number_names(self.schema), "categories": tuple(f.name for f in self.schema.categories)}
        return found | {f.name: f.labels for f in self.schema.inputs if isinstance(f, Labels)}

    def transform(self, columns: Columns, *, targets: bool = True, origin: Origin = MEMORY) -> Batch:
        """Tensors of plain columns: {"inputs": blocks by name, "targets": by name, "valid": bool (n,) for targets with
        `missing: mask`, and for spans}, as the signature describes them.

        Without `targets`, "targets" and "valid" are empty. Columns that the schema doesn't name are ignored. Raises
        DataError with row, column and value for what the schema refuses.
        """
        count = length(columns, self._all_names if targets else self._input_names)
        batch: Batch = {"inputs": {}, "targets": {}, "valid": {}}
        for name, block in self.blocks.items():
            batch["inputs"][name] = block.transform(columns, count, origin)
        if targets:
            for f in self.schema.targets:
                self._target(f, columns, count, origin, batch)
        return batch

    def transform_row(self, row: Mapping[str, object]) -> Batch:
        """The inputs of one raw row, (1, ...): the same as in any batch."""
        return self.transform({name: [value] for name, value in row.items()}, targets=False)

    def complete(self, columns: Columns, origin: Origin = MEMORY) -> NDArray[np.bool_]:
        """(n,) False for the rows that miss a target whose policy is to drop them."""
        return complete(columns, self.schema, origin)

    def inverse(self, target: str, values: Tensor | NDArray[Any]) -> Any:
        """A target in its own terms: numbers (n,) or (n, 1) to float64 (n,) in its units, vectors to (n, k), codes (n,)
        to labels, sets (n, labels) to lists of labels."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        return self.targets[target].inverse(array)

    def to_json(self) -> dict[str, Any]:
        """Everything but the numbers of `arrays` and the schema."""
        return {
            "format": "reinforge.pipeline",
            "version": FORMAT_VERSION,
            "inputs": {name: block.to_json() for name, block in self.blocks.items()},
            "targets": {name: target.to_json() for name, target in self.targets.items()},
        }

    def arrays(self) -> dict[str, Array]:
        """The fitted numbers, by "inputs.0.1.fill", "targets.0.0.scale", ...: section, place, operation, name."""
        found: dict[str, Array] = {}
        parts: tuple[tuple[str, Sequence[Block | Target]], ...] = (
            ("inputs", tuple(self.blocks.values())),
            ("targets", tuple(self.targets.values())),
        )
        for part, holders in parts:
            for index, holder in enumerate(holders):
                found.update({f"{part}.{index}.{name}": array for name, array in holder.arrays().items()})
        return found

    @classmethod
    def load(cls, schema: Schema, description: Any, arrays: Arrays) -> Pipeline:
        """From what `to_json` and `arrays` gave. Raises IntegrityError where anything is unknown, missing, left over or
        of the wrong size or type."""
        where = "pipeline"
        keys = {"format", "version", "inputs", "targets"}
        if not isinstance(description, dict) or description.get("version") != FORMAT_VERSION:
            raise IntegrityError(f"only pipeline format version {FORMAT_VERSION} is supported", where=where)
        if set(description) != keys or description["format"] != "reinforge.pipeline":
            raise IntegrityError(f"it must have the keys {sorted(keys)}", where=where)
        if any(
            isinstance(f, Category | Labels) and not f.labels and not getattr(f, "hashed", False) for f in schema.fields
        ):
            raise IntegrityError("a field of its schema has no labels", where=where)
        inputs, targets = description["inputs"], description["targets"]
        names = block_names(schema)
        if (
            not isinstance(inputs, dict) or not isinstance(targets, dict)
            or tuple(inputs) != names or list(targets) != [f.name for f in schema.targets]
        ):  # fmt: skip
            raise IntegrityError("its blocks and targets don't fit its schema", where=where)
        rest = dict(arrays)
        blocks = {
            name: load_block(name, inputs[name], schema, section(rest, f"inputs.{index}."))
            for index, name in enumerate(names)
        }
        texts = {name: block for name, block in blocks.items() if isinstance(block, TokensBlock)}
        loaded = {
            f.name: load_target(f, schema, targets[f.name], section(rest, f"targets.{index}."), texts)
            for index, f in enumerate(schema.targets)
        }
        if rest:
            raise IntegrityError(f"arrays are left over: {', '.join(sorted(rest)[:5])}", where=where)
        return cls(schema, blocks, loaded)

    def _target(self, f: Any, columns: Columns, count: int, origin: Origin, batch: Batch) -> None:
        value, there = self.targets[f.name].encode(columns, count, origin)
        batch["targets"][f.name] = value
        if f.missing == "mask" or f.kind == "span":
            batch["valid"][f.name] = torch.from_numpy(there)
        if f.missing != "mask" and not there.all():
            given = present(f, columns, count, self.schema, origin) if f.kind == "span" else there
            if not given.all():
                raise DataError(
                    _("the target is missing"),
                    where=origin.at(int(np.flatnonzero(~given)[0]), f.name),
                    remedy=_(
                        "Fill it in, drop the row, or set `missing: mask` for this target to learn from the others."
                    ),
                )


def complete(columns: Columns, schema: Schema, origin: Origin = MEMORY) -> NDArray[np.bool_]:
    """(n,) False for the rows that miss a target whose policy is to drop them."""
    count = length(columns, [name for f in schema.fields for name in sources(f)])
    kept = np.ones(count, dtype=np.bool_)
    for gone in lacking(columns, schema, origin).values():
        kept &= ~gone
    return kept


def lacking(columns: Columns, schema: Schema, origin: Origin = MEMORY) -> dict[str, NDArray[np.bool_]]:
    """By each target whose policy is to drop rows that miss it, (n,) where it is missing."""
    count = length(columns, [name for f in schema.fields for name in sources(f)])
    dropping = [f for f in schema.targets if getattr(f, "missing", None) == "drop"]
    return {f.name: ~present(f, columns, count, schema, origin) for f in dropping}


def _with_labels(f: Field, columns: Columns, count: int, schema: Schema, origin: Origin) -> Field:
    nulls = Nulls.of(schema.nulls)
    if isinstance(f, Category):
        return labels.fit_labels(f, column(columns, f.name, count, schema, origin), nulls)
    if isinstance(f, Labels):
        if f.columns:
            return f.model_copy(update={"labels": f.columns})
        return labels.fit_label_sets(f, column(columns, f.name, count, schema, origin), nulls)
    return f


def _fit_tokens(
    f: Text, columns: Columns, count: int, schema: Schema, origin: Origin, tokenizers: Tokenizers
) -> TokensBlock:
    (name,) = sources(f)
    values = column(columns, name, count, schema, origin)
    nulls = Nulls.of(schema.nulls)
    there = [found for found in read_list(values, name, lambda v: text(v, nulls), origin) if found]
    if not there:
        raise DataError(_("no training row has a text"), where=f"column {name!r}", remedy=_("Drop the column."))
    tokenizer = REGISTRY.build("tokenizer", tokenizers.get(f.name) or WordOptions(), there)
    return TokensBlock(f.model_copy(update={"vocabulary": tokenizer.size}), schema, tokenizer)


def _block(f: Field, schema: Schema) -> Block:
    return LabelsBlock(f, schema) if isinstance(f, Labels) else ImageBlock(cast(Image, f), schema)
