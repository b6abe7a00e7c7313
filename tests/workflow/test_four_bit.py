"""Adapters over weights in 4 bits, from a recipe: trained, gone on with, written as whole weights, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import reinforge
from reinforge.bundle.loading import load
from reinforge.engine.loop import Engine
from reinforge.export.export import export
from reinforge.models.decoder import Decoder
from reinforge.workflow.generate import Draws, generate
from tests.bundle import made

CHATS = [{"prompt": f"say {word}", "completion": word.upper().lower() * 2} for word in ("ab", "cd", "ef", "gh") * 10]
RECIPE: dict[str, Any] = {
    "name": "four", "data": {"kind": "chats", "validation": 0.2}, "model": "decoder", "objective": "language",
    "source": {"kind": "tokens", "block": 64}, "start": {"adapter": {"kind": "lora", "rank": 4, "bits": 4}},
    "learn": {"batch": 4, "lr": 2e-2, "precision": "bf16", "stop": {"updates": 40}, "threads": 1, "compile": "off"},
    "log": {"updates": 1},
}  # fmt: skip


def test_it_learns_and_leaves_as_whole_weights(tmp_path: Path) -> None:
    start = made.chat_bundle(tmp_path / "start")
    run = reinforge.train(RECIPE, data=CHATS, start=tmp_path / "start", output=tmp_path / "run")
    losses = [row["loss"] for row in run.log() if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    bundle = load(run.bundle_path)
    assert isinstance(bundle.model, Decoder)
    assert bundle.model.state_dict().keys() == start.model.state_dict().keys()
    assert bundle.model.blocks[0].attention.qkv.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert generate(bundle, ["say ab"], Draws(max_tokens=4))[0].tokens > 0
    export(run.bundle_path, "peft", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4
    # The adapter goes on, over 4 bits again.
    again = {**RECIPE, "start": {"adapter": {"kind": "lora", "bits": 4, "path": str(tmp_path / "adapter")}}}
    further = reinforge.train(again, data=CHATS, start=tmp_path / "start", output=tmp_path / "further")
    began = next(row["loss"] for row in further.log() if "loss" in row)
    assert began < losses[0] - 0.2


def test_a_run_that_is_killed_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.chat_bundle(tmp_path / "start")
    changes = {"checkpoint": {"updates": 4}, "learn": {**RECIPE["learn"], "stop": {"updates": 12}}}
    whole = reinforge.train({**RECIPE, **changes}, data=CHATS, start=tmp_path / "start", output=tmp_path / "whole")
    update = Engine._update
    done: list[int] = []

    def killed(self: Engine, *arguments: Any, **keywords: Any) -> Any:
        done.append(1)
        if len(done) == 7:
            raise MemoryError("killed")
        return update(self, *arguments, **keywords)

    monkeypatch.setattr(Engine, "_update", killed)
    with pytest.raises(MemoryError):
        reinforge.train({**RECIPE, **changes}, data=CHATS, start=tmp_path / "start", output=tmp_path / "half")
    monkeypatch.setattr(Engine, "_update", update)
    rest = reinforge.train(resume=tmp_path / "half", data=CHATS)
    ours, theirs = (load(each.bundle_path).model.state_dict() for each in (rest, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
