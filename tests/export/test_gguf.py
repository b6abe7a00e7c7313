"""GGUF: read back by its own reader, and by transformers, whose logits are ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.data.options import BytePairOptions
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.templates import TEMPLATES
from reinforge.data.text import TextPipeline
from reinforge.data.tokenizers import fit_byte_pairs
from reinforge.errors import ComponentError, RecipeError
from reinforge.export.export import export
from reinforge.models.decoder_options import DecoderOptions, RotaryOptions
from reinforge.registry import REGISTRY
from tests.bundle import made

gguf: Any = pytest.importorskip("gguf")


def decoder(path: Path, digits: Literal["together", "single"] = "together", **options: Any) -> Bundle:
    template = TEMPLATES["chatml"]
    marks = Marks(*template.documents)
    base = fit_byte_pairs(
        BytePairOptions(size=300, digits=digits), ["the quick brown fox, and the lazy dog. 12 + 12 = 24 " * 4]
    )
    pipeline = TextPipeline(
        SpecialTokenizer(base, (marks.pad, marks.bos, marks.eos, *template.specials)), marks, template
    )
    chosen = DecoderOptions(**{"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "context": 64, **options})
    torch.manual_seed(0)
    model = REGISTRY.build("model", chosen, pipeline.signature)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return write_bundle(
        path, model=model, options=chosen, signature=pipeline.signature, form=TextForm(pipeline),
        examples=[{"text": "the quick fox"}],
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"tied": True, "rotary": RotaryOptions(base=5e3)}], ids=["plain", "tied"])
def test_transformers_reads_the_file_and_gives_our_logits(tmp_path: Path, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    bundle = decoder(tmp_path / "bundle", **options)
    told = export(tmp_path / "bundle", "gguf", tmp_path / "out")
    assert told.family == "gguf llama"
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    assert reader.get_field("llama.context_length").contents() == 64
    assert "<|im_start|>" in reader.get_field("tokenizer.chat_template").contents()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
    )
    assert isinstance(bundle.form, TextForm)
    ids = bundle.form.pipeline.opened("the lazy brown dog.")[None].long()
    with torch.no_grad():
        found = model(ids).logits
        expected = bundle.model({"tokens": ids})[0]["tokens"]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("digits", "named"), [("together", "gpt-2"), ("single", "starcoder")])
def test_texts_are_cut_as_here(tmp_path: Path, digits: Literal["together", "single"], named: str) -> None:
    """llama.cpp knows GPT-2's way by its name, and StarCoder's, which keeps digits apart."""
    transformers = pytest.importorskip("transformers")
    bundle = decoder(tmp_path / "bundle", digits)
    export(tmp_path / "bundle", "gguf", tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    assert reader.get_field("tokenizer.ggml.pre").contents() == named
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    assert isinstance(bundle.form, TextForm)
    for text in ("the fox and 12 dogs", "12 + 1212 = 1224", "x12y  7"):
        ours = bundle.form.pipeline.tokenizer.encode(text).tolist()
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours


def test_what_it_can_not_say_is_refused(tmp_path: Path) -> None:
    made.text_bundle(tmp_path / "characters")
    with pytest.raises(ComponentError, match="no form in GGUF"):
        export(tmp_path / "characters", "gguf", tmp_path / "a")
    made.table_bundle(tmp_path / "table")
    with pytest.raises(RecipeError, match=r"llama\.cpp"):
        export(tmp_path / "table", "gguf", tmp_path / "a")
    decoder(tmp_path / "qwen", qk_norm=True)
    with pytest.raises(ComponentError, match="not written yet"):
        export(tmp_path / "qwen", "gguf", tmp_path / "a")
    assert not (tmp_path / "a").exists()
