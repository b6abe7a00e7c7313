"""Weights in 4 bits: the published values, a bound on the error, and adapters over them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from reinforge.models.adapters import (
    FourBitLinear,
    adapt,
    adapted_layers,
    adapter_state,
    adapters_are_new,
    merge,
    whole_state,
    without_adapters,
)
from reinforge.models.decoder import Joined
from reinforge.models.decoder_options import LoRAOptions
from reinforge.models.four_bit import BLOCK, dequantise, product, quantise, values
from reinforge.workflow.measure import SavedForBackward
from tests.models.test_adapters import TOKENS, decoder, moved

# As the paper's authors state them (arXiv:2305.14314, appendix E).
PUBLISHED = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def test_the_values_are_the_published_ones() -> None:
    torch.testing.assert_close(values(), torch.tensor(PUBLISHED), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (7, 13), (1, 1), (3, 128), (5, 65)])
def test_each_weight_becomes_the_nearest_value(shape: tuple[int, int]) -> None:
    """By brute force over all 16, block by block; no error above half the widest gap."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
    codes, scales = quantise(weight)
    assert codes.dtype == torch.uint8
    assert len(codes) * 2 == len(scales) * BLOCK
    found = dequantise(codes, scales, shape, torch.float32)
    flat, near = weight.flatten(), found.flatten()
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        scale = block.abs().max()
        choices = torch.tensor(PUBLISHED) * scale
        best = choices[(block[:, None] - choices).abs().argmin(1)]
        torch.testing.assert_close(near[start : start + BLOCK], best, atol=1e-6, rtol=1e-5)
        assert (near[start : start + BLOCK] - block).abs().max() <= scale * (1 - 0.6961928) / 2 + 1e-7


def test_zeros_extremes_and_what_was_quantised_stay() -> None:
    weight = torch.zeros(2, 64)
    weight[1, 3], weight[1, 5] = -2.0, 2.0
    codes, scales = quantise(weight)
    torch.testing.assert_close(dequantise(codes, scales, (2, 64), torch.float32), weight)
    again = dequantise(*quantise(torch.randn(8, 64)), (8, 64), torch.float32)
    torch.testing.assert_close(dequantise(*quantise(again), (8, 64), torch.float32), again)


@pytest.mark.parametrize("bias", [True, False])
def test_products_and_gradients_are_those_of_the_dequantised_layer(bias: bool) -> None:
    torch.manual_seed(0)
    weight, shape = torch.randn(9, 70), (9, 70)
    codes, scales = quantise(weight)
    plain = nn.Linear(70, 9, bias=bias)
    with torch.no_grad():
        plain.weight.copy_(dequantise(codes, scales, shape, torch.float32))
    x = torch.randn(4, 5, 70, requires_grad=True)
    ours, theirs = product(x, codes, scales, plain.bias, shape), plain(x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sin().sum(), x)[0], torch.autograd.grad(theirs.sin().sum(), x)[0]
    )


@pytest.mark.parametrize("options", [{}, {"magnitude": True}, {"patterns": ("*qkv.q", "*down")}])
def test_adapters_over_4_bits_are_adapters_over_what_they_stand_for(options: dict[str, object]) -> None:
    """Outputs, gradients, the reference without adapters, and the merged model."""
    model = decoder()
    chosen = LoRAOptions.model_validate({"rank": 2, **options})
    four = chosen.model_copy(update={"bits": 4})
    names = adapt(four, model)
    layers = adapted_layers(model)
    assert all(isinstance(layer, FourBitLinear) for layer in layers.values())
    assert not any(f"{name}.weight" in model.state_dict() for name in layers)
    twin = decoder()
    for name in layers:
        module = twin.get_submodule(name)
        assert isinstance(module, nn.Linear)
        with torch.no_grad():
            shape = (module.out_features, module.in_features)
            module.weight.copy_(dequantise(*quantise(module.weight), shape, torch.float32))
    before = copy.deepcopy(twin)
    assert adapt(chosen, twin) == names
    assert adapters_are_new(model)
    moved(model)
    twin.load_state_dict(adapter_state(model), strict=False)
    outputs = [each({"tokens": TOKENS})[0]["tokens"] for each in (model, twin)]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    grads: list[dict[str, Tensor]] = []
    for each, output in zip((model, twin), outputs):
        output.sin().sum().backward()
        grads.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-4, rtol=1e-3)
    with without_adapters(model), torch.no_grad():
        torch.testing.assert_close(
            model({"tokens": TOKENS})[0]["tokens"], before({"tokens": TOKENS})[0]["tokens"], atol=1e-5, rtol=1e-4
        )
    whole = whole_state(model)
    torch.testing.assert_close({name: whole[name] for name in before.state_dict()}, dict(before.state_dict()))
    merge(model)
    assert not any(isinstance(module, FourBitLinear) for module in model.modules())
    assert {type(module) for name, module in model.named_modules() if name.endswith("qkv")} == {Joined}
    assert model.state_dict().keys() == decoder().state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model({"tokens": TOKENS})[0]["tokens"], outputs[0].detach(), atol=1e-4, rtol=1e-3)


def test_a_bf16_weight_is_one_again_after_merging() -> None:
    model = decoder().to(torch.bfloat16)
    adapt(LoRAOptions(rank=2, bits=4), model)
    merge(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_nothing_of_the_size_of_a_weight_is_kept_for_the_backward_pass() -> None:
    """Codes and scales alone, a seventh of the weight in fp32."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 256, bias=False)
    holder = nn.ModuleDict({"l": layer})
    adapt(LoRAOptions(rank=1, bits=4, patterns=("l",)), holder)
    with SavedForBackward() as meter:
        holder["l"](torch.randn(2, 256)).sum().backward()
    assert meter.peak < 4 * 256 * 256 / 6


def test_a_checkpoint_holds_codes(tmp_path: object) -> None:
    model, twin = decoder(), decoder()
    for each in (model, twin):
        adapt(LoRAOptions(rank=2, bits=4), each)
    moved(model)
    with torch.no_grad():
        for layer in adapted_layers(twin).values():
            layer.codes.zero_()  # type: ignore[union-attr, operator]
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin({"tokens": TOKENS})[0]["tokens"], model({"tokens": TOKENS})[0]["tokens"])
    assert {name.rpartition(".")[2] for name in adapter_state(model)} == {"lora_a", "lora_b"}
