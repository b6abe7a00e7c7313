"""Every slice learns the same whether its steps are compiled or not."""

from __future__ import annotations

import pytest

from reinforge.engine.options import SGDOptions
from tests.slices.catalogue import SLICES


@pytest.mark.slow
@pytest.mark.parametrize("name", SLICES)
def test_compiled_equals_eager(name: str) -> None:
    eager = SLICES[name].engine(learn={"optimizer": SGDOptions(), "compile": "off"}, updates=8)
    compiled = SLICES[name].engine(learn={"optimizer": SGDOptions(), "compile": "on"}, updates=8)
    start = [step.arena.masters.clone() for step in eager.updater.steps]
    eager.run()
    compiled.run()
    for one, other, before in zip(eager.updater.steps, compiled.updater.steps, start):
        assert other.gradients is not None
        moved = (one.arena.masters - before).norm()
        assert moved > 0
        assert (one.arena.masters - other.arena.masters).norm() <= 1e-4 * moved
