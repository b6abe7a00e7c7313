"""Evaluation for a while."""

import pytest
from torch import nn

from reinforge.core.modes import evaluating


def test_each_part_is_as_it_was() -> None:
    """What is frozen within a model that trains stays in evaluation, as nn.Module.train would not leave it."""
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)), nn.Linear(2, 2))
    model.train()
    model[1].eval()
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model] == [True, False, True]
    assert not model[1][0].training
    with pytest.raises(ValueError, match="inside"), evaluating(model):
        raise ValueError("inside")
    assert [part.training for part in model] == [True, False, True]
