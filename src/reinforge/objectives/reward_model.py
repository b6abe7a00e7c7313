"""Learning what is preferred: a model whose scores say which of two answers people chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, Term
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.models.scorer import Scorer
from reinforge.objectives.options import RewardModelOptions
from reinforge.objectives.preferences import Preference, PreferenceLearner, measured


class RewardModel(Preference[RewardModelOptions]):
    """Minimises -log sigmoid(score of the chosen - score of the rejected): the likelihood of the pairs where the odds
    of two answers are exp of the difference of their scores (Bradley and Terry, 1952; arXiv:2203.02155, equation 1).

    Takes the pairs of `Preference`, and reads whole texts, prompt and answer. Terms: "preference"; "centre", which
    keeps the sum of both scores near 0 (arXiv:2312.09244), since only their difference is learned; and what is
    measured.
    """

    def build(self, model: nn.Module) -> PreferenceLearner:
        """The learner. Raises ComponentError for a model that gives no scores."""
        if not isinstance(model, Scorer):
            raise ComponentError(
                _("it needs a model that gives scores, not {name}").format(name=type(model).__name__),
                where="objective reward-model", remedy=_("Set model.kind to decoder: a head for scores is put on it."),
            )  # fmt: skip
        return PreferenceLearner(model, reference=False)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Pairs, by which every term is divided."""
        counts = super().counts(batch)
        return {**counts, "centre": counts["preference"]}

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """ "preference" and "centre"; and measured beside them, "accuracy" (how often the chosen answer gets the higher
        score) and "margin" (by how much)."""
        parts = [cast(Ragged, cast(Batch, batch[name])["tokens"]) for name in self.names]
        # All rows of both go through the model together.
        together = Ragged.from_rows([part.row(index) for part in parts for index in range(len(part))])
        better_r, worse_r = cast(Scorer, learner.model).scores(together).squeeze(1).chunk(2)
        terms = {"preference": Term(-F.logsigmoid(better_r - worse_r).sum())}
        terms["centre"] = Term((better_r + worse_r).square().sum(), self.options.centre)
        return Loss({**terms, **measured(better_r - worse_r)})
