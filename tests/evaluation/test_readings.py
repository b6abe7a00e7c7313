"""Temperature and threshold: by brute force, and what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from reinforge.evaluation.readings import Criterion, fit_reading, fit_temperature, fit_threshold
from reinforge.evaluation.supervised import Judged


def judged(output: Tensor, target: Tensor) -> Judged:
    return Judged(output, target, torch.arange(len(target)))


def overconfident(rows: int, classes: int, factor: float) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=g, dtype=torch.float64) * 2
    target = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    return logits * factor, target


@pytest.mark.parametrize("factor", [0.3, 1.8, 5.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_is_scipys(factor: float, classes: int) -> None:
    logits, target = overconfident(4000, classes, factor)
    stated = minimize_scalar(
        lambda t: float(cross_entropy(logits / t, target)), bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6}
    ).x
    assert fit_temperature(logits, target) == pytest.approx(stated, rel=1e-3)
    assert stated == pytest.approx(factor, rel=0.1)


def test_what_is_calibrated_stays() -> None:
    logits, target = overconfident(300, 3, 1.0)
    assert fit_temperature(logits, target) == 1.0


def test_rows_that_are_all_right_do_not_ask_for_certainty() -> None:
    target = torch.arange(40) % 2
    logits = torch.stack([1.0 - target, target], 1).double() * 6
    assert fit_temperature(logits, target) > 0.2


def scored(criterion: str, y: np.ndarray, decided: np.ndarray) -> float:
    if criterion == "f1":
        return f1_score(y, decided, average="macro")
    return (accuracy_score if criterion == "accuracy" else balanced_accuracy_score)(y, decided)


@pytest.mark.parametrize("criterion", ["f1", "balanced-accuracy", "accuracy"])
def test_no_other_threshold_is_better(criterion: Criterion) -> None:
    g = np.random.default_rng(0)
    y = g.random(800) < 0.15
    p = np.round(1 / (1 + np.exp(-(g.normal(size=800) + 2 * y + 1))), 3)  # far too sure of the positive class
    threshold = fit_threshold(torch.from_numpy(p), torch.from_numpy(y), criterion)
    assert threshold is not None
    best = max(scored(criterion, y, p >= t) for t in np.unique(p))
    assert scored(criterion, y, p >= threshold) == pytest.approx(best)
    assert threshold not in p, "a score on the threshold would hang on rounding"


def test_noise_moves_no_threshold() -> None:
    g = np.random.default_rng(0)
    moved = 0
    for _ in range(40):
        p = g.random(60)
        y = g.random(60) < p
        moved += fit_threshold(torch.from_numpy(p), torch.from_numpy(y), "f1") is not None
    assert moved < 20


def test_one_class_alone_tells_nothing() -> None:
    p = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert fit_threshold(p, torch.ones(50, dtype=torch.bool), "f1") is None


def test_each_label_has_its_threshold() -> None:
    g = torch.Generator().manual_seed(0)
    target = (torch.rand(600, 2, generator=g) < 0.2).float()
    logits = torch.randn(600, 2, generator=g) + 3 * target + torch.tensor([1.0, -1.5])
    reading = fit_reading(judged(logits, target), "labels", calibrate=False)
    assert reading.thresholds is not None
    p = logits.sigmoid().numpy()
    for i, threshold in enumerate(reading.thresholds):
        y = target[:, i].numpy()
        best = max(f1_score(y, p[:, i] >= t) for t in np.unique(p[:, i]))
        assert f1_score(y, p[:, i] >= threshold) in (pytest.approx(best), pytest.approx(f1_score(y, p[:, i] >= 0.5)))
    assert reading.thresholds[0] > 0.6


def test_what_has_no_threshold_or_too_few_rows() -> None:
    logits, target = overconfident(2000, 3, 3.0)
    reading = fit_reading(judged(logits, target), "category")
    assert reading.threshold is None
    assert reading.temperature > 2
    assert fit_reading(judged(logits[:10], target[:10]), "category").temperature == 1.0
    assert fit_reading(judged(torch.randn(50, 1), torch.randn(50, 1)), "number").temperature == 1.0
    assert fit_reading(judged(logits, target), "category", calibrate=False).temperature == 1.0
