"""The encoder of codes: each code of each channel stands for itself."""

from __future__ import annotations

import pytest
import torch

from reinforge.errors import ComponentError
from reinforge.models.grid import Grid
from reinforge.models.options import GridOptions
from reinforge.schema.signature import Input

BLOCK = Input(form="image", shape=(3, 4, 5))


def _codes(high: int = 6) -> torch.Tensor:
    return torch.randint(0, high, (7, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_codes_as_zeros_and_ones() -> None:
    """By definition: one for the code of the channel, cell by cell; codes beyond the last count as it."""
    grid = Grid(GridOptions(codes=6, width=None, channels=()), BLOCK)
    codes = _codes(9)
    found = grid(codes).view(7, 3, 6, 4, 5)
    assert grid.features == 3 * 6 * 4 * 5
    for code in range(6):
        expected = codes >= 5 if code == 5 else codes == code
        assert torch.equal(found[:, :, code], expected.float())


def test_vectors_are_the_sum_over_channels_of_each_codes_own() -> None:
    """An embedding is a linear layer of the zeros and ones."""
    torch.manual_seed(0)
    grid = Grid(GridOptions(codes=6, width=8, channels=()), BLOCK)
    plain = Grid(GridOptions(codes=6, width=None, channels=()), BLOCK)
    assert grid.table is not None
    ones = plain(_codes()).view(7, 18, 20)
    expected = torch.einsum("nkc,kw->nwc", ones, grid.table.weight)
    assert torch.allclose(grid(_codes()).view(7, 8, 20), expected, atol=1e-6)


def test_convolutions_keep_the_size_and_all_learns() -> None:
    grid = Grid(GridOptions(channels=(8, 4)), BLOCK)
    found = grid(_codes())
    assert found.shape == (7, grid.features) == (7, 4 * 4 * 5)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in grid.parameters())


def test_what_is_no_grid_is_refused() -> None:
    with pytest.raises(ComponentError, match="grid"):
        Grid(GridOptions(), Input(form="box", shape=(4,)))
