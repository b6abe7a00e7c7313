"""The counter-based numbers: what they are a function of, and their statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reinforge.core.seeds import derive
from reinforge.data.augmentation.random import Draws, between

ROWS = np.arange(2_000)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(0, 2**62), min_size=1, max_size=9), seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10_000), count=st.integers(1, 9), data=st.data(),
)  # fmt: skip
def test_numbers_belong_to_their_rows(rows: list[int], seed: int, epoch: int, count: int, data: st.DataObject) -> None:
    names = np.array(rows)
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9)))
    whole, part = Draws(names, seed, epoch), Draws(names[index], seed, epoch)
    for _ in range(2):
        numbers = whole.uniform(count)
        assert ((numbers >= 0) & (numbers < 1)).all()
        np.testing.assert_array_equal(part.uniform(count), numbers[index])
        np.testing.assert_array_equal(part.normal(count), whole.normal(count)[index])
    places = np.arange(len(rows)) % 3
    everything = Draws(names, seed, epoch).uniform(3)[np.arange(len(rows)), places]
    np.testing.assert_array_equal(Draws(names, seed, epoch).uniform_at(np.arange(len(rows)), places), everything)


def word(row: int, seed: int, epoch: int, call: int, place: int) -> int:
    """The same hash in Python's integers, of any length."""

    def splitmix64(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    own = splitmix64((row * golden + derive(seed, epoch)) % 2**64)
    state = splitmix64((own + call * golden) % 2**64)
    x = (state % 2**32 ^ place * 0x9E3779B9 % 2**32) * (state >> 32 | 1) % 2**32
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_words_against_plain_integers() -> None:
    """Also: another hash in a later version would change what a resumed run draws."""
    rows = [0, 1, 12_345, 2**62]
    draws = Draws(np.array(rows), 7, 3)
    for call in (1, 2):
        words = (draws.uniform(5) * 2**32).astype(np.uint64)
        assert words.tolist() == [[word(row, 7, 3, call, place) for place in range(5)] for row in rows]


@pytest.mark.parametrize("shape", [(2_000, 50), (20, 5_000)])
def test_uniform(shape: tuple[int, int]) -> None:
    numbers = Draws(np.arange(shape[0]), 0, 0).uniform(shape[1])
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    bits = (numbers * 2**32).astype(np.uint64)
    ones = [float(((bits >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(32)]
    assert np.allclose(ones, 0.5, atol=5 * 0.5 / np.sqrt(numbers.size))


def test_normal() -> None:
    numbers = Draws(ROWS, 0, 0).normal(101).astype(np.float64)
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 1e-3
    assert abs(numbers).max() < 4.8


def test_rows_places_calls_epochs_and_seeds_are_unrelated() -> None:
    draws = Draws(ROWS, 0, 0)
    first, second = draws.uniform(40), draws.uniform(40)
    others = [second, Draws(ROWS, 0, 1).uniform(40), Draws(ROWS, 1, 0).uniform(40), Draws(ROWS + 1, 9, 0).uniform(40)]
    bound = 5 / np.sqrt(first.size)
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < bound
    for lag in (1, 2, 8):
        assert abs(np.corrcoef(first[lag:].ravel(), first[:-lag].ravel())[0, 1]) < bound
        assert abs(np.corrcoef(first[:, lag:].ravel(), first[:, :-lag].ravel())[0, 1]) < bound
    normal = Draws(ROWS, 0, 0).normal(40)
    assert abs(np.corrcoef(normal[:, :20].ravel(), normal[:, 20:].ravel())[0, 1]) < 5 / np.sqrt(normal.size / 2)
    assert abs(np.corrcoef(normal[:, :20].ravel() ** 2, normal[:, 20:].ravel() ** 2)[0, 1]) < 5 / np.sqrt(20 * 2_000)


def test_between() -> None:
    np.testing.assert_allclose(between(np.array([0.0, 0.5]), -2, 4), [-2, 1])
