"""Adapters against the matrices they stand for, and against peft."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reinforge.errors import RecipeError
from reinforge.models.adapters import AdaptedLinear, adapt, adapted_layers, adapter_state, merge, without_adapters
from reinforge.models.decoder import Decoder, Joined
from reinforge.models.decoder_options import DecoderOptions, LoRAOptions
from reinforge.schema.signature import Input, Output, Signature

SIGNATURE = Signature(
    inputs={"tokens": Input(form="tokens", sizes=(19,))}, outputs={"tokens": Output(form="tokens", size=19)}
)
TOKENS = torch.randint(19, (2, 9), generator=torch.Generator().manual_seed(2))
KINDS = [{}, {"stabilised": True, "alpha": 6.0}, {"magnitude": True}]


def decoder(**options: object) -> Decoder:
    torch.manual_seed(0)
    settings = {"layers": 2, "width": 16, "heads": 4, "kv_heads": 2, "context": 12, "bias": "qkv", **options}
    model = Decoder(DecoderOptions.model_validate(settings), SIGNATURE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6) if parameter.ndim == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def moved(model: nn.Module) -> None:
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if name.endswith(("lora_b", "magnitude")):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))


@pytest.mark.parametrize("options", KINDS)
def test_a_layer_is_the_matrix_it_stands_for(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer: nn.Module = Joined(6, {"q": 4, "k": 3, "v": 2}, bias=True)
    plain = copy.deepcopy(layer)
    holder = nn.ModuleDict({"qkv": layer})
    chosen = LoRAOptions.model_validate({"rank": 2, "patterns": ["qkv.q", "qkv.v"], **options})
    assert adapt(chosen, holder) == ["qkv.q", "qkv.v"]
    moved(holder)
    assert isinstance(layer, AdaptedLinear)
    a, b, w = layer.lora_a.detach(), layer.lora_b.detach(), plain.weight.detach().clone()
    scale = 6.0 / 2**0.5 if options.get("stabilised") else 16.0 / 2
    w[0:4] += scale * b[0:4] @ a[0:2]
    w[7:9] += scale * b[4:6] @ a[2:4]
    if options.get("magnitude"):
        m = torch.cat([layer.magnitude[:4], w[4:7].norm(dim=1), layer.magnitude[4:]]).detach()
        w = w / w.norm(dim=1, keepdim=True) * m[:, None]
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), x @ w.T + plain.bias, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.merged(), w, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", KINDS)
def test_merged_equals_unmerged(options: dict[str, object]) -> None:
    model = decoder()
    shape = {name: value.shape for name, value in model.state_dict().items()}
    before = model({"tokens": TOKENS})[0]["tokens"]
    adapt(LoRAOptions.model_validate({"rank": 3, **options}), model)
    torch.testing.assert_close(model({"tokens": TOKENS})[0]["tokens"], before, atol=1e-4, rtol=1e-4)
    moved(model)
    beside = model({"tokens": TOKENS})[0]["tokens"]
    assert (beside - before).abs().max() > 0.1
    with without_adapters(model):
        torch.testing.assert_close(model({"tokens": TOKENS})[0]["tokens"], before)
    merge(model)
    torch.testing.assert_close(model({"tokens": TOKENS})[0]["tokens"], beside, atol=1e-3, rtol=1e-3)
    assert {name: value.shape for name, value in model.state_dict().items()} == shape
    assert type(model.blocks[0].attention.qkv) is Joined
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_adapters_learn_beside_half_weights() -> None:
    model = decoder().bfloat16()
    names = adapt(LoRAOptions(rank=2, patterns=("*q", "*down")), model)
    assert names == [f"blocks.{i}.{at}" for i in (0, 1) for at in ("attention.qkv.q", "feed_forward.down")]
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned == set(adapter_state(model))
    assert len(adapted_layers(model)) == 4
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if n in learned)


def test_a_pattern_without_a_layer_is_told() -> None:
    with pytest.raises(RecipeError, match="matches no linear layer"):
        adapt(LoRAOptions(patterns=("*query*",)), decoder())
