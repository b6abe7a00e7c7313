"""How outputs are read: a temperature and thresholds, set on validation rows and never on the test's.

What is found stays only where its gain on these rows is clear of the gain's own deviation: on few rows a threshold
is mostly noise.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reinforge.bundle.task import Reading
from reinforge.core.seeds import derive
from reinforge.evaluation.supervised import Judged

Criterion = Literal["f1", "balanced-accuracy", "accuracy", "none"]
# With fewer rows nothing is set.
FEWEST_ROWS = 20
_REPLICATES = 400


def fit_reading(judged: Judged, form: str, *, calibrate: bool = True, criterion: Criterion = "f1") -> Reading:
    """The reading of one output's logits: the temperature of the least log loss, then the thresholds that are best by
    the criterion. Outputs of other forms, and more than two classes, have no threshold."""
    logits, target = judged.output.double(), judged.target
    if form not in ("category", "labels") or len(target) < FEWEST_ROWS or not logits.isfinite().all():
        return Reading()
    pairs, truth = (logits, target.long()) if form == "category" else as_pairs(logits, target)
    temperature = fit_temperature(pairs, truth) if calibrate else 1.0
    if criterion == "none":
        return Reading(temperature=temperature)
    if form == "labels":
        probabilities = (logits / temperature).sigmoid()
        each = [fit_threshold(p, t > 0.5, criterion, alone=True) for p, t in zip(probabilities.T, target.T)]
        moved = any(threshold is not None for threshold in each)
        return Reading(
            temperature=temperature, thresholds=tuple(0.5 if t is None else t for t in each) if moved else None
        )
    if logits.shape[1] != 2:
        return Reading(temperature=temperature)
    probability = (logits / temperature).softmax(1)[:, 1]
    return Reading(temperature=temperature, threshold=fit_threshold(probability, target == 1, criterion))


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """By what logits (rows, classes) float64 are divided for the least log loss; 1 where that gains too little.

    Guo et al. (2017), "On Calibration of Modern Neural Networks"; by Newton's method, since the loss is convex in the
    inverse temperature. Targets are softened by 1 / (rows + 2), as Platt (1999) does, so that rows which are all right
    don't ask for certainty.
    """
    rows, classes = logits.shape
    soft = torch.full_like(logits, 1 / (rows + 2) / classes)
    soft.scatter_add_(1, target[:, None], soft.new_full((rows, 1), 1 - 1 / (rows + 2)))
    wanted = (soft * logits).sum(1)
    low, high, inverse = 0.02, 50.0, 1.0
    for _ in range(100):
        probabilities = (inverse * logits).softmax(1)
        mean = (probabilities * logits).sum(1)
        slope = float((mean - wanted).mean())
        curvature = float(((probabilities * logits.square()).sum(1) - mean.square()).mean())
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        before, inverse = inverse, step if low < step < high else (low + high) / 2
        if abs(inverse - before) < 1e-9 * before:
            break
    losses = [torch.nn.functional.cross_entropy(logits * by, target, reduction="none") for by in (1.0, inverse)]
    gain = losses[0] - losses[1]
    return 1 / inverse if float(gain.mean()) > float(gain.std()) / math.sqrt(rows) else 1.0


def fit_threshold(probability: Tensor, positive: Tensor, criterion: Criterion, *, alone: bool = False) -> float | None:
    """From which probability (rows,) on a row counts as positive; None where one half is as good.

    "f1": the mean F1 of both classes, or where `alone` the positive class's. Between two scores, in the middle; of
    equally good places the one nearest to one half.
    """
    scores, order = probability.double().sort()
    truth = positive[order]
    total, rows = int(truth.sum()), len(truth)
    if not 0 < total < rows:
        return None
    # Cut k: the rows from k on are decided as positive.
    places = torch.cat([torch.zeros(1, dtype=torch.int64), (scores[1:] > scores[:-1]).nonzero()[:, 0] + 1])
    below = torch.cat([torch.zeros(1, dtype=torch.int64), truth.long().cumsum(0)])[places]
    hits, missed = total - below, below
    false, right = rows - places - hits, places - below
    value = _criterion(torch.stack([right, false, missed, hits], -1).double(), criterion, alone)
    edges = (scores[places.clamp(min=1) - 1] + scores[places]) / 2
    edges[0] = scores[0] / 2
    good = value >= value.max() - 1e-12
    best = int(torch.where(good, (edges - 0.5).abs(), torch.inf).argmin())
    threshold = float(edges[best].clamp(1e-6, 1 - 1e-6))
    return threshold if _gains(probability, positive, threshold, criterion, alone) else None


def as_pairs(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Labels that may hold at once as so many rows of two classes: logits (rows * labels, 2) and their targets."""
    flat = logits.reshape(-1)
    return torch.stack([torch.zeros_like(flat), flat], 1), (target.reshape(-1) > 0.5).long()


def _gains(probability: Tensor, positive: Tensor, threshold: float, criterion: Criterion, alone: bool) -> bool:
    """Whether the criterion rises from one half to the threshold by more than twice its deviation over resamples:
    the threshold was chosen on the same rows, which flatters it."""
    half, moved = probability >= 0.5, probability >= threshold
    cells = torch.bincount((positive * 4 + half * 2 + moved).long(), minlength=8).double()
    generator = np.random.default_rng(derive(0, "threshold"))
    drawn = generator.multinomial(int(cells.sum()), (cells / cells.sum()).numpy(), size=_REPLICATES)
    counts = torch.cat([cells[None], torch.from_numpy(drawn).double()]).view(-1, 2, 2, 2)
    # By truth and decision: one half's is summed over the other's, and so the other way round.
    values = [_criterion(counts.sum(axis).flatten(1), criterion, alone) for axis in (3, 2)]
    gain = values[1] - values[0]
    return float(gain[0]) > 2 * float(gain[1:].nan_to_num().std())


def _criterion(counts: Tensor, criterion: Criterion, alone: bool) -> Tensor:
    """Of counts (..., 4): right negatives, false alarms, missed, hits."""
    right, false, missed, hits = counts.unbind(-1)
    if criterion == "accuracy":
        return (right + hits) / counts.sum(-1)
    if criterion == "balanced-accuracy":
        return (hits / (hits + missed) + right / (right + false)) / 2
    own = 2 * hits / (2 * hits + false + missed)
    other = 2 * right / (2 * right + false + missed)
    return own.nan_to_num() if alone else (own.nan_to_num() + other.nan_to_num()) / 2
