"""Bootstrap intervals: scikit-learn resampled by hand, scipy's bootstrap, coverage, and the same seed."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from reinforge.evaluation.intervals import LEVEL, MOST_ROWS, difference, interval
from reinforge.evaluation.metrics.metric import metrics_for


def data(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 2, generator=g)
    return logits, (torch.rand(rows, generator=g) < logits.softmax(1)[:, 1]).long()


def test_means_are_scipys() -> None:
    g = np.random.default_rng(0)
    output, target = g.normal(size=(2, 80, 1))
    errors = np.abs(output - target)[:, 0]
    found = interval(metrics_for("number")["mae"], torch.from_numpy(output), torch.from_numpy(target), replicates=8000)
    stated = bootstrap((errors,), np.mean, n_resamples=8000, method="percentile", rng=1).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((stated.low, stated.high), abs=0.01)


@pytest.mark.parametrize("name", ["f1", "roc-auc"])
def test_confusions_and_rankings_are_as_resampled_by_hand(name: str) -> None:
    logits, target = data(150)
    found = interval(metrics_for("category")[name], logits, target, replicates=6000)
    z, y, g = logits.numpy(), target.numpy(), np.random.default_rng(1)
    values = []
    for _ in range(1500):
        rows = g.integers(150, size=150)
        score = z[rows, 1] - z[rows, 0]
        values.append(
            roc_auc_score(y[rows], score) if name == "roc-auc" else f1_score(y[rows], score > 0, average="macro")
        )
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.012)


@pytest.mark.parametrize("name", ["log-loss", "roc-auc", "accuracy"])
def test_many_rows_cost_no_more_and_their_interval_shrinks_as_it_should(name: str) -> None:
    metric = metrics_for("category")[name]
    few, many = (interval(metric, *data(rows), replicates=400) for rows in (MOST_ROWS, 16 * MOST_ROWS))
    assert few is not None
    assert many is not None
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.25)
    assert many.low < metric(*data(16 * MOST_ROWS)) < many.high


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    """Accuracy of a coin: 0.5. 200 data sets of 100 rows; a binomial of 0.95 leaves 0.90 to 0.99."""
    metric, held = metrics_for("category")["accuracy"], 0
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        logits, target = torch.randn(100, 2, generator=g), torch.randint(0, 2, (100,), generator=g)
        found = interval(metric, logits, target, replicates=300, seed=seed)
        held += found is not None and found.low <= 0.5 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    metric = metrics_for("category")["brier"]
    assert interval(metric, *data(50), seed=3) == interval(metric, *data(50), seed=3)
    assert interval(metric, *data(50), seed=3) != interval(metric, *data(50), seed=4)


def test_calibration_error_lies_in_its_interval() -> None:
    metric = metrics_for("category")["calibration-error"]
    for rows in (50, 500):
        found = interval(metric, *data(rows))
        assert found is not None
        assert 0 <= found.low <= metric(*data(rows)) <= found.high
        # Resampling lifts it, so the interval reaches further down than up.
        assert found.low + found.high < 2 * metric(*data(rows))


class Plain:
    """A user's metric, which knows no weights."""

    form: ClassVar[str] = "number"

    def __call__(self, output: Tensor, target: Tensor) -> float:
        return float((output - target).abs().median())


def test_a_metric_without_weights_has_an_interval_too() -> None:
    output, target = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(0))
    found = interval(Plain(), output, target)
    assert found is not None
    assert found.low < Plain()(output, target) < found.high


def rivals(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two models that are right and wrong on mostly the same rows, the first a little better."""
    logits, target = data(rows)
    noise = torch.randn(rows, 2, generator=torch.Generator().manual_seed(7))
    return logits, logits + 0.3 * noise, target


def test_a_difference_is_scipys_of_pairs() -> None:
    first, second, target = rivals(150)
    gap = torch.nn.functional.cross_entropy
    pairs = gap(first.double(), target, reduction="none") - gap(second.double(), target, reduction="none")
    found = difference(metrics_for("category")["log-loss"], first, second, target, replicates=8000)
    stated = bootstrap((pairs.numpy(),), np.mean, n_resamples=8000, method="percentile", rng=1).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((stated.low, stated.high), abs=0.003)


@pytest.mark.parametrize("name", ["log-loss", "roc-auc", "accuracy"])
def test_what_is_hard_for_both_cancels(name: str) -> None:
    metric, (first, second, target) = metrics_for("category")[name], rivals(400)
    same = difference(metric, first, first, target)
    assert same is not None
    assert (same.low, same.high) == (0.0, 0.0)
    gap, alone = difference(metric, first, second, target), interval(metric, first, target)
    assert gap is not None
    assert alone is not None
    assert gap.high - gap.low < 0.8 * (alone.high - alone.low)
    assert gap == difference(metric, first, second, target)
    assert gap != difference(metric, first, second, target, seed=1)


@pytest.mark.parametrize("apart", [1, 4, 5, 6, 8])
@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_so_few_rows_that_differ_prove_nothing(name: str, apart: int) -> None:
    """All of them for the first model: it is better beyond doubt where a sign test says so, and never before."""
    target = torch.arange(60) % 2
    right = torch.nn.functional.one_hot(target, 2).double()
    second = right.clone()
    second[10 : 10 + apart] = 1 - second[10 : 10 + apart]
    gap = difference(metrics_for("category")[name], right, second, target)
    assert gap is not None
    assert (gap.low > 0) == (binomtest(apart, apart).pvalue < 1 - LEVEL)
    back = difference(metrics_for("category")[name], second, right, target)
    assert back is not None
    assert (back.high < 0) == (gap.low > 0)


def test_of_many_rows_a_difference_shrinks_too() -> None:
    metric = metrics_for("category")["log-loss"]
    few, many = (difference(metric, *rivals(rows)) for rows in (MOST_ROWS, 16 * MOST_ROWS))
    assert few is not None
    assert many is not None
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.25)
    first, second, target = rivals(16 * MOST_ROWS)
    assert many.low < metric(first, target) - metric(second, target) < many.high


def test_too_little_has_none() -> None:
    logits, target = data(50)
    assert interval(metrics_for("category")["accuracy"], logits[:1], target[:1]) is None
    assert interval(metrics_for("category")["roc-auc"], logits, torch.zeros(50, dtype=torch.int64)) is None
