"""Programs of torch.export: what is read back gives what the bundle gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reinforge.errors import RecipeError
from reinforge.export.export import export
from reinforge.export.graph import Graph
from tests.bundle import made
from tests.export import everything


def test_a_table(tmp_path: Path) -> None:
    bundle = made.table_bundle(tmp_path / "bundle")
    told = export(tmp_path / "bundle", "torch-export", tmp_path / "out")
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told.measured["parity"] == described["parity"]["worst"] < 1e-5
    module = torch.export.load(tmp_path / "out" / "model.pt2").module()
    graph = Graph(bundle)
    numbers = torch.tensor([[float("nan"), 3000.0]] * 17, dtype=torch.float64)
    given = (numbers, torch.full((17, 1), 2))
    for found, expected in zip(module(*given), graph(*given), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_everything_that_a_table_may_hold(tmp_path: Path) -> None:
    everything.table(tmp_path / "bundle")
    assert export(tmp_path / "bundle", "torch-export", tmp_path / "out").measured["parity"] < 1e-4


def test_an_unknown_target(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no target"):
        export(tmp_path, "tape", tmp_path / "out")
