"""Several seeds together, against scipy, brute force and every resample there is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from reinforge.evaluation.seeds import aligned, interquartile_mean, stratified, together


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_interquartile_mean_is_scipys_trimmed_one(values: list[float]) -> None:
    assert float(interquartile_mean(np.array(values))) == pytest.approx(trim_mean(values, 0.25), rel=1e-9, abs=1e-6)


def test_it_works_along_the_last_axis() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 9))
    np.testing.assert_allclose(interquartile_mean(values), trim_mean(values, 0.25, axis=-1))


def test_the_interval_is_that_of_all_resamples() -> None:
    """Four runs of one task have 256 resamples: the bootstrap's quantiles are those of their full list."""
    scores = np.array([1.0, 2.0, 4.0, 9.0])
    every = [trim_mean(scores[list(drawn)], 0.25) for drawn in itertools.product(range(4), repeat=4)]
    low, high = stratified(scores[:, None], replicates=100_000)
    assert (low, high) == pytest.approx(np.quantile(every, [0.025, 0.975], method="inverted_cdf"), abs=0.26)
    assert low < trim_mean(scores, 0.25) < high


def test_runs_are_drawn_within_each_task() -> None:
    """A task whose runs agree adds nothing to the spread, however far its scores lie from the others'."""
    generator = np.random.default_rng(3)
    scores = np.stack([np.full(8, 1000.0), generator.normal(size=8)], 1)

    def replicate() -> Any:
        drawn = [scores[generator.integers(8, size=8), task] for task in range(2)]
        return trim_mean(np.concatenate(drawn), 0.25)

    plain = np.quantile([replicate() for _ in range(4000)], [0.025, 0.975])
    assert stratified(scores).tolist() == pytest.approx(plain.tolist(), abs=0.1)


def test_points_of_a_curve_share_their_draws() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 3))
    bands = stratified(np.stack([scores, scores + 7]))
    np.testing.assert_allclose(bands[:, 1], bands[:, 0] + 7)
    np.testing.assert_allclose(stratified(scores), bands[:, 0])


def test_metrics_over_seeds() -> None:
    found = together([{"a": 1.0, "b": None}, {"a": 2.0, "b": None}, {"a": 9.0}, {"a": 3.0}, {"a": float("nan")}])
    assert set(found) == {"a"}
    assert found["a"].iqm == trim_mean([1, 2, 9, 3], 0.25) == 2.5
    assert found["a"].mean == 3.75
    assert found["a"].deviation == pytest.approx(np.std([1, 2, 9, 3], ddof=1))
    assert found["a"].low is not None and found["a"].high is not None  # noqa: PT018
    assert 1 <= found["a"].low < found["a"].iqm < found["a"].high <= 9
    alone = together([{"a": 4.0}])["a"]
    assert (alone.iqm, alone.mean, alone.low, alone.high, alone.deviation) == (4.0, 4.0, None, None, None)


def test_curves_are_held_after_their_end_and_begin_where_all_have() -> None:
    places, values = aligned([[(10, 1.0), (20, 2.0), (30, 3.0)], [(5, 7.0), (15, 8.0), (18, float("nan"))]])
    assert places.tolist() == [10, 15, 20, 30]
    assert values.tolist() == [[1, 1.5, 2, 3], [7.5, 8, 8, 8]]
    long = [(float(x), float(x)) for x in range(1000)]
    places, values = aligned([long, long], most=50)
    assert len(places) == 50
    assert (places[0], places[-1]) == (0, 999)
    np.testing.assert_array_equal(values[0], places)
    assert aligned([[(1, float("nan"))]])[0].size == 0
