"""Layers with gradients by hand, in buffers that stay."""

from __future__ import annotations

import copy
import itertools
import math
import os
import pickle
import platform
import shlex
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.compiled import FLAGS
from reinforge.core.products import faster_products
from reinforge.models import native_tape
from reinforge.models.critics import Critics
from reinforge.models.distributions import squashed_by_numpy, tanh_gaussian_log_prob
from reinforge.models.native_tape import Linear, NativeCritics, NativeTape
from reinforge.models.perception import Perception
from reinforge.models.perceptron import Network
from reinforge.models.policy_options import SquashedGaussianOptions
from reinforge.models.tape import Tape
from reinforge.schema.signature import Input, Output, Signature
from tests.threads import one_thread


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """By compiled functions, which are for one thread, and by torch."""
    with one_thread():
        if request.param == "torch":
            monkeypatch.setattr(native_tape, "_built", lambda: (None, None))
        elif native_tape._built()[0] is None:
            pytest.skip("no compiler")
        yield request.param


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
@pytest.mark.parametrize("sizes", [(3, 5), (3, 40, 5), (40, 33, 6, 1), (3, 130, 5)])
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


SIZES = [(3, 1), (23, 256, 256, 1), (5, 37, 18, 1), (300, 290, 20), (1, 16, 1), (16, 32, 64, 16)]


def _layers(sizes: tuple[int, ...], turned: bool) -> tuple[list[Linear], list[Tensor]]:
    """Layers whose weights lie as (i, o) or as nn.Linear has them, gradients too, which begin with ones."""
    layers, parameters = [], []
    for i, o in itertools.pairwise(sizes):
        weight, into = torch.randn(i, o) / i**0.5, torch.ones(i, o)
        if turned:
            weight, into = (each.t().contiguous().t() for each in (weight, into))
        bias, into_bias = torch.randn(o), torch.ones(o)
        layers.append(Linear(weight, bias, into, into_bias))
        parameters += [weight, bias]
    return layers, parameters


