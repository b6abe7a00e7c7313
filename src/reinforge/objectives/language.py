"""Language modelling: the cross-entropy of each next token, over the valid ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, Term
from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.models.decoder import Decoder, token_names
from reinforge.models.token_losses import summed_loss
from reinforge.objectives.options import LanguageOptions
from reinforge.objectives.plain import Plain
from reinforge.schema.signature import Signature


class LanguageLearner(nn.Module):
    """The decoder, and nothing beside it."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model


class Language(Plain):
    """Minimises the mean cross-entropy of next tokens, in nats, over the valid tokens of the whole update.

    Batches: {"inputs": {tokens (rows, time), "documents" where packed}, "targets": {(rows, time) int64},
    "valid": {(rows, time) bool}}; without "valid", every target counts.
    """

    def __init__(self, options: LanguageOptions, signature: Signature) -> None:
        self.options = options
        self.name = token_names(signature)[1]

    def build(self, model: nn.Module) -> LanguageLearner:
        """The learner. Raises ComponentError for a model that is no decoder."""
        return LanguageLearner(as_decoder(model, "language"))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Valid target tokens."""
        valid = batches.section(batch, "valid").get(self.name)
        if valid is None:
            return {self.name: torch.tensor(batches.section(batch, "targets")[self.name].numel())}
        return {self.name: valid.sum()}

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """One term under the output's name: the sum of the valid tokens' cross-entropies."""
        model = cast(Decoder, learner.model)
        hidden_btd, _ = model.hidden(cast(Batch, batch["inputs"]))
        hidden_nd, targets_n = hidden_btd.flatten(0, 1), batches.section(batch, "targets")[self.name].flatten()
        valid = batches.section(batch, "valid").get(self.name)
        if valid is not None:
            index_n = valid.flatten().nonzero().squeeze(1)
            hidden_nd, targets_n = hidden_nd[index_n], targets_n[index_n]
        return Loss({self.name: Term(summed_loss(hidden_nd, model.head_weight, targets_n))})


def as_decoder(model: nn.Module, objective: str, *, causal: bool = True) -> Decoder:
    """The model, if it is a decoder that sees what the objective needs. Raises ComponentError where it is not."""
    if not isinstance(model, Decoder):
        raise ComponentError(
            f"it needs a language model, not {type(model).__name__}",
            where=f"objective {objective}",
            remedy="Set model.kind to decoder.",
        )
    if model.options.causal != causal:
        problem = (
            _("it predicts what follows, and the model sees what follows")
            if causal
            else _("it fills in what is hidden from both sides, and the model sees but one")
        )
        raise ComponentError(
            problem,
            where=f"objective {objective}",
            remedy=_("Set {key}.").format(key=f"model.causal={str(causal).lower()}"),
        )
    return model
