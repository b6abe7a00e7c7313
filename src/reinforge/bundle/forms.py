"""The forms of input a bundle reads: raw rows to a model's inputs, and its outputs back to values."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.bundle.task import Reading, Task
from reinforge.core.batch import Batch
from reinforge.data.pipeline import Pipeline
from reinforge.data.values import Origin
from reinforge.errors import DataError, IntegrityError
from reinforge.schema.fields import Box, Category, Discrete, Number
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json

Row = Mapping[str, object]
Prediction = dict[str, Any]  # by output; JSON values
Forward = Callable[[Batch], dict[str, Tensor]]  # a model's inputs to its outputs by head
ROWS = Origin()


class Form(Protocol):
    """One way from raw rows to tensors and back; the pipeline of a bundle."""

    kind: ClassVar[str]
    chunk: ClassVar[int]  # rows computed at once
    schema: Schema

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """What `load` needs, as JSON and tensors."""
        ...

    @classmethod
    def load(cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]) -> Form:
        """From what `save` gave. Raises IntegrityError."""
        ...

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """A model's inputs (n, ...). Raises DataError that names the row."""
        ...

    def table_inputs(self, data: object) -> Batch:
        """A model's inputs from a frame, a table or a mapping of columns. Raises DataError."""
        ...

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """One prediction per row; null stands for what is no finite number. Raises DataError that names the row."""
        ...


# By the name in pipeline.json. Closed: a bundle can't name anything else.
FORMS = {
    "table": "reinforge.bundle.forms:TableForm",
    "observation": "reinforge.bundle.forms:ObservationForm",
    "text": "reinforge.bundle.text_form:TextForm",
    "tensor": "reinforge.bundle.tensor_form:TensorForm",
}


def load_form(
    kind: object, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]
) -> Form:
    """The form of a stored kind. Raises IntegrityError where the kind is unknown or the description malformed."""
    if not isinstance(kind, str) or kind not in FORMS:
        known = ", ".join(FORMS)
        raise IntegrityError(
            f"the form of input {str(kind)[:40]!r} is unknown", where="pipeline.json", remedy=f"Known: {known}."
        )
    module, _, name = FORMS[kind].partition(":")
    form: type[Form] = getattr(importlib.import_module(module), name)
    return form.load(schema, signature, description, tensors)


class TableForm:
    """Rows of a table, through the fitted pipeline."""

    kind: ClassVar[str] = "table"
    chunk: ClassVar[int] = 4096

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.schema = pipeline, pipeline.schema
        self._names = [field.name for field in self.schema.inputs]

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """The pipeline's own description and arrays."""
        return self.pipeline.to_json(), {n: torch.from_numpy(np.array(a)) for n, a in self.pipeline.arrays().items()}

    @classmethod
    def load(cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]) -> TableForm:
        """Raises IntegrityError where the pipeline does not give what the signature takes."""
        pipeline = Pipeline.load(schema, description, {name: tensor.numpy() for name, tensor in tensors.items()})
        if pipeline.signature != signature:
            raise IntegrityError("the pipeline and the model do not fit each other", where="pipeline.json")
        return cls(pipeline)

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """{"numbers", "categories"}; keys that the schema does not name are ignored."""
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError("a row must be an object of names and values", where=origin.at(index))
        try:
            columns = {name: [row[name] for row in rows] for name in self._names}
        except KeyError:
            columns = self._incomplete(rows, origin)
        batch: Batch = self.pipeline.transform(columns, targets=False, origin=origin)["inputs"]
        return batch

    def table_inputs(self, data: object) -> Batch:
        """Like `inputs`, from whole columns."""
        from reinforge.data.readers import read

        table = read(data, absent=self.schema.absent)
        columns = table.plain(self.schema, targets=False)
        batch: Batch = self.pipeline.transform(columns, targets=False, origin=table.origin)["inputs"]
        return batch

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """{target: {"label", "probabilities"}} or {target: {"value"}}, in the targets' own terms."""
        outputs = forward(inputs)
        columns: dict[str, list[Prediction]] = {}
        for field in self.schema.targets:
            output = outputs[field.name]
            if isinstance(field, Category):
                columns[field.name] = labelled(output, field.labels, task.outputs.get(field.name, Reading()))
            elif isinstance(field, Number):
                values = self.pipeline.inverse(field.name, output.float())
                columns[field.name] = [{"value": finite(float(value))} for value in values]
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def _incomplete(self, rows: Sequence[Row], origin: Origin) -> dict[str, list[object]]:
        if self.schema.absent == "error":
            for index, row in enumerate(rows):
                for name in self._names:
                    if name not in row:
                        raise DataError(
                            f"the field {name!r} is missing",
                            where=origin.at(index, name),
                            remedy="Write null for a missing value, or train with `absent: null`.",
                        )
        return {name: [row.get(name) for row in rows] for name in self._names}