def _in_double(x: Tensor, parameters: list[Tensor], activation: str, norm: bool, last_active: bool) -> Tensor:
    pairs = list(zip(parameters[::2], parameters[1::2]))
    for index, (weight, bias) in enumerate(pairs):
        x = x @ weight + bias
        if last_active or index < len(pairs) - 1:
            x = getattr(torch, activation)(functional.layer_norm(x, x.shape[1:]) if norm else x)
    return x


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("last_active", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_as_formulas(sizes: tuple[int, ...], turned: bool, norm: bool, last_active: bool, activation: str) -> None:
    """Any shapes, normalised or not, and for the rows alone that have a gradient; against double precision."""
    torch.manual_seed(0)
    # A norm of two numbers makes much of a rounding.
    sizes = (*sizes, 16) if last_active else sizes
    layers, parameters = _layers(sizes, turned)
    functions = native_tape._built()[0]
    for rows in (1, 13, 256, 300):
        tape: Tape | NativeTape = Tape(layers, parameters, rows, activation, last_active, norm)
        if functions is not None:
            tape = NativeTape(functions, layers, parameters, rows, activation, last_active, norm)
        x, outer = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[-1])
        doubles = [p.detach().double().requires_grad_() for p in (x, *parameters)]
        expected = _in_double(doubles[0], doubles[1:], activation, norm, last_active)
        slopes = torch.autograd.grad(expected, doubles, outer.double(), retain_graph=True)
        before = [part.clone() for layer in layers for part in layer[2:]]
        assert torch.allclose(tape.forward(x).double(), expected, atol=1e-4)
        inner = tape.backward(outer.clone(), inward=True)
        assert inner is not None
        assert torch.allclose(inner.double(), slopes[0], atol=1e-4)
        after = [part for layer in layers for part in layer[2:]]
        for now, then, wanted in zip(after, before, slopes[1:], strict=True):
            assert torch.allclose((now - then).double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sizes", [(23, 256, 256, 1), (5, 37, 18, 1), (3, 4, 1), (40, 33, 6, 1)])
def test_critics_as_formulas(sizes: tuple[int, ...], activation: str, norm: bool) -> None:
    """Values by the first of them, what they add to the gradients, and the gradient of actions for the rows alone that
    have one; against double precision."""
    torch.manual_seed(0)
    size = (sizes[0] + 1) // 2
    critics = Critics(_seen(sizes[0] - size), size, sizes[1:-1], activation, "layer" if norm else None, count=3)
    for parameter in critics.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
        parameter.grad = torch.ones_like(parameter)
    for rows in (1, 13, 256, 300):
        features, action, outer = torch.randn(rows, sizes[0] - size), torch.randn(rows, size), torch.randn(3, rows)
        x = torch.cat([features, action], 1).double().requires_grad_()
        doubles = [p.detach().double().requires_grad_() for p in critics.parameters()]
        pairs = list(zip(doubles[: len(sizes) - 1], doubles[len(sizes) - 1 :]))
        each = [[p for weight, bias in pairs for p in (weight[i], bias[i, 0])] for i in range(3)]
        expected = torch.cat([_in_double(x, one, activation, norm, last_active=False).t() for one in each])
        slopes = torch.autograd.grad(expected, doubles, outer.double(), retain_graph=True)
        some = outer * (torch.rand(3, rows) < 0.5)
        before = [p.grad.clone() for p in critics.parameters() if p.grad is not None]
        with torch.no_grad():
            values, pull = critics.trace(features, action)
            assert torch.allclose(values.double(), expected, atol=1e-4)
            kept = outer.clone()
            pull(outer)
            assert torch.equal(outer, kept)
            after = [p.grad for p in critics.parameters() if p.grad is not None]
            for now, then, wanted in zip(after, before, slopes, strict=True):
                assert torch.allclose((now - then).double(), wanted, rtol=1e-3, atol=1e-3)
        for first in (None, 1):
            count = first or 3
            wanted = torch.autograd.grad(expected[:count], x, some[:count].double(), retain_graph=True)[0]
            with torch.no_grad():
                values, climb = critics.climb(features, action, first)
                assert torch.allclose(values.double(), expected[:count], atol=1e-4)
                assert torch.allclose(climb(some[:count]).double(), wanted[:, -size:], atol=1e-4)
                assert torch.allclose(critics(features, action, first).double(), expected[:count], atol=1e-4)
                with pytest.raises(RuntimeError, match="again"):
                    climb(some[:count])


def _seen(features: int) -> Perception:
    """What has so many features, as they are."""
    signature = Signature(
        inputs={"observation": Input(form="box", shape=(features,))},
        outputs={"action": Output(form="continuous", size=1)},
    )
    return Perception(SquashedGaussianOptions(), signature)


@pytest.mark.parametrize("size", [1, 3, 6, 16])
@pytest.mark.parametrize("bounds", [(-20.0, 2.0), (-5.0, 0.5)])
def test_squashed(size: int, bounds: tuple[float, float]) -> None:
    """Actions, their log density and their slopes by C and by NumPy, against autograd in double precision; and what is
    no number stays none."""
    torch.manual_seed(0)
    functions = native_tape._built()[0]
    squash = squashed_by_numpy if functions is None else partial(native_tape.squashed_natively, functions)
    for rows in (1, 7, 256):
        outputs, noise = torch.randn(rows, 2 * size), torch.randn(rows, size)
        moved, chosen = torch.randn(rows, size), torch.randn(rows)
        action, log_prob, slopes = squash(outputs, noise, bounds)
        doubles = outputs.double().requires_grad_()
        mean, raw = doubles.chunk(2, -1)
        log_std = bounds[0] + 0.5 * (bounds[1] - bounds[0]) * (raw.tanh() + 1)
        latent = mean + log_std.exp() * noise
        wanted = latent.tanh(), tanh_gaussian_log_prob(mean, log_std, latent)
        assert torch.allclose(action.double(), wanted[0], atol=1e-5)
        assert torch.allclose(log_prob.double(), wanted[1], rtol=1e-5, atol=1e-4)
        gradient = torch.autograd.grad(wanted, doubles, (moved.double(), chosen.double()))[0]
        assert torch.allclose(slopes(moved, chosen).double(), gradient, rtol=1e-4, atol=1e-4)
    outputs[3, 0], outputs[5, size] = math.nan, math.nan
    action, log_prob, slopes = squash(outputs, noise, bounds)
    assert log_prob.isnan().nonzero().flatten().tolist() == [3, 5]
    assert slopes(moved, chosen).isnan().any(1).nonzero().flatten().tolist() == [3, 5]
    # Far out, tanh leaves nothing of the difference from 1, and the density is still right.
    outputs[:, size:] = -60
    for far in (60.0, -60.0):
        outputs[:, :size] = far
        log_prob = squash(outputs, noise, bounds)[1].double()
        low = torch.tensor(bounds[0]).double()
        latent = far + low.exp() * noise.double()
        assert torch.allclose(log_prob, tanh_gaussian_log_prob(torch.tensor(far), low.expand(size), latent), rtol=1e-5)


def test_tanh() -> None:
    """To four units in the last place at any size, and where nothing is left of them."""
    functions = native_tape._built()[0]
    if functions is None:
        pytest.skip("not compiled here")
    one, none = torch.ones(1, 1), torch.zeros(1)
    sizes = torch.cat([10 ** torch.linspace(-37, 38, 40_000), torch.linspace(0, 12, 60_000)])
    for x in (sizes, -sizes, torch.tensor([0.0, math.inf, -math.inf, math.nan])):
        tape = NativeTape(functions, [Linear(one, none, None, None)], [one, none], len(x), "tanh", last_active=True)
        found, expected = tape.forward(x.unsqueeze(1))[:, 0].double(), x.double().tanh()
        assert torch.equal(found.isnan(), expected.isnan())
        assert bool(((found - expected).abs() <= 4 * 2.0**-23 * expected.abs())[~expected.isnan()].all())


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_is_no_number_stays_none(activation: str, number: float) -> None:
    """As by torch, so that a training that diverged is found."""
    network, x, outer = _network(activation, False, 3, 128, 5), torch.randn(7, 3), torch.randn(7, 5)
    for spoilt in (x, outer):
        kept, spoilt[2, 1] = spoilt[2, 1].clone(), number
        for mine, theirs in zip(_by_hand(network, x, outer), _by_autograd(network, x, outer), strict=True):
            assert torch.equal(mine.isfinite(), theirs.isfinite())
        spoilt[2, 1] = kept


def test_other_shapes_are_refused_and_other_forms_taken() -> None:
    functions = native_tape._built()[0]
    if functions is None:
        pytest.skip("not compiled here")
    layers, parameters = _layers((6, 32, 1), turned=False)
    tape = NativeTape(functions, layers, parameters, 7, "relu", last_active=False)
    x, outer = torch.randn(7, 6), torch.randn(7)
    for bad in (torch.randn(7, 2), torch.randn(6, 6)):
        with pytest.raises(ValueError, match="belongs"):
            tape.forward(bad)
    values = tape.forward(x).clone()
    with pytest.raises(ValueError, match="belongs"):
        tape.backward(torch.randn(4, 1))
    assert torch.equal(tape.forward(x.t().contiguous().t().double()), values)
    critics = NativeCritics(functions, [layers, layers], parameters, 7, "relu", normalised=False)
    features, action = x[:, :4], x[:, 4:]
    both = critics.forward(features.double(), action.t().contiguous().t(), 2)
    assert torch.equal(both, values[:, 0].expand(2, 7))
    for one, other in ((features, action[:, :1]), (features[:6], action), (features, action[:6]), (x, action)):
        with pytest.raises(ValueError, match="belongs"):
            critics.forward(one, other, 2)
    for count in (0, 3):
        with pytest.raises(ValueError, match="critics"):
            critics.forward(features, action, count)
    climbed = critics.climb(outer.expand(2, 7), 2)
    assert torch.equal(critics.climb(outer.double().expand(2, 7), 2), climbed)
    for bad in (torch.randn(2, 4), torch.randn(7), torch.randn(3, 7)):
        with pytest.raises(ValueError, match=r"belongs|critics"):
            critics.climb(bad, 2)
        with pytest.raises(ValueError, match=r"belongs|critics"):
            critics.backward(bad)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
@pytest.mark.parametrize("sizes", [(256, 256), (32, 256), (250, 131), (256, 18), (600, 70), (70, 1300)])
def test_exact(sizes: tuple[int, ...], scale: float, turned: bool) -> None:
    """By whichever units, products are as near to those in double precision as torch's are."""
    functions = native_tape._built()[0]
    if functions is None:
        pytest.skip("not compiled here")
    torch.manual_seed(0)
    for rows in (250, 256, 700):
        ((weight, bias, into, into_bias),), parameters = _layers(sizes, turned)
        assert into is not None
        weight.mul_(scale)
        tape = NativeTape(
            functions, [Linear(weight, bias.zero_(), into.zero_(), into_bias)], parameters, rows, "relu", False
        )
        x, outer = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[1])
        outputs, inner = tape.forward(x).clone(), tape.backward(outer.clone(), inward=True)
        assert inner is not None
        pairs = ((outputs, x, weight), (inner, outer, weight.t()), (into, x.t(), outer))
        for found, left, right in pairs:
            exact = left.double() @ right.double()
            mine, torchs = (float((each.double() - exact).norm() / exact.norm()) for each in (found, left @ right))
            assert mine < max(1.2 * torchs, 1e-6)
            # None is off by more than its sum's roundings.
            bound = 8 * 2.0**-24 * (left.double().abs() @ right.double().abs())
            assert bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("bits", [0x3F80FF81, 0x3F80FF7F, 0x3FAAAAAB])
