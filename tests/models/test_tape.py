"""Layers with gradients by hand, in buffers that stay."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from reinforge.models.perceptron import Network


def _network(activation: str = "tanh", last_active: bool = False, *sizes: int) -> Network:
    torch.manual_seed(0)
    network = Network(sizes or (3, 40, 5), activation, 1.0, last_active)
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
        parameter.grad = torch.zeros_like(parameter)
    return network


def _by_hand(network: Network, x: Tensor, outer: Tensor) -> list[Tensor]:
    for parameter in network.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    with torch.no_grad():
        outputs, pull = network.trace(x, inward=True)
        outputs = outputs.clone()
        inner = pull(outer.clone())
    assert inner is not None
    return [outputs, inner, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def _by_autograd(network: Network, x: Tensor, outer: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    outputs = network(x)
    return [outputs, *torch.autograd.grad(outputs, [x, *network.parameters()], outer)]


def _same(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("last_active", [False, True])
@pytest.mark.parametrize("sizes", [(3, 5), (3, 40, 5), (40, 33, 6, 1)])
def test_as_autograd(activation: str, last_active: bool, sizes: tuple[int, ...]) -> None:
    """Outputs, the gradient of what goes in, and those of weights; again and again, with any number of rows."""
    network = _network(activation, last_active, *sizes)
    for rows in (7, 1, 7, 64):
        x, outer = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[-1])
        assert _same(_by_hand(network, x, outer), _by_autograd(network, x, outer))


@pytest.mark.parametrize("moved", ["weights", "gradients"])
def test_what_moved_is_found(moved: str) -> None:
    network, x, outer = _network(), torch.randn(7, 3), torch.randn(7, 5)
    _by_hand(network, x, outer)
    for parameter in network.parameters():
        if moved == "weights":
            parameter.data = parameter.data + 1
        else:
            parameter.grad = torch.zeros_like(parameter)
    assert _same(_by_hand(network, x, outer), _by_autograd(network, x, outer))


def test_weights_change_where_they_are() -> None:
    network, x, outer = _network(), torch.randn(7, 3), torch.randn(7, 5)
    before = _by_hand(network, x, outer)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    after = _by_hand(network, x, outer)
    assert _same(after, _by_autograd(network, x, outer))
    assert not _same(after, before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_are_apart(copied: Any) -> None:
    network, x, outer = _network(), torch.randn(7, 3), torch.randn(7, 5)
    _by_hand(network, x, outer)
    other = copied(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
            parameter.grad = torch.zeros_like(parameter)
    assert _same(_by_hand(other, x, outer), _by_autograd(other, x, outer))
    assert _same(_by_hand(network, x, outer), _by_autograd(network, x, outer))


def test_a_pull_that_comes_too_late() -> None:
    """Buffers hold what was traced last: gradients of an earlier trace would be wrong, and are refused."""
    network = _network()
    with torch.no_grad():
        outputs, pull = network.trace(torch.randn(7, 3))
        kept = outputs.clone()
        network.trace(torch.randn(6, 3))[1](torch.randn(6, 5))
        network.trace(torch.randn(7, 3))
        assert torch.equal(outputs, kept)
        with pytest.raises(RuntimeError, match="again"):
            pull(torch.randn(7, 5))


def test_frozen_layers_have_no_gradient() -> None:
    network, x, outer = _network(), torch.randn(7, 3), torch.randn(7, 5)
    next(iter(network.parameters())).grad = None
    with torch.no_grad():
        network.trace(x)[1](outer.clone())
    assert next(iter(network.parameters())).grad is None
    theirs = _by_autograd(network, x, outer)[3:]
    assert _same([p.grad for p in network.parameters() if p.grad is not None], theirs)
