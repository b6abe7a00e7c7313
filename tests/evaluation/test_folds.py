"""Cross-validation's figures against scipy."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy.stats import t

from reinforge.evaluation.folds import spread, student


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_student_is_scipys(freedom: int, level: float) -> None:
    assert student(level, freedom) == pytest.approx(t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_the_interval_allows_for_rows_that_folds_share() -> None:
    values = [0.91, 0.93, 0.90, 0.95, 0.92]
    found = spread([{"a": value} for value in values])["a"]
    half = t.ppf(0.975, 4) * statistics.stdev(values) * math.sqrt(1 / 5 + 1 / 4)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.deviation == pytest.approx(statistics.stdev(values))


def test_what_a_fold_does_not_define_is_left_out() -> None:
    found = spread([{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 3.0}])
    assert found["a"].mean == 2.0
    assert found["a"].values == (1.0, None, 3.0)
    assert set(found) == {"a"}
    alone = spread([{"a": 1.0}])["a"]
    assert (alone.deviation, alone.low) == (None, None)


def test_no_interval_goes_beyond_what_a_metric_can_be() -> None:
    found = spread([{"test/accuracy": 0.99, "test/log-loss": 0.01}, {"test/accuracy": 0.90, "test/log-loss": 0.3}])
    assert found["test/accuracy"].high == 1.0
    assert found["test/accuracy"].low is not None
    assert found["test/accuracy"].low < 0.9
    assert found["test/log-loss"].low == 0.0