def test_equal_factors(bits: int) -> None:
    """What is left out of one product is left out of all: it must not count."""
    functions = native_tape._built()[0]
    if functions is None:
        pytest.skip("not compiled here")
    number = float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
    weight, bias = torch.full((64, 256), number), torch.zeros(256)
    tape = NativeTape(functions, [Linear(weight, bias, None, None)], [weight, bias], 256, "relu", False)
    x, exact = torch.full((256, 64), number), 64 * number**2
    mine, torchs = (float((found.double() - exact).abs().max()) for found in (tape.forward(x), x @ weight))
    assert mine <= max(1.2 * torchs, 2.0**-25 * exact)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_wide_layers_lose_no_infinity(number: float) -> None:
    """What is no number with torch is none here."""
    functions = native_tape._built()[0]
    if functions is None:
        pytest.skip("not compiled here")
    layers, parameters = _layers((256, 256), turned=False)
    tape, x = NativeTape(functions, layers, parameters, 256, "relu", False), torch.randn(256, 256)
    x[7, 9] = number
    found, expected = tape.forward(x), x @ layers[0].weight
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert not expected[7].isfinite().any()
    for wild in (x[7], x[6]):
        wild.copy_(torch.randn(256))
    outer = torch.randn(256, 256)
    outer[3, 5] = number
    tape.forward(x)
    inner = tape.backward(outer, inward=True)
    assert inner is not None
    assert not inner[3].isfinite().any()
    assert inner[4].isfinite().all()
    assert layers[0].weight_grad is not None
    assert not layers[0].weight_grad[:, 5].isfinite().any()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1])
