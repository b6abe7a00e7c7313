"""doctor: what it says a recipe costs, against what can be counted."""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from reinforge import recipe as recipes
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.inference.native import built
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.workflow import doctor as room
from reinforge.workflow import machine
from reinforge.workflow.doctor import doctor
from reinforge.workflow.measure import SavedForBackward, measure
from reinforge.workflow.tasks.assemble import assemble
from tests.bundle import made


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")


def test_the_machine_is_looked_at() -> None:
    found = doctor()
    checks = {check.name: check for check in found.checks}
    assert checks["torch"].found == torch.__version__
    assert checks["Python"].verdict == "good"
    assert "[serve]" in checks
    assert json.dumps(found.summary())
    assert str(machine.processors()) in checks["threads"].found
    compiled = all(built(dtype) is not None for dtype in (torch.float32, torch.bfloat16))
    assert checks["generation"].verdict == ("good" if compiled else "open")
    assert checks["policies' layers"].verdict == checks["generation"].verdict


def test_without_compiled_functions_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_NATIVE", "0")
    checks = {check.name: check for check in doctor().checks}
    for name in ("generation", "policies' layers"):
        assert (checks[name].verdict, "REINFORGE_NATIVE=0" in checks[name].found) == ("open", True)


def test_a_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(package: str) -> str:
        if package == "uvicorn":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(room.importlib.metadata, "version", without)
    monkeypatch.setattr(room, "_torchvision", lambda: None)
    found = doctor()
    check = next(check for check in found.checks if check.name == "[serve]")
    assert (check.verdict, check.remedy) == ("open", "pip install 'reinforge[serve]'")
    assert "pip install 'reinforge[serve]'" in found.text()
    assert found.healthy


def test_a_full_disk_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "disk", lambda folder: 1 << 20)
    found = doctor()
    assert not found.healthy
    assert "! " in found.text()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_memory_is_what_can_be_counted(optimizer: str) -> None:
    recipe = recipes.load("penguins", {"learn.optimizer.kind": optimizer})
    task = assemble(recipe)
    count = sum(p.numel() for p in task.model.parameters())
    cost = measure(task, recipe, seconds=0.2)
    assert (cost.parameters, cost.learning) == (count, 0)
    # Within the padding of each parameter to 64 bytes.
    slack = 64 * 20 + 4 * 128
    assert 4 * count <= cost.weights <= 4 * count + slack
    assert 4 * count <= cost.gradients <= 4 * count + slack
    assert math.isclose(cost.optimizer, {"adamw": 8 * count, "sgd": 0}[optimizer], abs_tol=2 * slack)
    assert cost.memory >= cost.weights + cost.gradients + cost.optimizer
    assert cost.seconds is not None
    assert cost.seconds > 0
    assert cost.bound == "epochs"


def test_a_replay_buffer_counts_in_full() -> None:
    data = {"kind": "environment", "id": "CartPole-v1"}
    source = {"kind": "replay", "capacity": 10_000, "learning_starts": 64}
    recipe = recipes.load(
        {"data": data, "model": "q-network", "objective": "dqn", "source": source, "learn": {"stop": {"steps": 1000}}}
    )
    cost = measure(assemble(recipe), recipe, seconds=0.2)
    # An observation of four floats, action, reward, two flags, the copy's number, the places of the next row and of the
    # one before; a segment (a sixteenth) more than the capacity, and room for what episodes ended with.
    least = 10_000 * (16 + 8 + 4 + 1 + 1 + 4 + 8 + 8)
    assert least <= cost.data <= 1.3 * least
    assert cost.learning == cost.parameters
    assert cost.bound == "steps"


def test_activations_are_what_backward_keeps() -> None:
    model = nn.Sequential(nn.Linear(10, 1000), nn.Tanh(), nn.Linear(1000, 1))
    x = torch.randn(64, 10)
    meter = SavedForBackward()
    with meter:
        model(x).sum().backward()
        model(x).sum().backward()
    # tanh's output, kept once though two layers want it, and the input; released before the second pass.
    assert meter.peak == 4 * (64 * 1000 + 64 * 10)


def test_doctor_of_a_recipe_says_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    found = doctor("linear-regression", seconds=0.2)
    assert found.healthy
    assert found.recipe == "linear-regression"
    assert "the whole run" in found.text()
    assert found.summary()["cost"]["parameters"] == 3
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(1, 1))
    monkeypatch.setattr(machine, "process_memory", lambda: 0)
    assert not doctor("linear-regression", seconds=0.2).healthy


def test_the_checkpoint_is_sized_by_its_tensors() -> None:
    recipe = recipes.load("linear-regression")
    cost = measure(assemble(recipe), recipe, seconds=0.1)
    # Weights, two moments of AdamW, the best weights so far, random states: more than the weights alone.
    assert cost.checkpoint > 3 * cost.parameters * 4


def test_it_counts_what_adapters_need_and_what_is_begun_with(tmp_path: Path) -> None:
    """A bundle's own size, not that of a new model; frozen weights in fp32, bf16 and 4 bits; and none of them twice."""
    pipeline = made.chat_pipeline()
    options = DecoderOptions(layers=2, width=256, heads=4, context=64)
    torch.manual_seed(0)
    model = Decoder(options, pipeline.signature)
    write_bundle(
        tmp_path / "start", model=model, options=options, signature=pipeline.signature, form=TextForm(pipeline),
        examples=[{"text": "hello"}],
    )  # fmt: skip
    count = sum(parameter.numel() for parameter in model.parameters())
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"prompt": f"w{n}", "completion": "yes"}) + "\n" for n in range(60)))
    changes = {"data.path": str(chats), "learn.batch": 2, "learn.microbatch": 1, "source.block": 32,
               "data.validation": 0.2, "start.adapter.rank": 2, "learn.device": "cpu"}  # fmt: skip
    costs = {}
    for name, more in {
        "whole": {"start.adapter": None, "learn.precision": "fp32"}, "fp32": {"learn.precision": "fp32"}, "bf16": {},
        "4 bits": {"start.adapter.bits": 4},
    }.items():  # fmt: skip
        given = {key: value for key, value in changes.items() if name != "whole" or "adapter" not in key}
        costs[name] = doctor("own-chats", given | more, start=tmp_path / "start", seconds=0.1).cost
    whole, fp32, bf16, four = costs.values()
    assert whole and fp32 and bf16 and four  # noqa: PT018 (for the type checker)
    assert whole.parameters == count
    adapters = fp32.parameters - count
    assert 0 < adapters < count / 20
    assert bf16.parameters == four.parameters == fp32.parameters
    assert fp32.weights == pytest.approx(4 * fp32.parameters, rel=0.01)
    # Adapters have masters beside their halves.
    assert bf16.weights == pytest.approx(2 * count + 6 * adapters, rel=0.02)
    assert four.weights == pytest.approx(bf16.weights - linear * (2 - 4.5 / 8), rel=0.02)
    # Frozen weights are kept for the backward pass, but they are there anyway.
    assert fp32.activations < 4 * count
    assert four.activations < 1.2 * bf16.activations
    assert four.memory < bf16.memory < fp32.memory < whole.memory
