"""Language models made smaller: heads and units that nothing depends on go, and what they learn again from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.compress.compress import compress
from reinforge.compress.decoders import fewer, pruned_decoder
from reinforge.compress.matching import TOKENS, _at_once, inputs_of
from reinforge.compress.shrinking import of_low_rank
from reinforge.core.ragged import Ragged
from reinforge.data.language_data import prepare_documents
from reinforge.errors import RecipeError
from reinforge.inference.packed import PackedDecoder
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.schema.signature import Input, Output, Signature
from reinforge.workflow.evaluate import recipe_of
from reinforge.workflow.train import train

SIGNATURE = Signature(
    inputs={"text": Input(form="tokens", sizes=(11,))}, outputs={"text": Output(form="tokens", size=11)}
)
MODEL = {"kind": "decoder", "layers": 1, "width": 32, "heads": 4, "context": 24}
LEARN = {"batch": 8, "lr": 3e-3, "compile": "off", "threads": 1}


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("bias", ["none", "all"])
def test_heads_and_units_that_nothing_depends_on_go(kv_heads: int | None, bias: Any) -> None:
    options = DecoderOptions(layers=2, width=32, heads=8, kv_heads=kv_heads, hidden=64, context=16, bias=bias)
    torch.manual_seed(0)
    model = Decoder(options, SIGNATURE).eval()
    groups = kv_heads or 8
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            # Other ones in each layer.
            dead = torch.arange(number, groups, 2)
            block.attention.out.weight.view(32, groups, -1)[:, :, :] *= 20
            block.attention.out.weight.view(32, groups, -1)[:, dead] = 0
            block.attention.qkv.weight[:32].view(groups, -1)[dead] *= 0.1
            block.feed_forward.down.weight[:, number::2] = 0
            block.feed_forward.gate_up.weight.view(2, 64, 32)[:, number::2] *= 0.1
    # What leaves half of the heads and half of the units.
    total = sum(parameter.numel() for parameter in model.parameters())
    inner = 8 * 4
    halves = 2 * ((2 * inner + 2 * groups * 4) * 32 + 3 * 64 * 32) / 2
    small, less = pruned_decoder(model, options, 1 - halves / total, SIGNATURE)
    assert (less.heads, less.kv_heads, less.each_head, less.hidden) == (4, kv_heads and 1, 4, 32)
    tokens = torch.randint(11, (3, 16), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(small({"text": tokens})[0]["text"], model({"text": tokens})[0]["text"])


def test_what_is_left_is_what_was_asked_for() -> None:
    options = DecoderOptions(layers=2, width=64, heads=4, context=16)
    model = Decoder(options, SIGNATURE)
    total = sum(parameter.numel() for parameter in model.parameters())
    for keep in (0.3, 0.5, 0.8):
        small, _less = pruned_decoder(model, options, keep, SIGNATURE)
        assert sum(parameter.numel() for parameter in small.parameters()) / total == pytest.approx(keep, abs=0.03)
    with pytest.raises(RecipeError, match="outside of heads"):
        fewer(model, options, 0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_a_low_rank_leaves_what_is_said_at_last(tied: bool) -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderOptions(layers=1, width=32, heads=4, context=16, tied=tied), SIGNATURE).eval()
    small, change = of_low_rank(model, 0.5)
    assert set(change.low_rank) == {
        f"blocks.0.{part}" for part in ("attention.qkv", "attention.out", "feed_forward.gate_up", "feed_forward.down")
    }
    tokens = torch.randint(11, (2, 8))
    with torch.inference_mode():
        said = small({"text": tokens})[0]["text"]
        assert said.shape == (2, 8, 11)
        torch.testing.assert_close(PackedDecoder.of(small)({"text": tokens})[0]["text"], said)  # type: ignore[arg-type]


def test_long_rows_are_taken_fewer_at_once() -> None:
    inputs = {"text": Ragged.from_rows([torch.zeros(64), torch.zeros(64)])}
    assert _at_once(inputs, SIGNATURE) == TOKENS // 64
    other = Signature(inputs=SIGNATURE.inputs, outputs={"label": Output(form="category", size=2)})
    assert _at_once(inputs, other) == 128


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages, on documents and on rewards."""
    folder = tmp_path_factory.mktemp("texts")
    rows = "".join(json.dumps({"text": f"{a}+{b}={a + b}"}) + "\n" for a in range(10) for b in range(10))
    (folder / "documents.jsonl").write_text(rows)
    asked = "".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(9))
    (folder / "questions.jsonl").write_text(asked)
    recipe = {
        "name": "texts", "model": MODEL, "objective": {"kind": "language"}, "learn": LEARN,
        "data": {"kind": "documents", "path": str(folder / "documents.jsonl"), "tokenizer": "character",
                 "template": "plain", "validation": 0.2},
        "stages": [
            {"name": "read", "source": {"kind": "tokens", "block": 24}, "learn": {"stop": {"updates": 60}}},
            {
                "name": "rewards", "data": {"kind": "questions", "path": str(folder / "questions.jsonl"), "tokens": 3},
                "objective": {"kind": "grpo"}, "source": {"kind": "completions", "prompts": 2, "group": 2,
                                                         "max_tokens": 3},
                "learn": {"batch": 4, "stop": {"updates": 1}},
            },
        ],
    }  # fmt: skip
    train(recipe, output=folder / "run")
    return folder / "run"


def test_held_out_texts_are_not_learned_again(texts: Path) -> None:
    bundle = load(min((texts / "stages").iterdir()) / "bundle")
    (read,) = inputs_of(bundle, None, 0).values()
    assert isinstance(read, Ragged)
    pipeline: Any = bundle.form.pipeline
    recipe: Any = recipe_of(bundle)
    data = prepare_documents(recipe.data, pipeline, seed=recipe.seed)
    learned, training, held = (
        {pipeline.tokenizer.decode(part.row(index).tolist()) for index in range(len(part))}
        for part in (read, data.training.tokens, data.validation.tokens)
    )
    assert learned == training
    assert len(held) == 20
    assert not learned & held


def test_texts_of_the_recipe_and_answers_of_its_own(texts: Path) -> None:
    first, second = (load(folder / "bundle") for folder in sorted((texts / "stages").iterdir()))
    read = inputs_of(first, None, 0)["text" if "text" in first.signature.inputs else next(iter(first.signature.inputs))]
    assert isinstance(read, Ragged)
    decode = first.form.pipeline.tokenizer.decode  # type: ignore[attr-defined]
    assert all("=" in decode(read.row(index).tolist()) for index in range(len(read)))
    answered = inputs_of(second, None, 0)[next(iter(second.signature.inputs))]
    assert isinstance(answered, Ragged)
    written = [decode(answered.row(index).tolist()) for index in range(20)]
    assert all("+1=" in text for text in written)
    assert any(not text.endswith("=") for text in written), "answers belong to it"
    assert int(answered.lengths.max()) <= MODEL["context"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prune", "low-rank", "distill"])
def test_a_smaller_one_learns_what_the_larger_one_says(texts: Path, tmp_path: Path, method: str) -> None:
    parent = sorted((texts / "stages").iterdir())[0]
    options = {"width": 16, "heads": 2} if method == "distill" else None
    found = compress(
        parent, method, tmp_path / "small", updates=200, keep=0.4, tolerance=0.5, options=options, goal="size"
    )
    assert found.smaller > 1.5
    small: Bundle = load(tmp_path / "small")
    assert small.parents == (load(parent / "bundle").digest,)
    assert "text" in small.predict([{"text": "1+1="}])[0]
