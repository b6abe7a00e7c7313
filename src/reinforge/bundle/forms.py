"""The forms of input a bundle reads: raw rows to a model's inputs, and its outputs back to values."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.bundle.readout import Prediction, encoded, label_sets, labelled, numbers, spans, vectors
from reinforge.bundle.task import Reading, Task
from reinforge.core.batch import Batch, Leaf
from reinforge.core.ragged import Ragged
from reinforge.data.blocks import TokensBlock
from reinforge.data.columns import Columns
from reinforge.data.pipeline import Pipeline
from reinforge.data.values import Origin
from reinforge.errors import DataError, IntegrityError
from reinforge.models.heads import build_head
from reinforge.schema.fields import Category, Field, Labels, Number, Span, Vector, columns_read
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json

Row = Mapping[str, object]
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
    "observation": "reinforge.bundle.observation_form:ObservationForm",
    "text": "reinforge.bundle.text_form:TextForm",
    "score": "reinforge.bundle.score_form:ScoreForm",
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
        self._names = columns_read(self.schema.inputs)
        self._texts = tuple(dict.fromkeys(f.of for f in self.schema.targets if isinstance(f, Span)))

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
        """The pipeline's blocks; keys that the schema does not name are ignored. Images are base64 or bytes."""
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError("a row must be an object of names and values", where=origin.at(index))
        try:
            columns = {name: [row[name] for row in rows] for name in self._names}
        except KeyError:
            columns = self._incomplete(rows, origin)
        return self._inputs(columns, origin)

    def table_inputs(self, data: object) -> Batch:
        """Like `inputs`, from whole columns."""
        from reinforge.data.readers import read

        table = read(data, absent=self.schema.absent)
        return self._inputs(table.plain(self.schema, targets=False), table.origin)

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """By target, in its own terms: {"label", "probabilities"}, {"labels", "probabilities"}, {"value"}, or {"span":
        [start, end], "text"}."""
        outputs = forward({name: inputs[name] for name in self.pipeline.blocks})
        columns = {
            f.name: self._values(f, outputs[f.name], inputs, model, task.outputs.get(f.name, Reading()))
            for f in self.schema.targets
        }
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def _values(
        self, field: Field, output: Tensor, inputs: Batch, model: nn.Module, reading: Reading
    ) -> list[Prediction]:
        match field:
            case Category():
                return labelled(output, field.labels, reading)
            case Labels():
                return label_sets(output, field.labels, reading)
            case Vector():
                return vectors(self.pipeline.inverse(field.name, output.float()), field.columns)
            case Span():
                block, texts = self.pipeline.blocks[field.of], inputs[text_of(field.of)]
                assert isinstance(block, TokensBlock)
                assert isinstance(texts, Ragged)
                return spans(self._decoded(field, output, model)["span"].cpu(), texts, block)
            case Number(count=True):
                return numbers(self._decoded(field, output, model)["value"].double().cpu().numpy())
        return numbers(self.pipeline.inverse(field.name, output.float()))

    def _decoded(self, field: Field, output: Tensor, model: nn.Module) -> dict[str, Tensor]:
        """What the model's own head, or the usual one, makes of an output."""
        heads = getattr(model, "heads", {})
        head = heads[field.name] if field.name in heads else build_head(self.pipeline.signature.outputs[field.name])
        found: dict[str, Tensor] = head.decode(output.float())
        return found

    def _inputs(self, columns: Columns, origin: Origin) -> Batch:
        """The pipeline's blocks, and the texts as they stand that spans are parts of."""
        batch: dict[str, Leaf | Batch] = dict(self.pipeline.transform(columns, targets=False, origin=origin)["inputs"])
        for name in self._texts:
            block = self.pipeline.blocks[name]
            assert isinstance(block, TokensBlock)
            batch[text_of(name)] = encoded(block.texts(columns, len(batch[name]), origin))
        return batch

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


def text_of(name: str) -> str:
    """The key under which a batch carries the raw text of a field, as code points, beside its tokens."""
    return f"{name} as text"
