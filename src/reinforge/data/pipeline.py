"""The fitted preprocessing: raw columns to tensors, the one road of training, evaluation, serving and export.

Every operation works row by row in IEEE double arithmetic, so a row gives the same tensors alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.data.blocks import BlockReader, Columns, column, length
from reinforge.data.operations import labels
from reinforge.data.operations.numbers import Array, Arrays, Impute, Indicate, Operation, Scale, operation
from reinforge.data.values import MEMORY, Nulls, Numbers, Origin, label, read_codes, read_numbers
from reinforge.errors import DataError, IntegrityError
from reinforge.schema.derive import signature
from reinforge.schema.fields import Category, Number
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature

FORMAT_VERSION = 1
Batch = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Pipeline:
    """Fitted operations over a schema: `numbers` on the block of numeric inputs, one `Scale` per numeric target; labels
    are the schema's. Immutable; `fit` makes one, `transform` uses it, `to_json` and `arrays` store it."""

    schema: Schema
    numbers: tuple[Operation, ...]
    targets: Mapping[str, Scale]
    _readers: Mapping[str, BlockReader] = field(init=False, repr=False, compare=False)
    _coders: Mapping[str, Callable[[object], int]] = field(init=False, repr=False, compare=False)
    _categories: tuple[Category, ...] = field(init=False, repr=False, compare=False)
    _input_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _all_names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # What serving one row would otherwise work out each time.
        schema, nulls = self.schema, Nulls.of(self.schema.nulls)
        readers = {"": BlockReader(schema.numbers, schema)}
        readers.update({f.name: BlockReader((f,), schema) for f in schema.targets if isinstance(f, Number)})
        object.__setattr__(self, "_readers", readers)
        coders = {f.name: labels.coder(f, nulls) for f in schema.fields if isinstance(f, Category)}
        object.__setattr__(self, "_coders", coders)
        object.__setattr__(self, "_categories", schema.categories)
        object.__setattr__(self, "_input_names", tuple(f.name for f in schema.inputs))
        object.__setattr__(self, "_all_names", tuple(f.name for f in schema.fields))

    @classmethod
    def fit(cls, columns: Columns, schema: Schema, origin: Origin = MEMORY) -> Pipeline:
        """Learn labels, fill values and scales from these (training) rows. Raises DataError with row and column."""
        unfit = [f for f in schema.fields if not isinstance(f, (Number, Category))]
        if unfit or not schema.inputs:
            problem = f"a table's pipeline has no {unfit[0].kind} fields" if unfit else "there is no input left"
            raise DataError(problem, where=f"column {unfit[0].name!r}" if unfit else origin.at())
        nulls = Nulls.of(schema.nulls)
        count = length(columns, [f.name for f in schema.fields])
        fitted = [
            labels.fit_labels(f, column(columns, f.name, count, schema, origin), nulls)
            if isinstance(f, Category)
            else f
            for f in schema.fields
        ]
        schema = schema.model_copy(update={"fields": tuple(fitted)})
        block = BlockReader(schema.numbers, schema).read(columns, count, origin)
        operations: list[Operation] = []
        steps: tuple[type[Indicate] | type[Impute] | type[Scale], ...] = (Indicate, Impute, Scale)
        for step in steps if schema.numbers else ():
            operations.append(step.fit(block, schema.numbers))
            block = operations[-1].apply(block)
        targets = {
            f.name: Scale.fit(BlockReader((f,), schema).read(columns, count, origin), (f,))
            for f in schema.targets
            if isinstance(f, Number)
        }
        return cls(schema, tuple(operations), targets)

    @property
    def signature(self) -> Signature:
        """The blocks that `transform` gives."""
        return signature(self.schema)

    @property
    def feature_names(self) -> dict[str, tuple[str, ...]]:
        """The name of every column of the blocks "numbers" and "categories"."""
        numbers = self.schema.numbers
        indicators = [f"{f.name} is missing" for f in numbers if f.indicator]
        return {
            "numbers": (*(f.name for f in numbers), *indicators),
            "categories": tuple(f.name for f in self.schema.categories),
        }

    def transform(self, columns: Columns, *, targets: bool = True, origin: Origin = MEMORY) -> Batch:
        """Tensors of plain columns: {"inputs": {"numbers": float32 (n, k), "categories": int64 (n, c)}, "targets": by
        name float32 (n, 1) or int64 (n,), "valid": bool (n,) for targets with `missing: mask`}.

        Without `targets`, "targets" and "valid" are empty. Columns that the schema doesn't name are ignored. Raises
        DataError with row, column and value for what the schema refuses.
        """
        schema = self.schema
        count = length(columns, self._all_names if targets else self._input_names)
        batch: Batch = {"inputs": {}, "targets": {}, "valid": {}}
        if self.numbers:
            block = self._readers[""].read(columns, count, origin)
            for step in self.numbers:
                block = step.apply(block)
            batch["inputs"]["numbers"] = self._float32(block, "", origin)
        if self._categories:
            codes = np.empty((count, len(self._categories)), dtype=np.int64)
            for index, f in enumerate(self._categories):
                values = column(columns, f.name, count, schema, origin)
                codes[:, index] = read_codes(values, f.name, self._coders[f.name], origin)
            batch["inputs"]["categories"] = torch.from_numpy(codes)
        if targets:
            for target in schema.targets:
                self._target(target, columns, count, origin, batch)
        return batch

    def transform_row(self, row: Mapping[str, object]) -> Batch:
        """The inputs of one raw row, (1, ...): the same as in any batch."""
        return self.transform({name: [value] for name, value in row.items()}, targets=False)

    def complete(self, columns: Columns, origin: Origin = MEMORY) -> NDArray[np.bool_]:
        """(n,) False for the rows that miss a target whose policy is to drop them."""
        return complete(columns, self.schema, origin)

    def inverse(self, target: str, values: Tensor | NDArray[Any]) -> Numbers | list[str]:
        """A target in its own terms: numbers (n,) or (n, 1) to float64 (n,) in its units, codes (n,) to labels."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        found = self.schema.field(target)
        if isinstance(found, Category):
            return [found.labels[code] for code in array.reshape(-1).tolist()]
        return self.targets[target].invert(array.astype(np.float64).reshape(-1, 1))[:, 0]

    def to_json(self) -> dict[str, Any]:
        """Everything but the numbers of `arrays` and the schema."""
        return {
            "format": "reinforge.pipeline",
            "version": FORMAT_VERSION,
            "numbers": [{"kind": step.kind, "version": step.version} for step in self.numbers],
            "categories": {"kind": "labels", "version": labels.VERSION},
            "targets": {name: {"kind": step.kind, "version": step.version} for name, step in self.targets.items()},
        }

    def arrays(self) -> dict[str, Array]:
        """The fitted numbers, by "numbers.0.fill", "targets.0.scale", ..."""
        found: dict[str, Array] = {}
        for index, step in enumerate(self.numbers):
            found.update({f"numbers.{index}.{name}": array for name, array in step.arrays().items()})
        for index, scale in enumerate(self.targets.values()):
            found.update({f"targets.{index}.{name}": array for name, array in scale.arrays().items()})
        return found

    @classmethod
    def load(cls, schema: Schema, description: Any, arrays: Arrays) -> Pipeline:
        """From what `to_json` and `arrays` gave. Raises IntegrityError where anything is unknown, missing, left over or
        of the wrong size or type."""
        where = "pipeline"
        keys = {"format", "version", "numbers", "categories", "targets"}
        if not isinstance(description, dict) or description.get("version") != FORMAT_VERSION:
            raise IntegrityError(f"only pipeline format version {FORMAT_VERSION} is supported", where=where)
        if set(description) != keys or description["format"] != "reinforge.pipeline":
            raise IntegrityError(f"it must have the keys {sorted(keys)}", where=where)
        if description["categories"] != {"kind": "labels", "version": labels.VERSION}:
            raise IntegrityError("its way to read labels is not known", where=where)
        if any(isinstance(f, Category) and not f.labels for f in schema.fields):
            raise IntegrityError("a category of its schema has no labels", where=where)
        steps, targets = description["numbers"], description["targets"]
        names = [f.name for f in schema.targets if isinstance(f, Number)]
        if not isinstance(steps, list) or not isinstance(targets, dict) or list(targets) != names:
            raise IntegrityError("its operations don't fit its schema", where=where)
        rest = dict(arrays)
        numbers: list[Operation] = []
        width = len(schema.numbers)
        for index, step in enumerate(steps):
            numbers.append(_stored(step, _section(rest, f"numbers.{index}."), width))
            width = numbers[-1].width(width)
        scales = {
            name: _stored(targets[name], _section(rest, f"targets.{index}."), 1) for index, name in enumerate(names)
        }
        if not _fits(numbers, schema):
            raise IntegrityError("its operations don't fit its schema", where=where)
        if rest:
            raise IntegrityError(f"arrays are left over: {', '.join(sorted(rest)[:5])}", where=where)
        wrong = [name for name, step in scales.items() if not isinstance(step, Scale)]
        if wrong:
            raise IntegrityError(f"target {wrong[0]!r} can't be inverted", where=where)
        return cls(schema, tuple(numbers), {name: s for name, s in scales.items() if isinstance(s, Scale)})

    def _target(self, f: object, columns: Columns, count: int, origin: Origin, batch: Batch) -> None:
        if isinstance(f, Category):
            values = column(columns, f.name, count, self.schema, origin)
            codes = read_codes(values, f.name, self._coders[f.name], origin)
            there = codes >= 0
            value = torch.from_numpy(np.where(there, codes, 0))
        elif isinstance(f, Number):
            block = self._readers[f.name].read(columns, count, origin)
            there = ~np.isnan(block[:, 0])
            value = self._float32(np.where(there[:, None], self.targets[f.name].apply(block), 0.0), f.name, origin)
        else:
            return
        if f.missing == "mask":
            batch["valid"][f.name] = torch.from_numpy(there)
        elif not there.all():
            raise DataError(
                "the target is missing",
                where=origin.at(int(np.flatnonzero(~there)[0]), f.name),
                remedy="Fill it in, drop the row, or set `missing: mask` for this target to learn from the others.",
            )
        batch["targets"][f.name] = value

    def _float32(self, block: Numbers, target: str, origin: Origin) -> Tensor:
        with np.errstate(over="ignore"):
            result = block.astype(np.float32)
        finite = np.isfinite(result)
        if not finite.all():
            row, index = (int(i) for i in np.argwhere(~finite)[0])
            raise DataError(
                f"after preprocessing the value is {block[row, index]:g}, which no 32-bit float holds",
                where=origin.at(row, target or self.feature_names["numbers"][index]),
                remedy="Set `low` and `high` for this field, or rescale it.",
            )
        return torch.from_numpy(result)


def complete(columns: Columns, schema: Schema, origin: Origin = MEMORY) -> NDArray[np.bool_]:
    """(n,) False for the rows that miss a target whose policy is to drop them."""
    count, nulls = length(columns, [f.name for f in schema.fields]), Nulls.of(schema.nulls)
    kept = np.ones(count, dtype=np.bool_)
    for f in schema.targets:
        if isinstance(f, Number) and f.missing == "drop":
            kept &= ~np.isnan(read_numbers(column(columns, f.name, count, schema, origin), f.name, nulls, origin))
        elif isinstance(f, Category) and f.missing == "drop":
            values = column(columns, f.name, count, schema, origin)
            kept &= read_codes(values, f.name, lambda v: label(v, nulls) is not None, origin).astype(np.bool_)
    return kept


def _fits(numbers: Sequence[Operation], schema: Schema) -> bool:
    """What `fit` makes for this schema: in this order, missing numbers filled, indicators where they were asked for."""
    match numbers:
        case []:
            return not schema.numbers
        case [Indicate() as indicate, Impute() as impute, Scale()]:
            asked = [index for index, f in enumerate(schema.numbers) if f.indicator]
            filled = np.array([f.missing == "error" for f in schema.numbers]) | ~np.isnan(
                impute.fill[: len(schema.numbers)]
            )
            return bool(schema.numbers) and indicate.columns.tolist() == asked and bool(filled.all())
        case _:
            return False


def _section(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Takes the arrays under a prefix out of the dictionary."""
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names}


def _stored(step: Any, arrays: Arrays, width: int) -> Operation:
    if not isinstance(step, dict) or set(step) != {"kind", "version"}:
        raise IntegrityError("an operation has a kind and a version, and nothing else", where="pipeline")
    return operation(step["kind"], step["version"], arrays, width)
