"""Encoders, bodies, heads, losses and models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core import batch as batches
from reinforge.core.batch import Leaf
from reinforge.core.contracts import Model
from reinforge.core.ragged import Ragged
from reinforge.models.classic.classic import Classic
from reinforge.models.fusion import Part
from reinforge.models.losses import total_of
from reinforge.registry import REGISTRY, Component
from tests.contract.examples import (
    BLOCKS,
    OUTPUTS,
    ROWS,
    components,
    fitting,
    model_example,
    options_of,
    targets,
    values,
)

FEATURES = 5


def learns_everywhere(module: nn.Module, output: Tensor) -> None:
    """Each trainable parameter gets a gradient that isn't zero throughout."""
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trainable:
        return
    # Weights of its own for each output, because some outputs sum to a constant.
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((output * weights).sum(), [p for _, p in trainable], allow_unused=True)
    dead = [name for (name, _), g in zip(trainable, gradients) if g is None or not g.any() or not g.isfinite().all()]
    assert not dead, f"no gradient reaches {dead}"


def survives_saving(first: nn.Module, second: nn.Module) -> None:
    """Another module of the same options takes over the weights from safetensors, bit for bit."""
    for p in second.parameters():
        nn.init.zeros_(p)
    second.load_state_dict(load(save({k: v.contiguous() for k, v in first.state_dict().items()})))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def in_half_precision(module: nn.Module) -> nn.Module:
    """As the engine trains in bf16: the parameters alone; buffers keep their precision."""
    half = copy.deepcopy(module)
    for p in half.parameters():
        p.data = p.data.bfloat16()
    return half


def runs_in_half_precision(module: nn.Module, forward: Callable[[nn.Module], Tensor]) -> None:
    """In bf16 the outputs are about the same, and gradients reach the same parameters."""
    half = in_half_precision(module)
    output, expected = forward(half), forward(module)
    scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05 * scale)
    if output.requires_grad:
        learns_everywhere(half, output)


@pytest.mark.parametrize("component", components("encoder"))
def test_encoder(component: Component) -> None:
    for block, encoder in fitting(component, BLOCKS):
        rows = values(block)
        features = encoder(rows)
        assert features.shape == (ROWS, encoder.features)
        assert features.dtype == torch.float32
        assert torch.equal(features, encoder(rows))
        for i in range(ROWS):
            torch.testing.assert_close(encoder(only(rows, i, i + 1)), features[i : i + 1])
        assert encoder(only(rows, 0, 0)).shape == (0, encoder.features)
        if features.requires_grad:
            learns_everywhere(encoder, features)
        runs_in_half_precision(encoder, lambda module, rows=rows: module(rows))  # type: ignore[misc]
        if hasattr(encoder, "sequence"):
            sequence, mask = encoder.sequence(rows)
            assert mask.dtype == torch.bool
            assert sequence.shape == (*mask.shape, encoder.token_features)
            if isinstance(rows, Ragged):
                assert torch.equal(mask.sum(1), rows.lengths)
            assert torch.equal(encoder.pool(sequence, mask), features), "pooling its sequence gives other features"
            alone, _ = encoder.sequence(only(rows, 2, 3))
            torch.testing.assert_close(alone[0], sequence[2, : alone.shape[1]])
        other = REGISTRY.build("encoder", options_of(component), block)
        survives_saving(encoder, other)
        assert torch.equal(other(rows), features)


def only(rows: Leaf, start: int, stop: int) -> Leaf:
    """Some of a block's rows."""
    return cast(Leaf, batches.part({"rows": rows}, start, stop)["rows"])


@pytest.mark.parametrize("component", components("fusion"))
def test_fusion(component: Component) -> None:
    parts = [Part(3), Part(5, 4), Part(2)]
    torch.manual_seed(0)
    fusion = REGISTRY.build("fusion", component.options(), parts)
    g = torch.Generator().manual_seed(0)
    here = torch.tensor([True, True, False, True, True, False])
    lengths = torch.arange(4) < torch.tensor([4, 1, 0, 3, 2, 0])[:, None]
    if fusion.sequences:
        text, there = torch.randn(ROWS, 4, 4, generator=g), lengths
    else:
        text, there = torch.randn(ROWS, 5, generator=g), here
    features = [torch.randn(ROWS, 3, generator=g), text, torch.randn(ROWS, 2, generator=g)]
    masks = [None, there, None]
    fused = fusion(features, masks)
    assert fused.shape == (ROWS, fusion.features)
    assert fused.dtype == torch.float32
    for i in range(ROWS):
        part = [f[i : i + 1] for f in features], [m if m is None else m[i : i + 1] for m in masks]
        torch.testing.assert_close(fusion(*part), fused[i : i + 1])
    if fusion.masks:
        # What is not there has no part in the result.
        other = torch.where(there.view(*there.shape, *[1] * (text.ndim - there.ndim)), text, 100.0)
        torch.testing.assert_close(fusion([features[0], other, features[2]], masks), fused)
    if fused.requires_grad or list(fusion.parameters()):
        learns_everywhere(fusion, fused)
    runs_in_half_precision(fusion, lambda module: module(features, masks))
    again = REGISTRY.build("fusion", component.options(), parts)
    survives_saving(fusion, again)
    assert torch.equal(again(features, masks), fused)