@pytest.mark.parametrize("index", [0, 1])
def test_no_kind_of_nan_is_taken_for_a_number(index: int, bits: int) -> None:
    """Exact and rounded, on either side."""
    functions = native_tape._built()[index]
    if functions is None:
        pytest.skip("not compiled here")
    x, weight, bias = torch.zeros(256, 256), torch.eye(256), torch.zeros(256)
    tape = NativeTape(functions, [Linear(weight, bias, None, None)], [weight, bias], 256, "relu", False)
    x.view(torch.int32)[3, 4] = bits
    assert tape.forward(x).isnan().any(1).nonzero().flatten().tolist() == [3]
    x[3, 4], weight.view(torch.int32)[4, 7] = 0.0, bits
    assert tape.forward(x).isnan().any(0).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", [(256, 256), (32, 256), (250, 131), (256, 250), (600, 70), (70, 1300)])
def test_rounded(sizes: tuple[int, ...], turned: bool) -> None:
    """Factors of bf16, which are off by a 512th at most, in sums that are not: where the processor has units for it."""
    functions = native_tape._built()[1]
    if functions is None or not functions.parts:
        pytest.skip("no units")
    torch.manual_seed(0)
    for rows in (250, 256, 700):
        ((weight, bias, into, into_bias),), parameters = _layers(sizes, turned)
        assert into is not None
        layers = [Linear(weight, bias.zero_(), into.zero_(), into_bias)]
        tape = NativeTape(functions, layers, parameters, rows, "relu", False)
        x, outer = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[1])
        outputs, inner = tape.forward(x).clone(), tape.backward(outer.clone(), inward=True)
        assert inner is not None
        pairs = ((outputs, x, weight), (inner, outer, weight.t()), (into, x.t(), outer))
        for found, left, right in pairs:
            exact, terms = left @ right, left.shape[1]
            error = float((found - exact).norm() / exact.norm())
            # Of short sums it is not worth it.
            assert (1e-3 if terms >= 64 else 0) <= error < 2 * 2.0**-9


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sizes", [(70, 250, 128, 1), (70, 600, 300, 1)])
@pytest.mark.parametrize("rows", [300, 256])
def test_rounded_layers(rows: int, sizes: tuple[int, ...], activation: str) -> None:
    """What is done with a product, and with rows that are chosen, where factors are rounded: as formulas have it. Of
    panels of 256 terms by 256 columns, and of several."""
    functions = native_tape._built()[1]
    if functions is None or not functions.parts:
        pytest.skip("no units")
    torch.manual_seed(0)

    def times(left: Tensor, right: Tensor) -> Tensor:
        return left.bfloat16().double() @ right.bfloat16().double()

    def slope(after: Tensor) -> Tensor:
        return (after > 0).double() if activation == "relu" else 1 - after.double().square()

    def near(found: Tensor, expected: Tensor) -> bool:
        # A factor between two of bf16 may go to the other.
        return float((found.double() - expected).norm() / expected.norm()) < 1e-3

    bend = torch.relu if activation == "relu" else torch.tanh
    layers, parameters = _layers(sizes, turned=False)
    tape = NativeTape(functions, layers[:2], parameters, rows, activation, last_active=True)
    x, outer = torch.randn(rows, 70), torch.randn(rows, sizes[2])
    after = [x]
    for layer in layers[:2]:
        after.append(bend(times(after[-1], layer.weight) + layer.bias).float())
    assert near(tape.forward(x), after[2].double())
    before = [part.clone() for layer in layers[:2] for part in layer[2:]]
    inner = tape.backward(outer.clone(), inward=True)
    second = (outer * slope(after[2])).float()
    first = (times(second, layers[1].weight.t()) * slope(after[1])).float()
    slopes = [times(x.t(), first), first.sum(0), times(after[1].t(), second), second.sum(0)]
    assert inner is not None
    assert near(inner, times(first, layers[0].weight.t()))
    for now, then, wanted in zip([part for layer in layers[:2] for part in layer[2:]], before, slopes, strict=True):
        assert now is not None
        assert near(now - then, wanted.double())

    critics = NativeCritics(functions, [layers], parameters, rows, activation, normalised=False)
    values = critics.forward(x[:, :64], x[:, 64:], 1)
    assert near(values, (after[2].double() @ layers[2].weight.double() + layers[2].bias).t())
    asked = torch.randn(1, rows) * (torch.arange(rows) % 7 != 3)
    second = (asked.t() @ layers[2].weight.t() * slope(after[2])).float()
    first = (times(second, layers[1].weight.t()) * slope(after[1])).float()
    assert near(critics.climb(asked, 6), first.double() @ layers[0].weight[64:].t().double())


