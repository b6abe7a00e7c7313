"""Metrics against scikit-learn and torchmetrics, with weights and without."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multilabel_auroc,
    multilabel_average_precision,
)

from reinforge.evaluation.metrics.category import bin_of
from reinforge.evaluation.metrics.metric import Weighted, metrics_for
from reinforge.evaluation.metrics.ranking import Ranking, precision_recall_curve, roc_curve
from reinforge.evaluation.options import QuantileLossOptions
from reinforge.registry import REGISTRY

W = Any  # weights of rows, or None


def softmax(logits: Any) -> Any:
    return torch.from_numpy(logits).double().softmax(1).numpy()


def rest(measure: Callable[..., float], y: Any, z: Any, w: W) -> float:
    """One class against the rest, averaged where both occur."""
    p, found = softmax(z), []
    if z.shape[1] == 2:
        return measure(y, z[:, 1].astype(float) - z[:, 0], sample_weight=w)
    for code in range(z.shape[1]):
        positive = y == code
        counted = w if w is not None else np.ones(len(y))
        if 0 < counted[positive].sum() < counted.sum():
            found.append(measure(positive, p[:, code], sample_weight=w))
    return float(np.mean(found)) if found else math.nan


def brier(y: Any, z: Any, w: W) -> float:
    squares = ((softmax(z) - np.eye(z.shape[1])[y]) ** 2).sum(1)
    return float(np.average(squares, weights=w)) / (2 if z.shape[1] == 2 else 1)


CATEGORY: dict[str, Callable[[Any, Any, W], float]] = {
    "accuracy": lambda y, z, w: oracle.accuracy_score(y, z.argmax(1), sample_weight=w),
    "balanced-accuracy": lambda y, z, w: oracle.balanced_accuracy_score(y, z.argmax(1), sample_weight=w),
    "precision": lambda y, z, w: oracle.precision_score(
        y, z.argmax(1), average="macro", sample_weight=w, zero_division=0
    ),
    "recall": lambda y, z, w: oracle.recall_score(y, z.argmax(1), average="macro", sample_weight=w, zero_division=0),
    "f1": lambda y, z, w: oracle.f1_score(y, z.argmax(1), average="macro", sample_weight=w, zero_division=0),
    "matthews": lambda y, z, w: oracle.matthews_corrcoef(y, z.argmax(1), sample_weight=w),
    "roc-auc": lambda y, z, w: rest(oracle.roc_auc_score, y, z, w),
    "average-precision": lambda y, z, w: rest(oracle.average_precision_score, y, z, w),
    "log-loss": lambda y, z, w: oracle.log_loss(y, softmax(z), labels=range(z.shape[1]), sample_weight=w),
    "brier": brier,
}
NUMBER: dict[str, Callable[[Any, Any, W], float]] = {
    "r2": lambda y, z, w: oracle.r2_score(y, z, sample_weight=w),
    # scikit-learn averages the roots of the columns; ours is the root of the mean over all values.
    "rmse": lambda y, z, w: math.sqrt(oracle.mean_squared_error(y, z, sample_weight=w)),
    "mae": lambda y, z, w: oracle.mean_absolute_error(y, z, sample_weight=w),
    "mape": lambda y, z, w: oracle.mean_absolute_percentage_error(y, z, sample_weight=w),
}


def compare(metric: Any, output: Any, target: Any, expected: Callable[[Any, Any, W], float], seed: int) -> None:
    """Every row once, and three weightings at once, as a bootstrap has them."""
    g = np.random.default_rng(seed)
    weights = g.integers(0, 3, (3, len(target))).astype(float)
    weights[:, 0] += 1  # some row counts
    tensors = torch.from_numpy(output), torch.from_numpy(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, for classes that don't occur
        assert metric(*tensors) == pytest.approx(expected(target, output, None), rel=1e-6, abs=1e-9, nan_ok=True)
        found = metric.measure(*tensors, torch.from_numpy(weights))
        for value, w in zip(found.tolist(), weights):
            # A row of weight 0 is not there: scikit-learn would count its class all the same.
            there = w > 0
            wanted = expected(target[there], output[there], w[there])
            assert value == pytest.approx(wanted, rel=1e-6, abs=1e-9, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(1, 5), st.booleans(), st.integers(0, 10**6))
def test_categories(rows: int, classes: int, occurring: int, ties: bool, seed: int) -> None:
    """Also where classes occur among targets alone, among decisions alone, or nowhere, and where scores are equal."""
    g = np.random.default_rng(seed)
    target = g.integers(0, min(occurring, classes), rows)
    logits = g.normal(size=(rows, classes))
    logits = np.round(logits) + np.arange(classes) / 16 if ties else logits
    for name, metric in metrics_for("category").items():
        if name in CATEGORY:
            if name in ("roc-auc", "average-precision") and len(set(target)) < 2:
                continue  # scikit-learn gives what is not defined
            compare(metric, logits, target, defined(name, CATEGORY[name]), seed)


def defined(name: str, expected: Callable[[Any, Any, W], float]) -> Callable[[Any, Any, W], float]:
    """A ranking of one class alone measures nothing; average precision of negatives alone neither."""

    def measured(y: Any, z: Any, w: W) -> float:
        alone = name in ("roc-auc", "average-precision") and len(set(y.tolist())) < 2
        if alone and z.shape[1] == 2 and name == "average-precision":
            return 1.0 if y[0] == 1 else math.nan
        return math.nan if alone else expected(y, z, w)

    return measured


@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_error_is_torchmetrics(classes: int) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(500, classes, generator=g, dtype=torch.float64) * 2
    target = torch.randint(0, classes, (500,), generator=g)
    expected = multiclass_calibration_error(logits.softmax(1), target, classes, n_bins=15)
    assert metrics_for("category")["calibration-error"](logits, target) == pytest.approx(float(expected), rel=1e-5)
    # What a bin holds is closed to the right: 0.2 belongs to the first of five.
    assert bin_of(torch.tensor([0.0, 0.2, 0.2000001, 1.0]), 5).tolist() == [0, 0, 1, 4]
    assert binary_calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([1, 0]), n_bins=10) == pytest.approx(0.4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 10**6))
def test_numbers(rows: int, size: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    target = g.normal(1000, 3, size=(rows, size))
    output = target + g.normal(size=(rows, size))
    for name, metric in metrics_for("number").items():
        expected = NUMBER[name]
        if name == "r2":
            compare(metric, output, target, lambda y, z, w: r2(y, z, w), seed)
        else:
            compare(metric, output, target, expected, seed)


def r2(y: Any, z: Any, w: W) -> float:
    return math.nan if len(y) < 2 else NUMBER["r2"](y, z, w)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_loss(quantile: float) -> None:
    g = np.random.default_rng(0)
    output, target = g.normal(size=(2, 40, 1))
    found = metrics_for("number", [QuantileLossOptions(quantile=quantile)])["quantile-loss"]
    compare(found, output, target, lambda y, z, w: oracle.mean_pinball_loss(y, z, alpha=quantile, sample_weight=w), 0)


def test_a_share_of_nothing_is_no_number() -> None:
    mape = metrics_for("number")["mape"]
    assert math.isnan(mape(torch.ones(3, 1), torch.tensor([[1.0], [0.0], [2.0]])))


def test_one_row_has_no_r2() -> None:
    assert math.isnan(metrics_for("number")["r2"](torch.ones(1, 1), torch.ones(1)))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 10**6))
def test_labels(rows: int, size: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    target = (g.random((rows, size)) < 0.4).astype(np.float32)
    logits = g.normal(size=(rows, size))
    decided = logits > 0
    truth = target.astype(bool)
    found = {name: m(torch.from_numpy(logits), torch.from_numpy(target)) for name, m in metrics_for("labels").items()}
    occurs = (truth | decided).any(0)
    p = 1 / (1 + np.exp(-logits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = [oracle.f1_score(truth[:, i], decided[:, i], zero_division=0) for i in range(size)]
        expected = {
            "subset-accuracy": (truth == decided).all(1).mean(),
            "hamming-loss": oracle.hamming_loss(truth, decided) if size > 1 else (truth != decided).mean(),
            "labels-f1": np.mean(np.array(each)[occurs]) if occurs.any() else math.nan,
            "labels-micro-f1": oracle.f1_score(truth.reshape(-1), decided.reshape(-1), zero_division=0),
            "labels-log-loss": oracle.log_loss(truth.reshape(-1), p.reshape(-1), labels=[False, True]),
        }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-6, nan_ok=True), name
    both = truth.any(0) & ~truth.all(0)
    if both.all():
        z, y = torch.from_numpy(logits), torch.from_numpy(target).long()
        pad = size == 1  # torchmetrics wants two labels
        z, y = (torch.cat([z, z], 1), torch.cat([y, y], 1)) if pad else (z, y)
        expected_auc = float(multilabel_auroc(z, y, z.shape[1], average="macro"))
        assert found["labels-roc-auc"] == pytest.approx(expected_auc, rel=1e-5)
        expected_ap = float(multilabel_average_precision(z, y, z.shape[1], average="macro"))
        assert found["labels-average-precision"] == pytest.approx(expected_ap, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 10**6))
def test_ordinal(rows: int, classes: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    target, output = g.integers(0, classes, (2, rows))
    expected: dict[str, Callable[[Any, Any, W], float]] = {
        "rank-accuracy": lambda y, z, w: oracle.accuracy_score(y, z, sample_weight=w),
        "rank-mae": lambda y, z, w: oracle.mean_absolute_error(y, z, sample_weight=w),
        "quadratic-kappa": kappa,
    }
    found = metrics_for("ordinal")
    assert set(found) == set(expected)
    for name, metric in found.items():
        compare(metric, output, target, expected[name], seed)


def test_a_decision_beyond_all_targets_counts_in_full() -> None:
    target, output = np.array([0, 1, 1, 2]), np.array([0, 1, 3, 2])
    compare(metrics_for("ordinal")["quadratic-kappa"], output, target, kappa, 0)


def kappa(y: Any, z: Any, w: W) -> float:
    # scikit-learn divides by zero where all are one class.
    if len(set(y.tolist()) | set(z.tolist())) == 1:
        return 0.0
    labels = range(max(y.max(), z.max()) + 1)
    return oracle.cohen_kappa_score(y, z, weights="quadratic", sample_weight=w, labels=list(labels))


def test_counts() -> None:
    g = np.random.default_rng(0)
    target = g.poisson(2.0, (60, 1)).astype(float)
    rate = g.gamma(2.0, size=(60, 1))
    found = metrics_for("count")
    assert set(found) == {"poisson-deviance", "count-mae"}
    compare(
        found["poisson-deviance"], rate, target,
        lambda y, z, w: oracle.mean_poisson_deviance(y[:, 0], z[:, 0], sample_weight=w), 0,
    )  # fmt: skip
    compare(found["count-mae"], rate, target, NUMBER["mae"], 0)


def test_spans() -> None:
    """By counting tokens as sets, and as multi-label F1 per row."""
    g = np.random.default_rng(0)
    first, length = g.integers(0, 10, (2, 50)), g.integers(0, 6, (2, 50))
    true, said = (np.stack([first[i], first[i] + length[i]], 1) for i in range(2))
    grid = np.arange(20)
    inside = [(grid >= s[:, :1]) & (grid <= s[:, 1:]) for s in (true, said)]
    found = {k: m(torch.from_numpy(said), torch.from_numpy(true)) for k, m in metrics_for("span").items()}
    assert found["exact-match"] == pytest.approx((true == said).all(1).mean())
    assert found["token-f1"] == pytest.approx(oracle.f1_score(*inside, average="samples", zero_division=0))


def test_curves_are_scikit_learns() -> None:
    g = np.random.default_rng(0)
    scores, positive = np.round(g.normal(size=200), 1), g.random(200) < 0.3
    ranking = Ranking.of(torch.from_numpy(scores), torch.from_numpy(positive))
    false, true, _ = oracle.roc_curve(positive, scores, drop_intermediate=False)
    assert [x.tolist() for x in roc_curve(ranking)] == [pytest.approx(false.tolist()), pytest.approx(true.tolist())]
    precision, recall, _ = oracle.precision_recall_curve(positive, scores)
    found = precision_recall_curve(ranking)
    assert found[0].tolist() == pytest.approx(recall[:-1][::-1].tolist())
    assert found[1].tolist() == pytest.approx(precision[:-1][::-1].tolist())


def test_each_form_has_metrics_and_each_built_in_one_knows_weights() -> None:
    for form in ("category", "labels", "ordinal", "number", "count", "span"):
        found = metrics_for(form)
        assert found
        assert all(isinstance(metric, Weighted) for metric in found.values())
    assert set(metrics_for("category")) == {*CATEGORY, "calibration-error"}
    assert set(metrics_for("number")) == set(NUMBER)
    assert metrics_for("tokens") == {}


def test_every_metric_has_its_oracle_here() -> None:
    """A metric that is registered and not named in this file would be measured by nobody else."""
    named = Path(__file__).read_text()
    assert [c.name for c in REGISTRY.all("metric") if f'"{c.name}"' not in named] == []
