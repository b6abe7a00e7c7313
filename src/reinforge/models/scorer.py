"""A decoder that judges: a linear layer on the stream at a text's last token, or at every token.

Shape suffixes: b rows, n tokens of all rows, d width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.scorer_options import ScorerOptions
from reinforge.schema.signature import Output, Signature


class Scorer(Decoder):
    """The numbers of one output "number" for each row of tokens, by what its last token has seen: all of the row.

    Rows longer than the context lose what follows their first token. It has no output layer of a language model: the
    layer `score`, and nothing else, is new where it begins from a decoder. Raises ComponentError where the signature
    is not one input of tokens and one output of numbers, or a row is empty.
    """

    def __init__(self, options: ScorerOptions, signature: Signature) -> None:
        inputs = [(name, block.sizes) for name, block in signature.inputs.items() if block.form == "tokens"]
        outputs = [(name, head.size) for name, head in signature.outputs.items() if head.form == "number"]
        if len(inputs) != 1 or len(outputs) != 1 or len(signature.inputs) + len(signature.outputs) != 2:
            raise ComponentError(
                "it needs exactly one input of tokens and one output of numbers", where="model scorer",
                remedy="Use data of kind preferences, or another model.",
            )  # fmt: skip
        ((name, sizes),), ((output, size),) = inputs, outputs
        spoken = Signature(inputs=signature.inputs, outputs={name: Output(form="tokens", size=sizes[0])})
        super().__init__(options.model_copy(update={"tied": True}), spoken)
        self.output = output
        self.score = nn.Linear(options.width, size, bias=False)
        # As small as the scores of a normalised stream should be (arXiv:2009.01325).
        nn.init.normal_(self.score.weight, std=(options.width + 1) ** -0.5)

    def forward(self, inputs: Batch, state: Batch | None = None) -> tuple[dict[str, Tensor], Batch | None]:
        """Scores (rows, size) in float32 under the output's name."""
        given = inputs[self.input]
        rows = given if isinstance(given, Ragged) else Ragged.from_rows(list(cast(Tensor, given)))
        return {self.output: self.scores(rows)}, state

    def scores(self, rows: Ragged) -> Tensor:
        """The last token's: (rows, size) float32."""
        context = self.options.context
        if int(rows.lengths.max()) > context:
            whole = (rows.row(index) for index in range(len(rows)))
            rows = Ragged.from_rows([
                row if len(row) <= context else torch.cat([row[:1], row[len(row) - context + 1 :]]) for row in whole
            ])  # fmt: skip
        if not bool((rows.lengths > 0).all()):
            raise ComponentError("an empty row can't be scored", where="model scorer")
        last_b = (rows.offsets[1:] - rows.offsets[0] - 1).to(rows.values.device)
        return cast(Tensor, self.score(self._stream(rows)[last_b])).float()

    def values(self, rows: Ragged) -> Tensor:
        """Each token's, end to end: (n, size) float32."""
        return cast(Tensor, self.score(self._stream(rows))).float()

    def _stream(self, rows: Ragged) -> Tensor:
        """(n, width)."""
        values_n = rows.values[int(rows.offsets[0]) : int(rows.offsets[-1])]
        return self.hidden_of(values_n.long(), Layout.of_ragged(rows))
