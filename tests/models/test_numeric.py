"""Embeddings of numbers against brute force, and of categories by the size rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reinforge.errors import ComponentError
from reinforge.models.encoders import Embedding, vector_length
from reinforge.models.numeric import EachColumn, Periodic, Piecewise
from reinforge.models.options import EmbeddingOptions, PeriodicOptions, PiecewiseOptions
from reinforge.schema.signature import Input

COLUMNS = Input(form="numbers", shape=(3,))


def rows(n: int = 500) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.stack([torch.randn(n, generator=g), torch.rand(n, generator=g) ** 3, torch.arange(n) % 3.0], 1)


def encode(x: float, edges: list[float]) -> list[float]:
    """Equation 1 of arXiv:2203.05556, as it is written."""
    found, last = [], len(edges) - 2
    for t in range(last + 1):
        if x < edges[t] and t > 0:
            found.append(0.0)
        elif x >= edges[t + 1] and t < last:
            found.append(1.0)
        else:
            found.append((x - edges[t]) / (edges[t + 1] - edges[t]))
    return found


def test_piecewise_is_the_papers_encoding() -> None:
    encoder = Piecewise(PiecewiseOptions(bins=5, size=None), COLUMNS)
    encoder.observe(rows())
    found = encoder(torch.tensor([[-4.0, -0.1, 0.0], [0.3, 0.4, 1.0], [5.0, 1.2, 2.0]])).view(3, 3, 5)
    for column in range(2):
        edges = np.quantile(rows()[:, column].double(), np.linspace(0, 1, 6), method="lower").tolist()
        for row, x in enumerate([[-4.0, -0.1], [0.3, 0.4], [5.0, 1.2]]):
            np.testing.assert_allclose(found[row, column], encode(x[column], edges), rtol=1e-4, atol=1e-5)


def test_few_values_have_few_bins() -> None:
    encoder = Piecewise(PiecewiseOptions(bins=6, size=None), COLUMNS)
    encoder.observe(rows())
    third = encoder(rows(3)).view(3, 3, 6)[:, 2]
    assert third.tolist() == [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    encoder.observe(torch.ones(10, 3))
    assert not encoder(torch.randn(4, 3) * 1e6).any(), "a constant column says nothing"


def test_edges_are_normal_until_rows_are_seen_and_are_saved() -> None:
    first, second = (Piecewise(PiecewiseOptions(bins=4), COLUMNS) for _ in range(2))
    slope = first.slope.clone()
    first.observe(rows())
    assert not torch.equal(first.slope, slope)
    second.load_state_dict(first.state_dict())
    x = rows(20)
    assert torch.equal(first(x), second(x))
    assert first(torch.full((1, 3), 1e30)).isfinite().all()


def test_observing_many_rows_takes_some_in_even_steps() -> None:
    x = torch.randn(250_000, 1, generator=torch.Generator().manual_seed(0))
    encoder = Piecewise(PiecewiseOptions(bins=2, size=None), Input(form="numbers", shape=(1,)))
    encoder.observe(x)
    assert float(encoder.lower[0, 1]) == pytest.approx(float(x.median()), abs=0.02)


def test_periodic_by_hand() -> None:
    torch.manual_seed(0)
    encoder = Periodic(PeriodicOptions(frequencies=4, size=5), COLUMNS)
    x = rows(6)
    parts = []
    for column in range(3):
        angle = 2 * math.pi * x[:, column, None] * encoder.frequencies[column]
        layer = torch.cat([angle.sin(), angle.cos()], 1) @ encoder.layer.weight[column] + encoder.layer.bias[column]
        parts.append(layer.clamp(min=0))
    torch.testing.assert_close(encoder(x), torch.cat(parts, 1))


def test_each_column_has_its_own_layer() -> None:
    layer = EachColumn(3, 4, 5)
    x = torch.randn(7, 3, 4)
    other = x.clone()
    other[:, 1] += 1
    changed = (layer(x) != layer(other)).any(2).any(0)
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("encoder", [(Piecewise, PiecewiseOptions()), (Periodic, PeriodicOptions())])
def test_only_columns_are_taken(encoder: tuple) -> None:  # type: ignore[type-arg]
    kind, options = encoder
    for block in (Input(form="categories", sizes=(2,)), Input(form="numbers", shape=(2, 2))):
        with pytest.raises(ComponentError, match="takes columns of numbers"):
            kind(options, block)


def test_vectors_by_the_size_rule() -> None:
    sizes = (2, 1000, 9, 2)
    assert [vector_length(n) for n in sizes] == [round(1.6 * n**0.56) for n in sizes]
    assert vector_length(10**9) == 600
    encoder = Embedding(EmbeddingOptions(size=None), Input(form="categories", sizes=sizes))
    assert encoder.features == sum(map(vector_length, sizes))
    x = torch.tensor([[0, 999, 8, 1], [1, 0, 3, 0]])
    two, nine, many = encoder.tables
    expected = torch.cat([two[x[:, 0]], two[2 + x[:, 3]], nine[x[:, 2]], many[x[:, 1]]], 1)
    assert torch.equal(encoder(x), expected)