@pytest.mark.parametrize("component", components("body"))
def test_body(component: Component) -> None:
    torch.manual_seed(0)
    body = REGISTRY.build("body", component.options(), FEATURES)
    x = values(BLOCKS["numbers"])
    features, state = body(x, body.initial_state(ROWS))
    assert features.shape == (ROWS, body.features)
    assert features.dtype == torch.float32
    assert (state is None) == (body.initial_state(ROWS) is None)
    assert torch.equal(features, body(x, body.initial_state(ROWS))[0])
    torch.testing.assert_close(body(x[2:3], body.initial_state(1))[0], features[2:3])
    learns_everywhere(body, features)
    runs_in_half_precision(body, lambda module: module(x, body.initial_state(ROWS))[0])
    other = REGISTRY.build("body", component.options(), FEATURES)
    survives_saving(body, other)
    assert torch.equal(other(x, other.initial_state(ROWS))[0], features)


@pytest.mark.parametrize("component", components("head"))
def test_head(component: Component) -> None:
    form = {component.name: OUTPUTS[component.name]} if component.name in OUTPUTS else OUTPUTS
    for output, head in fitting(component, form, FEATURES):
        target = targets(output)
        if head.reads == "sequence":
            g = torch.Generator().manual_seed(0)
            lengths = torch.tensor([3, 7, 1, 7, 5, 7])
            target = (target % 7).minimum(lengths[:, None] - 1)
            x = [torch.randn(ROWS, 7, FEATURES, generator=g), torch.arange(7) < lengths[:, None]]
            shape: tuple[int, ...] = (ROWS, 2, output.size)
        else:
            x, shape = [values(BLOCKS["numbers"])], (ROWS, output.size)
        out = head(*x)
        assert out.shape == shape
        assert out.dtype == torch.float32
        losses = head.loss(out, target)
        assert losses.shape == (ROWS,)
        torch.testing.assert_close(head.loss(out[2:3], target[2:3]), losses[2:3])
        torch.testing.assert_close(head.total(out, target), losses.sum())
        torch.testing.assert_close(head(*(part[2:3] for part in x)), out[2:3])
        learns_everywhere(head, losses)
        runs_in_half_precision(head, lambda module, x=x, t=target: module.loss(module(*x), t))  # type: ignore[misc]
        decoded = head.decode(out)
        assert decoded
        assert all(len(value) == ROWS and value.isfinite().all() for value in decoded.values())
        distribution = head.distribution(out)
        assert distribution.log_prob(target).shape == (ROWS,)
        # What is most likely is what is decoded.
        mode = distribution.mode
        assert any(torch.equal(mode.flatten(), value.flatten()) for value in decoded.values())
        other = REGISTRY.build("head", component.options(), output, FEATURES)
        survives_saving(head, other)
        assert torch.equal(other(*x), out)
        bare = REGISTRY.build("head", component.options(), output, None)
        assert torch.equal(bare(out), out)
        assert not list(bare.parameters())


@pytest.mark.parametrize("component", components("loss"))
def test_loss(component: Component) -> None:
    loss = REGISTRY.build("loss", component.options())
    output = OUTPUTS[loss.form]
    target = targets(output)
    out = torch.randn(ROWS, output.size, generator=torch.Generator().manual_seed(2), requires_grad=True)
    rows = loss(out, target)
    assert rows.shape == (ROWS,)
    assert (rows >= 0).all()
    (gradient,) = torch.autograd.grad(rows[1], out, retain_graph=True)
    assert gradient[1].any()
    assert not gradient[torch.arange(ROWS) != 1].any(), "a row's loss depends on another row"
    torch.testing.assert_close(total_of(loss)(out, target), rows.sum())
    (whole,) = torch.autograd.grad(rows.sum(), out)
    assert loss(out - 1e-3 * whole, target).sum() < rows.sum(), "the gradient doesn't point uphill"
    if loss.form == "category":
        # Classes are the probabilities 0 and 1.
        torch.testing.assert_close(loss(out, functional.one_hot(target, output.size).float()), rows)
    if loss.form == "number":
        column = out.detach()[:, :1]
        assert torch.equal(loss(column, column + 1), loss(column, column.flatten() + 1)), (
            "(rows,) differs from (rows, 1)"
        )


@pytest.mark.parametrize("component", components("model"))
def test_model(component: Component) -> None:
    example = model_example(component.name)
    model, inputs = example.build().eval(), example.inputs()
    assert isinstance(model, Model)
    outputs, _ = model(inputs, model.initial_state(ROWS))
    assert set(example.signature.outputs) <= set(outputs)
    for name, output in outputs.items():
        assert output.shape[0] == ROWS, name
        assert output.dtype == torch.float32, name
    again, _ = model(inputs, model.initial_state(ROWS))
    one, _ = model(batches.part(inputs, 2, 3), model.initial_state(1))
    for name, output in outputs.items():
        assert torch.equal(output, again[name]), "the same inputs gave other outputs"
        torch.testing.assert_close(one[name], output[2:3], msg="a row alone and in a batch differ")
    learned = [o.flatten() for o in outputs.values() if o.requires_grad]
    if learned:
        learns_everywhere(model, torch.cat(learned))
    assert learned or isinstance(model, Classic), "nothing learns"
    runs_in_half_precision(model, lambda module: torch.cat([o.flatten() for o in module(inputs)[0].values()]))
    torch.manual_seed(1)
    other = REGISTRY.build("model", getattr(model, "described", example.options), example.signature).eval()
    other.load_state_dict(load(save({k: v.contiguous() for k, v in model.state_dict().items()})))
    for name, output in other(inputs, other.initial_state(ROWS))[0].items():
        assert torch.equal(output, outputs[name]), "other outputs after saving and loading"
