"""Learning with the rounding in sight."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from reinforge.bundle.loading import load
from reinforge.compress.aware import rounding
from reinforge.compress.compress import compress
from reinforge.compress.shrinking import in_8_bits
from reinforge.core.tensor_files import read_checked
from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.registry import REGISTRY
from tests.bundle import made


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(160, 64), nn.Tanh(), nn.Linear(64, 160), nn.Tanh(), nn.Linear(160, 3))


def test_it_computes_as_in_8_bits_and_gradients_pass_the_rounding() -> None:
    plain, x = network(), torch.randn(7, 160)
    rounded, change = in_8_bits(plain, computing=True)
    assert change.int8 == ("0", "4")
    with torch.inference_mode():
        expected = rounded(x)
    model = copy.deepcopy(rounded)
    model.load_state_dict(plain.state_dict())
    with rounding(model, change):
        found = model(x)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        found.sum().backward()
        grad = model[4].parametrizations.weight.original.grad.clone()
    # By hand: the last layer's gradient is the sum of its inputs, which are rounded.
    with torch.no_grad():
        h = model[3](model[2](model[1](nn.functional.linear(_rows(x), model[0].weight, model[0].bias))))
    torch.testing.assert_close(grad, _rows(h).sum(0).expand(3, -1), atol=1e-4, rtol=1e-4)
    # After it the weights are those that are stored, and nothing is left of it.
    torch.testing.assert_close(model.state_dict(), rounded.state_dict())
    assert not any(module._forward_pre_hooks for module in model.modules())


def _rows(x: torch.Tensor) -> torch.Tensor:
    step = x.abs().amax(-1, keepdim=True) / 127
    return (x / step).round() * step


def test_tied_weights_stay_tied() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(64, 16), "head": nn.Linear(16, 64, bias=False)})
    model["head"].weight = model["embedding"].weight
    changed, change = in_8_bits(model, computing=False)
    with rounding(changed, change):
        pass
    assert changed["head"].weight is changed["embedding"].weight


def test_a_recurrent_layer_is_left_to_itself() -> None:
    model = nn.GRU(16, 16)
    changed, change = in_8_bits(model, computing=False)
    with rounding(changed, change):
        changed(torch.randn(3, 2, 16))[0].sum().backward()
    assert isinstance(changed, nn.GRU)


@pytest.mark.parametrize("method", ["int8", "int8-weight"])
def test_what_learns_with_the_rounding_is_nearer_to_the_original(tmp_path: Path, method: str) -> None:
    """A network that 8 bits hurt: each row has one weight that is much larger than the others."""
    form, _table = made.table_form()
    options = ComposedOptions(body=MLPOptions(sizes=(160, 160)))
    torch.manual_seed(0)
    model = REGISTRY.build("model", options, form.pipeline.signature)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("body") and parameter.ndim == 2:
                parameter[:, 0] *= 30
    made.table_bundle(tmp_path / "whole", options=options, model=model)
    parent = load(tmp_path / "whole")
    rows = made.rows(200, seed=5)
    inputs = parent.form.table_inputs([{k: v for k, v in row.items() if k not in ("species", "price")} for row in rows])
    apart = {}
    for name, updates in (("plain", None), ("aware", 200)):
        compress(tmp_path / "whole", method, tmp_path / name, updates=updates, train=rows, data=rows, force=True)
        small = load(tmp_path / name)
        with torch.inference_mode():
            wanted, found = parent.model(inputs)[0], small.model(inputs)[0]
        apart[name] = sum(float((found[key] - wanted[key]).square().mean()) for key in wanted)
        stored = read_checked(small.folder, "weights.safetensors")
        assert {t.dtype for key, t in stored.items() if key.endswith("linears.1.weight")} == {torch.int8}
    assert apart["aware"] < 0.7 * apart["plain"], apart
