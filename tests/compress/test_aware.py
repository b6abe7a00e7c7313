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
from reinforge.compress.matching import match
from reinforge.compress.shrinking import in_8_bits
from reinforge.core.tensor_files import read_checked
from reinforge.models.compressed import Int8Linear
from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.workflow.train import train
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


def test_tied_weights_are_rounded_wherever_they_stand_and_stay_tied() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(64, 16), "head": nn.Linear(16, 64, bias=False)})
    model["head"].weight = model["embedding"].weight
    changed, change = in_8_bits(model, computing=False)
    changed.load_state_dict(model.state_dict())
    expected = in_8_bits(model, computing=False)[0]["embedding"].weight
    with rounding(changed, change):
        torch.testing.assert_close(changed["embedding"](torch.arange(64)), expected)
        torch.testing.assert_close(changed["head"](torch.eye(16)).T, expected)
    assert changed["head"].weight is changed["embedding"].weight
    torch.testing.assert_close(changed["head"].weight, expected)


def test_a_policy_of_wide_layers_learns_from_what_it_sees(tmp_path: Path) -> None:
    """It acts while it learns (DAgger), with the weights of that moment."""
    recipe = {
        "data": {"kind": "environment", "id": "CartPole-v1", "count": 2},
        "model": {"kind": "q-network", "sizes": [128, 128]},
        "objective": {"kind": "dqn"}, "source": {"kind": "replay", "learning_starts": 16, "capacity": 64},
        "learn": {"batch": 8, "stop": {"updates": 2}, "compile": "off"},
        "evaluate": {"episodes": 1, "final": 1},
    }  # fmt: skip
    run = train(recipe, output=tmp_path / "run")
    found = compress(run.folder, "int8", tmp_path / "small", updates=5, episodes=2, force=True)
    assert any(isinstance(module, Int8Linear) for module in load(found.bundle).model.modules())
    # What acts within the block is what was learned so far, without gradients too.
    model = network()
    rounded, change = in_8_bits(model, computing=True)
    x = torch.randn(3, 160)
    with rounding(rounded, change):
        with torch.inference_mode():
            before = rounded(x)
        with torch.no_grad():
            rounded[4].parametrizations.weight.original.mul_(2)
        with torch.inference_mode():
            after = rounded(x)
    torch.testing.assert_close(after - rounded[4].bias, 2 * (before - rounded[4].bias))


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


def test_weights_of_16_bits_learn_in_32() -> None:
    """Steps that 16 bits would lose add up, and what is left has 16 bits."""
    signature = Signature(inputs={"x": Input(form="box", shape=(160,))}, outputs={"y": Output(form="number", size=3)})

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], None]:
            return {"y": self.inner(batch["x"].to(self.inner[0].weight.dtype)).float()}, None

    teacher = Named().bfloat16()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        # So far that steps of 1e-5 come near, each smaller than 16 bits can tell.
        student.inner[4].weight.add_(2e-3)
    before = [p.clone() for p in student.parameters()]
    inputs = {"x": torch.randn(256, 160)}
    match(student, teacher, inputs, signature, 200, 0, rate=1e-5)
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    moved = [float((p != q).float().mean()) for p, q in zip(student.parameters(), before, strict=True) if p.ndim == 2]
    assert min(moved) > 0.3, moved
