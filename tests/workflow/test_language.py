"""Chats, adapters and preferences through recipes, bundles and exports, very short."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reinforge import recipe as recipes
from reinforge.bundle.loading import load
from reinforge.bundle.peft_format import restore
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.data.made_rows import made_rows
from reinforge.errors import DataError, RecipeError
from reinforge.export.export import export
from reinforge.models.adapters import adapted_layers
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import LoRAOptions
from reinforge.workflow.run import Run
from reinforge.workflow.starting import begin_adapter
from reinforge.workflow.train import train
from tests.bundle import made

SHORT = ["learn.stop.updates=3", "learn.batch=4", "evaluate.every=null", "log.updates=1", "learn.schedule=constant"]
SHORT += ["learn.precision=fp32"]


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Run:
    own = ["model.layers=1", "model.width=32", "model.context=96", "source.block=96", "data.tokenizer.size=270"]
    return train(
        "chat-sft", [*SHORT, *own], data=made_rows("chats")[:60], output=tmp_path_factory.mktemp("language") / "sft"
    )


def logits(bundle: Any) -> Tensor:
    ids = torch.arange(20)[None]
    with torch.no_grad():
        found: Tensor = bundle.model({"tokens": ids})[0]["tokens"]
    return found


def test_chats_become_a_bundle_that_answers(sft: Run) -> None:
    assert sft.finished
    bundle = load(sft.bundle_path)
    assert {"validation/loss", "validation/accuracy", "validation/bits_per_byte"} <= set(sft.metrics)
    answer = bundle.predict([{"messages": [{"role": "user", "content": "Spell dog."}]}])[0]
    assert isinstance(answer["text"]["text"], str)


def test_adapters_leave_merged_and_alone(sft: Run, tmp_path: Path) -> None:
    exported = export(sft.folder, output=tmp_path / "hf")
    assert exported.family == "llama"
    # A downloaded folder is begun from as a bundle is.
    run = train(
        "chat-lora", [*SHORT, "source.block=96", "learn.lr=0.05"], start=exported.folder,
        data=made_rows("shouting")[:60], output=tmp_path / "lora",
    )  # fmt: skip
    before, after = load(sft.bundle_path), load(run.bundle_path)
    assert after.parents == (load(run.folder / "start").digest,)
    assert not torch.allclose(logits(before), logits(after), atol=0.1)
    tensors = after.training()
    assert tensors is not None
    model = before.model
    assert isinstance(model, Decoder)
    restore(model, LoRAOptions(rank=8, alpha=16), tensors)
    torch.testing.assert_close(logits(before), logits(after), atol=1e-4, rtol=1e-4)
    alone = export(run.folder, "peft", tmp_path / "adapter")
    assert (alone.folder / "adapter_config.json").is_file()
    with pytest.raises(RecipeError, match="without an adapter"):
        export(sft.folder, "peft", tmp_path / "none")


def test_a_training_goes_on_from_an_adapter_of_peft(sft: Run, tmp_path: Path) -> None:
    """Out by export, in by start.adapter.path: the first update begins where the other training ended, a reference is
    the model with the adapter, and the run needs the folder no more."""
    base = export(sft.folder, output=tmp_path / "hf").folder
    own = ["source.block=96", "start.adapter.rank=3", "start.adapter.patterns=['*qkv.q', '*down']", "learn.lr=0.05"]
    first = train(
        "chat-lora", [*SHORT, *own], start=base, data=made_rows("shouting")[:60], output=tmp_path / "first"
    )  # fmt: skip
    folder = export(first.folder, "peft", tmp_path / "adapter").folder
    path = f"start.adapter.path={folder}"
    still = train(
        "chat-lora", [*SHORT, "source.block=96", path, "learn.lr=1e-9"], start=base,
        data=made_rows("shouting")[:60], output=tmp_path / "still",
    )  # fmt: skip
    one, other = load(first.bundle_path), load(still.bundle_path)
    assert not torch.allclose(logits(load(sft.bundle_path)), logits(one), atol=0.05)
    torch.testing.assert_close(logits(one), logits(other), atol=1e-4, rtol=1e-4)
    before, after = one.training(), other.training()
    assert before is not None
    assert after is not None
    assert before.keys() == after.keys(), "the same layers, by the adapter's own config"
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-5, rtol=1e-5)
    again = export(still.folder, "peft", tmp_path / "again").folder
    assert (again / "adapter_config.json").is_file()
    dpo = train(
        "preferences-dpo", [*SHORT, "learn.lr=0.01", "start.adapter=lora", path], start=base,
        data=made_rows("preferences")[:60], output=tmp_path / "dpo",
    )  # fmt: skip
    line = next(line for line in dpo.log() if "model/preference" in line)
    assert line["model/preference"] == pytest.approx(0.6931, abs=1e-3)
    shutil.rmtree(folder)
    model = load(sft.bundle_path).model
    begin_adapter(LoRAOptions(path=str(folder)), model, still.folder)
    assert {name.rpartition(".")[2] for name in adapted_layers(model)} == {"qkv", "down"}


def test_an_adapter_that_is_not_there_is_told(sft: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no adapter_config\.json"):
        train(
            "chat-lora", [*SHORT, "source.block=96", f"start.adapter.path={tmp_path}"], start=sft.folder,
            data=made_rows("shouting")[:60], output=tmp_path / "none",
        )  # fmt: skip


def test_preferences_begin_where_the_ratio_is_one(sft: Run, tmp_path: Path) -> None:
    run = train(
        "preferences-dpo",
        [*SHORT, "learn.lr=0.01"],
        start=sft.folder,
        data=made_rows("preferences")[:60],
        output=tmp_path / "dpo",
    )
    first = next(line for line in run.log() if "model/preference" in line)
    assert first["model/preference"] == pytest.approx(0.6931, abs=1e-3)
    assert run.metrics["validation/loss"] < 0.69


def test_objectives_that_do_not_fit_the_rows_are_told(sft: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not fit the data's preferences"):
        train(
            "preferences-dpo", [*SHORT, "objective=kto"], start=sft.folder, data=made_rows("preferences")[:60],
            output=tmp_path / "dpo",
        )  # fmt: skip
    with pytest.raises(RecipeError, match="has width 32, and the recipe asks for 64"):
        train(
            recipes.load("chat-lora", [*SHORT, "model.width=64"]), start=sft.folder, data=made_rows("chats")[:60],
            output=tmp_path / "lora",
        )  # fmt: skip


def test_a_base_model_without_a_template_takes_one(tmp_path: Path) -> None:
    """The recipe's, or chatml, where its tokenizer has the tokens; else those that would fit are named."""
    bundle = made.chat_bundle(tmp_path / "chat")
    pipeline = dataclasses.replace(bundle.form.pipeline, template=None)
    write_bundle(
        tmp_path / "base", model=bundle.model, options=bundle.blueprint.options, signature=bundle.signature,
        form=TextForm(pipeline), examples=[{"text": "hello"}],
    )  # fmt: skip
    rows = [{"prompt": f"say {word}", "completion": word} for word in ("ab", "cd", "ef", "gh", "ij", "kl") * 4]
    recipe = {
        "name": "taught", "data": {"kind": "chats", "validation": 0.3}, "model": "decoder", "objective": "language",
        "source": {"kind": "tokens", "block": 64}, "learn": {"batch": 2, "stop": {"updates": 2}, "threads": 1},
    }  # fmt: skip
    for number, named in enumerate((None, "chatml")):
        changed = {**recipe, "data": {**recipe["data"], "template": named}}  # type: ignore[dict-item]
        run = train(changed, data=rows, start=tmp_path / "base", output=tmp_path / f"run{number}")
        assert run.bundle.form.pipeline.template.name == "chatml"
    with pytest.raises(DataError, match=r"(?s)template llama3 needs the token .*by its tokens: .*chatml"):
        train({**recipe, "data": {**recipe["data"], "template": "llama3"}}, data=rows, start=tmp_path / "base",
              output=tmp_path / "wrong")  # type: ignore[dict-item]  # fmt: skip


def test_an_adapter_needs_a_bundle_to_begin_with(tmp_path):
    with pytest.raises(RecipeError, match=r"(?s)start\.adapter.*no bundle.*--from"):
        train("chat-lora", output=tmp_path / "run")
