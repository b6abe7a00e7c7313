"""Errors of values against their goals."""

from __future__ import annotations

from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, Term


def weights(batch: Batch) -> Tensor | None:
    """How much each row counts (rows,), where a source that draws some more often says so."""
    found = batch.get("weight")
    return found if isinstance(found, Tensor) else None


def weighted(each: Tensor, weight: Tensor | None) -> Tensor:
    """Numbers (..., rows) by the weights of the rows (rows,)."""
    return each if weight is None else each * weight


def squared(errors: Tensor, goal: Tensor, weight: Tensor | None, factor: float = 1.0) -> Loss:
    """The sum over critics of `factor` times the squares of their errors (critics, rows), as the term "td"; the goals
    (rows,) as "q", which only measures; and of each row the mean error, for sources."""
    each = weighted(errors.square().sum(0), weight)
    return Loss({"td": Term(factor * each.sum()), "q": Term(goal.sum(), 0.0)}, {"td": errors.detach().abs().mean(0)})
