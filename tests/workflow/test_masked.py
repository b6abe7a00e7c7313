"""An encoder that learns by filling in what is hidden, and a classifier that begins with it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import reinforge
from reinforge.bundle.loading import load
from reinforge.errors import BundleError, ComponentError, ReinforgeError
from reinforge.export.export import export
from reinforge.models.decoder import Decoder
from reinforge.serving.limits import Limits
from reinforge.serving.metrics import Metrics
from reinforge.serving.models import Models
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.generate import generate
from tests.workflow.test_language_below import ROWS, recipe


def masked(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "encoder",
        "data": {
            "kind": "documents", "path": str(path), "tokenizer": "character", "template": "plain", "validation": 0.2,
        },
        "model": {"kind": "decoder", "layers": 2, "width": 32, "heads": 2, "context": 32, "causal": False},
        "objective": {"kind": "masked", "part": 0.3},
        "source": {"kind": "tokens", "block": 32},
        "learn": {"batch": 16, "lr": 3e-3, "stop": {"updates": 300}, "threads": 1, "compile": "off"},
        "evaluate": {"every": 150, "unit": "updates"},
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a letter is, is told by the one behind it alone: x stands before 0, y before 1."""
    path = tmp_path_factory.mktemp("masked") / "texts.jsonl"
    draw = random.Random(0)
    lines = ["".join(draw.choice(("x0", "y1")) for _ in range(8)) for _ in range(150)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def encoder(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return reinforge.train(masked(texts), output=tmp_path_factory.mktemp("run") / "run")


def test_it_learns_from_what_follows(encoder: Any, texts: Path) -> None:
    """Whatever stands before, a letter can't be guessed better than by half from one side."""
    assert encoder.metrics["validation/accuracy"] > 0.8
    assert encoder.metrics["validation/loss"] < 0.5
    found = evaluate(encoder)
    assert found["accuracy"] == pytest.approx(encoder.metrics["validation/accuracy"], abs=1e-6)
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] <= high
    assert evaluate(encoder, data=str(texts))["accuracy"] > 0.8
    assert evaluate(encoder, data=str(texts)) == evaluate(encoder, data=str(texts)), "always the same are hidden"


def test_a_classifier_begins_with_it(encoder: Any, tmp_path: Path) -> None:
    run = reinforge.train(
        recipe(encoder.bundle_path, pool="mean"), data=[{**row, "text": row["text"][:8]} for row in ROWS],
        output=tmp_path / "run",
    )  # fmt: skip
    model = load(run.bundle_path).model
    decoder = model.get_submodule("encoders.text.decoder")
    assert isinstance(decoder, Decoder)
    assert not decoder.options.causal
    rows = [{"text": "y1y1"}, {"text": "x0"}]
    both, alone = load(run.bundle_path).predict(rows), load(run.bundle_path).predict(rows[1:])
    assert both[1]["label"]["probabilities"] == pytest.approx(alone[0]["label"]["probabilities"], abs=1e-5)


def test_whole_words_and_a_start_from_a_language_model(texts: Path, tmp_path: Path) -> None:
    """A causal bundle's weights go on as an encoder's."""
    few = {"batch": 4, "lr": 1e-3, "stop": {"updates": 2}, "threads": 1, "compile": "off"}
    model = {**masked(texts)["model"], "causal": True}
    first = reinforge.train(masked(texts, model=model, objective="language", learn=few), output=tmp_path / "first")
    objective = {"kind": "masked", "whole_words": True}
    changes = {"model": {"kind": "decoder", "causal": False}, "objective": objective, "learn": few}
    second = reinforge.train(masked(texts, **changes), start=first.folder, output=tmp_path / "second")
    assert load(second.bundle_path).model.options.causal is False  # type: ignore[union-attr]
    with pytest.raises(ComponentError, match="model sees but one"):
        reinforge.train(masked(texts, model=model, learn=few), output=tmp_path / "third")


def test_whoever_wants_it_to_write_is_told(encoder: Any, tmp_path: Path) -> None:
    for wanted in (
        lambda: generate(encoder.bundle_path, ["x0"]),
        lambda: load(encoder.bundle_path).predict([{"text": "x"}]),
    ):
        with pytest.raises(ComponentError, match=r"(?s)writes none.*pool: mean"):
            wanted()
    with pytest.raises(BundleError, match="documents alone"):
        evaluate(encoder, data=[{"prompt": "x", "answer": "0"}])
    for target in ("huggingface", "onnx"):
        with pytest.raises(ReinforgeError):
            export(encoder.bundle_path, target, tmp_path / target)
    models = Models({"encoder": load(encoder.bundle_path)}, Limits(), Metrics())
    assert models["encoder"].writer is None
