"""Rows of chats or texts, and what a model holds them to be worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from reinforge.bundle.forms import ROWS, Forward, Row
from reinforge.bundle.readout import Prediction, numbers
from reinforge.bundle.task import Task
from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.data.chats import chat_of
from reinforge.data.text import TextPipeline
from reinforge.data.values import Origin
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Output, Signature
from reinforge.storage.strict_json import Json

SCORE = "score"


class ScoreForm:
    """Whole texts through the fitted tokenizer: chats by the template, as they were learned; and their scores."""

    kind: ClassVar[str] = "score"
    chunk: ClassVar[int] = 64

    def __init__(self, pipeline: TextPipeline) -> None:
        self.pipeline, self.schema = pipeline, pipeline.schema

    @property
    def signature(self) -> Signature:
        """Tokens in, one number out."""
        return Signature(inputs=self.pipeline.signature.inputs, outputs={SCORE: Output(form="number", size=1)})

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """The tokenizer."""
        return self.pipeline.to_json(), {}

    @classmethod
    def load(cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]) -> ScoreForm:
        """Raises IntegrityError where the tokenizer does not fit the model."""
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        form = cls(TextPipeline.load(schema, description, arrays))
        if form.signature != signature:
            raise IntegrityError("the tokenizer and the model do not fit each other", where="pipeline.json")
        return form

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """{"tokens": Ragged}, of rows {"messages"} or {"prompt", "completion"}, or of plain ones {"text"}."""
        return {self.pipeline.BLOCK: Ragged.from_rows([self._row(row, origin, n) for n, row in enumerate(rows)])}

    def _row(self, row: Row, origin: Origin, index: int) -> Tensor:
        name = self.pipeline.FIELD
        if isinstance(row, Mapping) and name not in row:
            chat = chat_of(row, origin, index)
            try:
                return self.pipeline.chat(chat)[0].long()
            except DataError as error:
                raise DataError(error.problem, where=origin.at(index, error.where), remedy=error.remedy) from None
        text = row[name] if isinstance(row, Mapping) else None
        if not isinstance(text, str) or not text:
            raise DataError(_("it is no text, or an empty one"), where=origin.at(index, name))
        return self.pipeline.document(text).long()

    def table_inputs(self, data: object) -> Batch:
        """From a frame or a table: of its columns, those that rows have."""
        from reinforge.data.readers import read

        table = read(data)
        columns = {name: series.to_list() for name, series in table.columns.items()}
        return self.inputs([dict(zip(columns, values)) for values in zip(*columns.values())], table.origin)

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """{"score": {"value": number}}: only differences mean something, between answers to one prompt."""
        found = numbers(forward(inputs)[SCORE].squeeze(1).double().cpu().numpy())
        return [{SCORE: value} for value in found]
