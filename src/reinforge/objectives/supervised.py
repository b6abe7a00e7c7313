"""Learning from labels: one loss per target, each divided by its own number of valid rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, Model, Term
from reinforge.errors import ComponentError
from reinforge.models.composed import Wrapped
from reinforge.models.heads import build_head
from reinforge.models.losses import RowLoss, row_loss, total_of
from reinforge.objectives.options import SupervisedOptions
from reinforge.objectives.plain import Plain
from reinforge.schema.signature import Signature


class SupervisedLearner(nn.Module):
    """The model, the loss of a row of each of its outputs, and the same summed over rows.

    `log_variances` (targets,): learned beside the model where the weighting is by uncertainty, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Mapping[str, RowLoss],
        totals: Mapping[str, RowLoss],
        uncertain: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.losses, self.totals = dict(losses), dict(totals)
        self.log_variances = nn.Parameter(torch.zeros(len(self.losses))) if uncertain else None
        # Batch normalisation makes a row's loss depend on the rows beside it.
        self.coupled = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


class Supervised(Plain):
    """Minimises the weighted sum over targets of the mean loss of the rows in which that target is valid.

    Batches: {"inputs", "targets", "valid"}; "valid" may lack a target, or be left out, where nothing is missing.
    A plain module is wrapped. Weighting by uncertainty minimises, with a learned s for each target, the mean over its
    valid rows of exp(-s) loss + s / 2, of numbers and vectors of half the first part (Kendall, Gal and Cipolla,
    arXiv:1705.07115, equations 7 and 10): the term "target/weighted"; the term "target" then only measures.
    Raises ComponentError for options that name an unknown target, or a loss of another form.
    """

    def __init__(self, options: SupervisedOptions, signature: Signature) -> None:
        for name in (*options.losses, *options.weights):
            if name not in signature.outputs:
                raise ComponentError(
                    f"there is no target {name!r}",
                    where="objective supervised",
                    remedy=f"Targets: {', '.join(signature.outputs)}.",
                )
        self.signature = signature
        self.weights = {name: float(options.weights.get(name, 1.0)) for name in signature.outputs}
        self.uncertain = options.weighting == "uncertainty"
        self.losses = {name: row_loss(chosen, signature.outputs[name]) for name, chosen in options.losses.items()}

    def build(self, model: nn.Module) -> SupervisedLearner:
        """The learner; a module without the model's contract is wrapped."""
        if not isinstance(model, Model):
            model = Wrapped(model, self.signature)
        heads = getattr(model, "heads", {})
        losses, totals = {}, {}
        for name, output in self.signature.outputs.items():
            head = heads[name] if name in heads else build_head(output)
            chosen = self.losses.get(name)
            losses[name] = chosen or head.loss
            totals[name] = total_of(chosen) if chosen else head.total
        return SupervisedLearner(model, losses, totals, self.uncertain)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Valid rows of each target."""
        valid = batches.section(batch, "valid")
        total = None
        counts = {}
        for name in self.weights:
            mask = valid.get(name)
            if mask is not None:
                counts[name] = mask.sum()
            else:
                total = torch.tensor(batches.rows(batch)) if total is None else total
                counts[name] = total
        if self.uncertain:
            counts.update({f"{name}/weighted": count for name, count in counts.items()})
        return counts

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """A term per target: the sum of its rows' losses."""
        outputs, _ = learner.model(batch["inputs"])  # type: ignore[operator]
        return Loss(self.terms(learner, outputs, batch, counts))

    def terms(
        self, learner: nn.Module, outputs: Mapping[str, Tensor], batch: Batch, counts: Mapping[str, Tensor]
    ) -> dict[str, Term]:
        """The terms of `loss`, from the model's outputs for the batch."""
        assert isinstance(learner, SupervisedLearner)
        targets, valid = batches.section(batch, "targets"), batches.section(batch, "valid")
        terms: dict[str, Term] = {}
        for name, weight in self.weights.items():
            output, target, mask = outputs[name], targets[name], valid.get(name)
            if mask is None:
                total = learner.totals[name](output, target)
            else:
                # The target is filled, not only its loss left out: NaN would come back through the gradient.
                each = learner.losses[name](output, target.masked_fill(~_along(mask, target), 0))
                total = each.masked_fill(~mask, 0).sum()
            coupled = learner.coupled and learner.training
            if coupled:
                total = total / counts[name].clamp(min=1)
            if learner.log_variances is None:
                terms[name] = Term(total, weight, coupled)
                continue
            log_variance = learner.log_variances[len(terms) // 2].float()
            part = 0.5 if self.signature.outputs[name].form in ("number", "continuous") else 1.0
            rows = (counts[name] > 0) if coupled else len(target) if mask is None else mask.sum()
            weighted = part * (-log_variance).exp() * total + 0.5 * log_variance * rows
            terms[name] = Term(total.detach(), 0.0, coupled)
            terms[f"{name}/weighted"] = Term(weighted, weight, coupled)
        return terms


def _along(mask: Tensor, target: Tensor) -> Tensor:
    """The row mask with as many dimensions as the target."""
    return mask.view(-1, *[1] * (target.ndim - 1))
