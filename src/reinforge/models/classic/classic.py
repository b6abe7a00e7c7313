"""What classic models share: fitted at once by scikit-learn, they predict from their own tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.classic.design import Design
from reinforge.models.classic.options import ClassicOptions
from reinforge.models.composed import decode
from reinforge.models.heads import build_head
from reinforge.models.named import Named
from reinforge.schema.signature import Output, Signature

FORMS = ("category", "ordinal", "labels", "number", "count")
# What is less likely counts as this likely: no logarithm is infinite.
FLOOR = 1e-12


class Classic(nn.Module):
    """A part per output, all from one design matrix; inputs by block to ({output: (rows, size)}, state).

    Outputs are those that a network's heads give: logits of classes and labels, numbers as the pipeline scales them,
    logarithms of rates. Nothing here learns by gradient: the tensors are buffers, which `fit` sets. `described` are the
    options that build it again. Raises ComponentError for inputs and outputs that it doesn't know.
    """

    coded: ClassVar[bool] = False

    def __init__(self, options: ClassicOptions, signature: Signature) -> None:
        super().__init__()
        for name, output in signature.outputs.items():
            if output.form not in FORMS:
                raise ComponentError(
                    f"it gives no {output.form}", where=f"model, output {name!r}", remedy="Take model: composed."
                )
        self.described, self.signature = options, signature
        self.design = Design(signature, coded=self.coded)
        self.parts = Named({name: self.part(name, output) for name, output in signature.outputs.items()})
        self.heads = Named({name: build_head(output) for name, output in signature.outputs.items()})

    def part(self, name: str, output: Output) -> nn.Module:
        """What gives one output: (rows, columns) float32 to (rows, size) float32."""
        raise NotImplementedError

    def forward(self, inputs: Batch, state: Batch | None = None) -> tuple[dict[str, Tensor], Batch | None]:
        design = self.design(inputs)
        return {name: part(design) for name, part in self.parts.items()}, state

    def initial_state(self, n: int) -> Batch | None:
        """None: it has no memory."""
        return None

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What each head makes of its output."""
        return decode(self.heads, outputs)

    def check(self) -> None:
        """Raise IntegrityError where its tensors are none that a fit gives. They may come from anywhere."""
