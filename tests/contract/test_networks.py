"""Encoders, bodies, heads, losses and models."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.contracts import Model
from reinforge.models.losses import total_of
from reinforge.registry import REGISTRY, Component
from tests.contract.examples import BLOCKS, OUTPUTS, ROWS, components, fitting, model_example, targets, values

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


@pytest.mark.parametrize("component", components("encoder"))
def test_encoder(component: Component) -> None:
    for block, encoder in fitting(component, BLOCKS):
        rows = values(block)
        features = encoder(rows)
        assert features.shape == (ROWS, encoder.features)
        assert features.dtype == torch.float32
        assert torch.equal(features, encoder(rows))
        torch.testing.assert_close(encoder(rows[2:3]), features[2:3])
        assert encoder(rows[:0]).shape == (0, encoder.features)
        if features.requires_grad:
            learns_everywhere(encoder, features)
        other = REGISTRY.build("encoder", component.options(), block)
        survives_saving(encoder, other)
        assert torch.equal(other(rows), features)


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
    other = REGISTRY.build("body", component.options(), FEATURES)
    survives_saving(body, other)
    assert torch.equal(other(x, other.initial_state(ROWS))[0], features)


@pytest.mark.parametrize("component", components("head"))
def test_head(component: Component) -> None:
    form = {component.name: OUTPUTS[component.name]} if component.name in OUTPUTS else OUTPUTS
    for output, head in fitting(component, form, FEATURES):
        x, target = values(BLOCKS["numbers"]), targets(output)
        out = head(x)
        assert out.shape == (ROWS, output.size)
        assert out.dtype == torch.float32
        losses = head.loss(out, target)
        assert losses.shape == (ROWS,)
        torch.testing.assert_close(head.loss(out[2:3], target[2:3]), losses[2:3])
        torch.testing.assert_close(head.total(out, target), losses.sum())
        learns_everywhere(head, losses)
        decoded = head.decode(out)
        assert decoded
        assert all(len(value) == ROWS and value.isfinite().all() for value in decoded.values())
        distribution = head.distribution(out)
        assert distribution.log_prob(target).shape == (ROWS,)
        # What is most likely is what is decoded.
        assert any(torch.equal(distribution.mode, value) for value in decoded.values())
        other = REGISTRY.build("head", component.options(), output, FEATURES)
        survives_saving(head, other)
        assert torch.equal(other(x), out)
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
    learns_everywhere(model, torch.cat([o.flatten() for o in outputs.values() if o.requires_grad]))
    torch.manual_seed(1)
    other = REGISTRY.build("model", example.options, example.signature).eval()
    other.load_state_dict(load(save({k: v.contiguous() for k, v in model.state_dict().items()})))
    for name, output in other(inputs, other.initial_state(ROWS))[0].items():
        assert torch.equal(output, outputs[name]), "other outputs after saving and loading"
