"""A language bundle below other models: a classifier on its decoder, and a smaller one taught by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import reinforge
from reinforge.bundle.loading import load
from reinforge.errors import ComponentError, RecipeError
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_encoder import DecoderEncoder
from reinforge.models.scorer_options import DecoderEncoderOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input
from reinforge.workflow.evaluate import evaluate
from tests.bundle import made

WORDS = ("good", "fine", "nice", "bad", "poor", "sad")
ROWS = [
    {"text": f"{word} {other}", "label": "praise" if word in WORDS[:3] else "blame"}
    for word in WORDS
    for other in ("day", "dog", "fox", "hat", "box", "cat", "sun", "sea", "sky", "tea")
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("below") / "bundle"
    made.chat_bundle(folder)
    return folder


def recipe(source: Path, **encoder: object) -> dict[str, Any]:
    field = {"kind": "text", "length": 32, "tokenizer": {"kind": "bundle", "source": str(source)}}
    return {
        "name": "labels",
        "data": {"kind": "table", "targets": ["label"], "fields": {"text": field}},
        "model": {
            "kind": "composed",
            "encoders": {"text": {"kind": "decoder", "source": str(source), **encoder}},
            "body": {"kind": "identity"},
        },
        "objective": "supervised",
        "learn": {"batch": 12, "lr": 3e-3, "stop": {"epochs": 8}, "threads": 1, "compile": "off"},
        "evaluate": {"baselines": False, "replicates": 0},
    }


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_classifier_on_a_decoder(chat: Path, tmp_path: Path, pool: str) -> None:
    run = reinforge.train(recipe(chat, pool=pool), data=ROWS, output=tmp_path / "run")
    assert run.metrics["test/accuracy"] > 0.8
    bundle = load(run.bundle_path)
    encoder = bundle.model.encoders["text"]  # type: ignore[union-attr, index]
    assert isinstance(encoder, DecoderEncoder)
    found = bundle.predict([{"text": "good dog"}, {"text": "sad box of tea"}])
    assert [each["label"]["label"] for each in found] == ["praise", "blame"]
    # Alone as in company, and the bundle needs the language model no more.
    alone = bundle.predict([{"text": "good dog"}])[0]["label"]["probabilities"]["praise"]
    assert alone == pytest.approx(found[0]["label"]["probabilities"]["praise"], abs=1e-5)
    assert encoder.described.source == ""
    assert evaluate(run, data=ROWS)["accuracy"] > 0.8


def test_it_begins_with_the_bundles_own_weights(chat: Path) -> None:
    original = load(chat).model
    assert isinstance(original, Decoder)
    size = original.embedding.num_embeddings
    block = Input(form="tokens", sizes=(size,), shape=(8,))
    encoder = REGISTRY.build("encoder", DecoderEncoderOptions(source=str(chat)), block)
    tokens = torch.randint(size, (2, 8), generator=torch.Generator().manual_seed(0))
    expected, _state = original.hidden({"tokens": tokens})
    torch.testing.assert_close(encoder(tokens), expected[:, -1])
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    with pytest.raises(ComponentError, match=r"(?s)tokens of its own.*kind: bundle"):
        REGISTRY.build("encoder", DecoderEncoderOptions(source=str(chat)), Input(form="tokens", sizes=(7,), shape=(8,)))
    long = Input(form="tokens", sizes=(size,), shape=(200,))
    with pytest.raises(ComponentError, match="it reads 96 tokens"):
        REGISTRY.build("encoder", DecoderEncoderOptions(source=str(chat)), long)
    with pytest.raises(ComponentError, match="needs the bundle of a language model"):
        REGISTRY.build("encoder", DecoderEncoderOptions(), block)


def test_a_smaller_model_is_taught_by_a_larger_one(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{row['text']} is {row['label']}."}) + "\n" for row in ROWS))
    base: dict[str, Any] = {
        "name": "teacher",
        "data": {
            "kind": "documents",
            "path": str(path),
            "tokenizer": "character",
            "template": "plain",
            "validation": 0.2,
        },
        "model": {"kind": "decoder", "layers": 2, "width": 32, "heads": 2, "context": 32},
        "objective": "language",
        "source": {"kind": "tokens", "block": 32},
        "learn": {"batch": 4, "lr": 1e-2, "stop": {"updates": 60}, "threads": 1, "compile": "off"},
        "log": {"updates": 5},
    }
    teacher = reinforge.train(base, output=tmp_path / "teacher")
    student = {
        **base, "name": "student", "model": {**base["model"], "layers": 1, "width": 16},
        "objective": {"kind": "distillation", "teacher": str(teacher.folder), "weight": 0.9},
    }  # fmt: skip
    run = reinforge.train(student, output=tmp_path / "student")
    log = [row["model/distilled"] for row in run.log() if "model/distilled" in row]
    assert log[-1] < 0.5 * log[0]
    one, other = (load(each.bundle_path).form.pipeline.tokenizer.to_json() for each in (teacher, run))  # type: ignore[attr-defined]
    assert one == other
    with pytest.raises(RecipeError, match="there is no teacher"):
        reinforge.train({**student, "objective": "distillation"}, output=tmp_path / "none")
    made.chat_bundle(tmp_path / "other")
    with pytest.raises(RecipeError, match="another tokenizer"):
        reinforge.train(
            {**student, "model": {"kind": "decoder"}, "data": {**base["data"], "template": None}},
            start=tmp_path / "other", output=tmp_path / "wrong",
        )  # fmt: skip