class ObservationForm:
    """Rows {"observation": ...} of a policy, and the actions it takes."""

    kind: ClassVar[str] = "observation"
    chunk: ClassVar[int] = 4096

    def __init__(self, schema: Schema, signature: Signature) -> None:
        boxes = [field for field in schema.inputs if isinstance(field, Box)]
        if len(boxes) != 1 or boxes[0].name not in signature.inputs or list(signature.outputs) != ["action"]:
            raise IntegrityError("a policy takes one box, and gives one action", where="schema.json")
        self.schema, self.box = schema, boxes[0]
        block, action = signature.inputs[boxes[0].name], schema.targets[0] if len(schema.targets) == 1 else None
        fits = (
            block.shape == boxes[0].shape if block.form == "box" else block.form == "categories" and not boxes[0].shape
        )
        size = {"discrete": getattr(action, "n", None), "continuous": len(getattr(action, "low", ()))}
        if not fits or size.get(signature.outputs["action"].form) != signature.outputs["action"].size:
            raise IntegrityError("the schema and the model do not fit each other", where="schema.json")
        self.block, self.output = signature.inputs[self.box.name], signature.outputs["action"]
        self.start = action.start if isinstance(action, Discrete) else 0
        # A numbered state is a box of one integer between the first and the last number.
        self.first = int(self.box.low) if self.block.form == "categories" and isinstance(self.box.low, float) else 0

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """Nothing: normalising is inside the model."""
        return {}, {}

    @classmethod
    def load(
        cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]
    ) -> ObservationForm:
        """Raises IntegrityError unless there is one box and one action, and nothing else."""
        if description != {} or tensors:
            raise IntegrityError("a policy's pipeline holds nothing", where="pipeline.json")
        return cls(schema, signature)

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """{"observation": float32 or uint8 (n, *shape), or int64 (n, 1) for numbered states}."""
        name = self.box.name
        arrays = []
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping) or name not in row:
                raise DataError(f"the field {name!r} is missing", where=origin.at(index, name))
            arrays.append(self._checked(row[name], self.box.shape, origin.at(index, name)))
        return self._batch(np.stack(arrays) if arrays else np.empty((0, *self.box.shape)))

    def table_inputs(self, data: object) -> Batch:
        """From {"observation": (n, *shape)}, or that array itself."""
        array = data[self.box.name] if isinstance(data, Mapping) and self.box.name in data else data
        shape = (len(array), *self.box.shape) if isinstance(array, np.ndarray | Tensor | Sequence) else self.box.shape
        return self._batch(self._checked(array, shape, self.box.name))

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """{"action": {"action"}}: the number of the action, or its coordinates in the environment's units."""
        action = forward(inputs)["action"]
        known = action.isfinite().all(-1).tolist()
        if self.output.form == "discrete":
            chosen = action.argmax(-1).tolist()
            return [{"action": {"action": a + self.start if ok else None}} for a, ok in zip(chosen, known)]
        low, high = torch.tensor(self.output.low), torch.tensor(self.output.high)
        clipped = action.float().cpu().clamp(low, high)
        return [{"action": {"action": row if ok else None}} for row, ok in zip(clipped.tolist(), known)]

    def _checked(self, value: object, shape: tuple[int, ...], where: str) -> np.ndarray[Any, Any]:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if array.dtype.kind not in "fiu" or array.shape != shape:
            raise DataError(f"it is no array of numbers of shape {shape}", where=where)
        if not np.isfinite(array).all():
            raise DataError("an observation holds NaN or infinity", where=where)
        if self.block.form == "categories":
            size = self.block.sizes[0]
            if array.dtype.kind == "f" or ((array < self.first) | (array >= self.first + size)).any():
                raise DataError(f"it is no whole number from {self.first} to {self.first + size - 1}", where=where)
        elif self.box.dtype == "uint8" and (array.dtype.kind == "f" or ((array < 0) | (array > 255)).any()):
            raise DataError("it holds something else than whole numbers from 0 to 255", where=where)
        elif array.size and float(np.abs(array).max()) > float(np.finfo(np.float32).max):
            raise DataError("a number does not fit 32 bits", where=where)
        return array

    def _batch(self, array: np.ndarray[Any, Any]) -> Batch:
        if self.block.form == "categories":
            return {self.box.name: torch.from_numpy(array.astype(np.int64).reshape(len(array), 1) - self.first)}
        dtype = np.uint8 if self.box.dtype == "uint8" else np.float32
        return {self.box.name: torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))}


def labelled(logits: Tensor, labels: Sequence[str], reading: Reading) -> list[Prediction]:
    probabilities = (logits.float() / reading.temperature).softmax(-1)
    if reading.threshold is None or len(labels) != 2:
        chosen = probabilities.argmax(-1)
    else:
        chosen = (probabilities[:, 1] >= reading.threshold).long()
    # Logits that are too large for their type have no softmax: then nothing is known, and no label is made up.
    return [
        {"label": labels[index], "probabilities": dict(zip(labels, row))}
        if math.isfinite(row[0])
        else {"label": None, "probabilities": dict.fromkeys(labels)}
        for index, row in zip(chosen.tolist(), probabilities.tolist())
    ]


def finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None
