"""Rows {"input": numbers} of a module that was trained on tensors, with no preprocessing of ours before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.bundle.forms import ROWS, Forward, Row
from reinforge.bundle.readout import Prediction, finite, labelled
from reinforge.bundle.task import Reading, Task
from reinforge.core.batch import Batch
from reinforge.data.values import Origin
from reinforge.environments.parts import numbers_of_shape
from reinforge.errors import DataError, IntegrityError
from reinforge.schema.derive import signature as signature_of
from reinforge.schema.fields import Box, Category
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json


class TensorForm:
    """One box of numbers in, one category or number out."""

    kind: ClassVar[str] = "tensor"
    chunk: ClassVar[int] = 1024

    def __init__(self, schema: Schema) -> None:
        boxes = [field for field in schema.inputs if isinstance(field, Box)]
        if len(boxes) != 1 or len(schema.inputs) != 1 or len(schema.targets) != 1:
            raise IntegrityError("it takes one box, and gives one target", where="schema.json")
        self.schema, self.box, self.target = schema, boxes[0], schema.targets[0]

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """Nothing: there is no preprocessing."""
        return {}, {}

    @classmethod
    def load(cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]) -> TensorForm:
        """Raises IntegrityError where something is stored, or schema and model don't fit each other."""
        if description != {} or tensors:
            raise IntegrityError("a tensor's pipeline holds nothing", where="pipeline.json")
        form = cls(schema)
        if signature_of(schema) != signature:
            raise IntegrityError("the schema and the model do not fit each other", where="schema.json")
        return form

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """{box: float32 (n, *shape)}."""
        name = self.box.name
        arrays = []
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping) or name not in row:
                raise DataError(f"the field {name!r} is missing", where=origin.at(index, name))
            arrays.append(numbers_of_shape(row[name], self.box.shape, origin.at(index, name)))
        return self._batch(np.stack(arrays) if arrays else np.empty((0, *self.box.shape)))

    def table_inputs(self, data: object) -> Batch:
        """From {box: (n, *shape)}, or that array itself."""
        array = data[self.box.name] if isinstance(data, Mapping) and self.box.name in data else data
        count = len(array) if isinstance(array, np.ndarray | Tensor | Sequence) else 0
        return self._batch(numbers_of_shape(array, (count, *self.box.shape), self.box.name))

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """{target: {"label", "probabilities"}} or {target: {"value"}}."""
        name, output = self.target.name, forward(inputs)[self.target.name]
        if isinstance(self.target, Category):
            read = labelled(output, self.target.labels, task.outputs.get(name, Reading()))
            return [{name: one} for one in read]
        return [{name: {"value": finite(value)}} for value in output.float().flatten().tolist()]

    def _batch(self, array: np.ndarray[Any, Any]) -> Batch:
        return {self.box.name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))}
