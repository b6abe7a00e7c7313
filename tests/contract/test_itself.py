"""The contract tests fail for components that break the contract, and say how to get a new one tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from reinforge.models.encoders import Flatten
from reinforge.models.losses import MeanSquaredError
from reinforge.models.options import FlattenOptions, MeanSquaredErrorOptions
from reinforge.registry import REGISTRY, Component, Options
from reinforge.sources.loader import LoaderSource
from tests.contract import test_networks, test_options, test_training
from tests.contract.examples import components


class BrokenOptions(Options):
    """A component that breaks its contract."""

    kind: Literal["broken"] = "broken"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Component]:
    """Registers a component for one test."""
    list(REGISTRY.kinds())

    def add(kind: str, target: Any) -> Component:
        component = Component(kind, "broken", BrokenOptions, target)
        monkeypatch.setitem(REGISTRY._components, (kind, "broken"), component)
        return component

    return add


class CentredLoss(MeanSquaredError):
    """Its rows depend on one another."""

    def __init__(self, options: Options) -> None:
        super().__init__(MeanSquaredErrorOptions())

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return super().__call__(output - output.mean(), target)


class RandomEncoder(Flatten):
    """Gives something else each time."""

    def __init__(self, options: Options, block: Any) -> None:
        super().__init__(FlattenOptions(), block)

    def forward(self, block: Tensor) -> Tensor:
        return super().forward(block) + torch.rand(1)


class DeadBody(nn.Module):
    """Has a weight that nothing uses."""

    def __init__(self, options: Options, features: int) -> None:
        super().__init__()
        self.features = features
        self.used, self.unused = nn.Linear(features, features), nn.Linear(features, features)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.used(x), None

    def initial_state(self, n: int) -> None:
        return None


def test_a_new_component_is_tried(broken: Callable[[str, Any], Component]) -> None:
    added = broken("loss", CentredLoss)
    assert added in [parameter.values[0] for parameter in components("loss")]  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="depends on another row"):
        test_networks.test_loss(added)


def test_chance_and_dead_weights_are_found(broken: Callable[[str, Any], Component]) -> None:
    with pytest.raises(AssertionError):
        test_networks.test_encoder(broken("encoder", RandomEncoder))
    with pytest.raises(AssertionError, match=r"no gradient reaches \['unused"):
        test_networks.test_body(broken("body", DeadBody))


def test_what_has_no_example_says_how_to_add_one(broken: Callable[[str, Any], Component]) -> None:
    with pytest.raises(pytest.fail.Exception, match="add one to MODELS"):
        test_networks.test_model(broken("model", DeadBody))
    with pytest.raises(pytest.fail.Exception, match="add one to SLICES"):
        test_training.test_objective(broken("objective", DeadBody))
    broken("soup", DeadBody)
    with pytest.raises(AssertionError, match=r"no contract test for .'soup'"):
        test_options.test_every_kind_is_tested()


def test_a_source_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoaderSource, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError):
        test_training.test_source_goes_on_where_its_state_was_taken(REGISTRY.find("source", "loader"))