def _rounds_by_vectors() -> bool:
    """Whether this processor multiplies bf16 by vectors, and the compiler knows how."""
    command = (*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, "-E", "-dM", "-x", "c", os.devnull)
    try:
        return "__AVX512BF16__" in subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False


def test_rounded_by_vectors(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors that multiply bf16 by vectors, and have no tiles."""
    if by == "torch" or not _rounds_by_vectors():
        pytest.skip("no units")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} -mno-amx-bf16")
    found, why = native_tape.compiled(native_tape.SOURCE, native_tape._both)
    assert found is not None, why
    # Three products of vectors in place of one take longer.
    assert [functions.parts for functions in found] == [0, native_tape.ROUNDED]
    monkeypatch.setattr(native_tape, "_built", lambda: found)
    for turned in (False, True):
        for sizes in ((256, 256), (250, 131), (256, 250), (600, 70), (70, 1300)):
            test_rounded(sizes, turned)
    for rows, activation in itertools.product((300, 256), ("relu", "tanh")):
        test_rounded_layers(rows, (70, 250, 128, 1), activation)
        test_rounded_layers(rows, (70, 600, 300, 1), activation)


def test_rounded_where_a_run_allows_it() -> None:
    network = _network("relu", False, 23, 256, 5)
    weight = cast(nn.Linear, network.layers[0]).weight
    exact, rounded = native_tape._built()
    assert native_tape.native([weight], "relu") is exact
    with faster_products(network, rounded=True):
        assert native_tape.native([weight], "relu") is rounded
        with faster_products(network):
            assert native_tape.native([weight], "relu") is exact


def test_what_is_native_is_found_anew() -> None:
    """Where the number of threads has changed, or the kind of the weights."""
    network, x, outer = _network("relu", False, 3, 16, 5), torch.randn(7, 3), torch.randn(7, 5)
    compiled = NativeTape if native_tape._built()[0] else Tape
    before = torch.get_num_threads()
    try:
        for threads, kind in ((1, compiled), (2, Tape), (1, compiled)):
            torch.set_num_threads(threads)
            assert _same(_by_hand(network, x, outer), _by_autograd(network, x, outer))
            assert type(network._tapes._kept[7, True, native_tape.conditions()]) is kind
        network.double()
        assert torch.allclose(network.trace(x)[0], network(x))
        assert type(network._tapes._kept[7, True, native_tape.conditions()]) is Tape
    finally:
        torch.set_num_threads(before)


def test_what_compiling_is_worth() -> None:
    exact = native_tape._built()[0]
    wide, narrow = torch.zeros(256, 3), torch.zeros(64, 3)
    assert native_tape.native([wide, narrow], "tanh") is exact
    assert native_tape.native([narrow], "tanh") is None
    assert native_tape.native([narrow], "relu") is exact
    assert native_tape.native([wide], "gelu") is None
    assert native_tape.native([wide, narrow.double()], "relu") is None
    assert native_tape.native([torch.zeros(256, 0), wide], "relu") is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of x86 compilers")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx"])
def test_on_processors_with_narrower_vectors(without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {without}")
    found = native_tape.compiled(native_tape.SOURCE, native_tape._both)[0]
    if found is None:
        pytest.skip("no compiler")
    assert not found[1].parts
    monkeypatch.setattr(native_tape, "_built", lambda: found)
    for turned, norm in itertools.product((False, True), repeat=2):
        for activation in ("relu", "tanh"):
            test_as_formulas((23, 256, 250, 1), turned, norm, False, activation)
            test_critics_as_formulas((23, 256, 250, 1), activation, norm)
    test_tanh()
    test_squashed(6, (-5.0, 0.5))
