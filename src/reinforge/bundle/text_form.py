"""Rows {"text": ...} of a language model, and how it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from reinforge.bundle.forms import ROWS, Forward, Row
from reinforge.bundle.readout import Prediction
from reinforge.bundle.task import Continuation, Task
from reinforge.core import seeds
from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.data.chats import asked
from reinforge.data.text import TextPipeline
from reinforge.data.values import Origin
from reinforge.errors import BundleError, DataError, IntegrityError
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.generation import SLOTS
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json


class TextForm:
    """Prompts through the fitted tokenizer; continuations by generation."""

    kind: ClassVar[str] = "text"
    chunk: ClassVar[int] = 64  # each row holds a key-value cache

    def __init__(self, pipeline: TextPipeline) -> None:
        self.pipeline, self.schema = pipeline, pipeline.schema

    @property
    def signature(self) -> Signature:
        """Tokens in, next tokens out."""
        return self.pipeline.signature

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """The tokenizer."""
        return self.pipeline.to_json(), {}

    @classmethod
    def load(cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]) -> TextForm:
        """Raises IntegrityError where the tokenizer does not fit the model."""
        pipeline = TextPipeline.load(schema, description, {name: tensor.numpy() for name, tensor in tensors.items()})
        form = cls(pipeline)
        if form.signature != signature:
            raise IntegrityError("the tokenizer and the model do not fit each other", where="pipeline.json")
        return form

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """{"tokens": Ragged}, of rows {"text"} to go on from or {"messages"} to answer."""
        if rows and isinstance(rows[0], Mapping) and "messages" in rows[0]:
            asking = [self._asked(row, origin, index) for index, row in enumerate(rows)]
            return {self.pipeline.BLOCK: Ragged.from_rows(asking)}
        name = self.pipeline.FIELD
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping) or name not in row:
                raise DataError(f"the field {name!r} is missing", where=origin.at(index, name))
            text = row[name]
            if not isinstance(text, str) or not text:
                raise DataError("it is no text, or an empty one", where=origin.at(index, name))
        return self.pipeline.transform({name: [row[name] for row in rows]}, targets=False)["inputs"]

    def _asked(self, row: Row, origin: Origin, index: int) -> Tensor:
        chat = asked(row, origin, index)
        try:
            return self.pipeline.chat(chat, answer=True)[0].long()
        except DataError as error:
            raise DataError(error.problem, where=origin.at(index, error.where), remedy=error.remedy) from None

    def table_inputs(self, data: object) -> Batch:
        """From a frame or a table with the column "text"."""
        from reinforge.data.readers import read

        table = read(data)
        return self.inputs([{self.pipeline.FIELD: text} for text in table.column(self.pipeline.FIELD)], table.origin)

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """{"text": {"text": continuation, "stopped": whether it ended by itself}}."""
        if not isinstance(model, Decoder):
            raise BundleError("its model does not generate text", where="model.json")
        requests = self.requests(inputs, task)
        engine = GenerationEngine(model, slots=min(SLOTS, max(len(requests), 1)), origin=origin)
        return [self.told(each.tokens, each.reason == "stop") for each in engine.run(requests)]

    def continuation(self, task: Task) -> Continuation:
        """How its texts go on: as the task says, else until the tokens that end them."""
        return task.text or Continuation(stop=self.pipeline.stops)

    def requests(self, inputs: Batch, task: Task) -> list[Request]:
        """What the generation engine is to write for each row. Each draws by a seed of its own, made of its prompt: the
        same alone and in a batch."""
        prompts = inputs[self.pipeline.BLOCK]
        if not isinstance(prompts, Ragged):
            raise BundleError("its model does not generate text", where="model.json")
        chosen = self.continuation(task)
        sampling = Sampling(chosen.max_tokens, chosen.temperature, chosen.top_k, chosen.top_p, chosen.stop)
        rows = [tuple(prompts.row(index).tolist()) for index in range(len(prompts))]
        texts = [self.pipeline.tokenizer.decode(row) for row in rows]
        return [Request(row, sampling, seeds.derive(chosen.seed, "continue", text)) for row, text in zip(rows, texts)]

    def told(self, tokens: Sequence[int], stopped: bool) -> Prediction:
        """A prediction, of the tokens that were written."""
        return {"text": {"text": self.pipeline.tokenizer.decode(tokens), "stopped": stopped}}
