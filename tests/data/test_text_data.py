"""Text: tokenizers there and back, splits, storage, and refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data.options import CharacterOptions, TextOptions
from reinforge.data.text import (
    UNKNOWN_TEXT,
    CharacterTokenizer,
    TextPipeline,
    fit_characters,
    prepare_text,
    python_documentation,
)
from reinforge.errors import DataError, IntegrityError
from reinforge.registry import REGISTRY


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1), st.text())
def test_characters_there_and_back(training: str, other: str) -> None:
    tokenizer = fit_characters(CharacterOptions(), training)
    assert tokenizer.size == len(set(training)) + 1
    assert tokenizer.decode(tokenizer.encode(training)) == training
    ids = tokenizer.encode(other)
    assert ids.dtype == torch.int32
    assert len(ids) == len(other)
    expected = "".join(c if c in training else UNKNOWN_TEXT for c in other)
    assert tokenizer.decode(ids) == expected
    assert [int(i) == 0 for i in ids] == [c not in training for c in other]
    stored = json.loads(json.dumps(tokenizer.to_json()))
    assert CharacterTokenizer.from_json(stored).encode(other).equal(ids)


def test_split_fit_and_digest(tmp_path: Path) -> None:
    text = "abcabc" * 10 + "\r\nxyz\u4e2d"
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    data = REGISTRY.build("data", TextOptions(path=str(path), validation=0.1))
    decode = data.pipeline.tokenizer.decode
    assert decode(data.training) == text[:60]
    assert decode(data.validation) == UNKNOWN_TEXT * 6, "the vocabulary must come from the training part alone"
    assert data.validation_characters == 6
    assert data.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    again = prepare_text(TextOptions(path=str(path), validation=0.5), data.pipeline)
    assert again.pipeline is data.pipeline


def test_documentation_is_long_english_and_steady() -> None:
    text = python_documentation()
    assert len(text.encode()) >= 500_000
    assert text == python_documentation()
    words = set(text.split())
    assert {"the", "function", "returns", "assignment"} <= words
    assert text.count("The standard type hierarchy") >= 1


def test_pipeline_contract() -> None:
    pipeline = TextPipeline(fit_characters(CharacterOptions(), "hello world"))
    batch = pipeline.transform({"text": ["hello", "low"]})
    inputs, targets = batch["inputs"]["tokens"], batch["targets"]["tokens"]
    assert pipeline.inverse("tokens", inputs.row(0)) == ["hell"]
    assert pipeline.inverse("tokens", targets.row(0)) == ["ello"]
    assert pipeline.inverse("tokens", targets.row(1)) == ["ow"]
    row = pipeline.transform_row({"text": "low"})["inputs"]["tokens"]
    assert pipeline.inverse("tokens", row.pad()) == ["low"]
    signature = pipeline.signature
    assert signature.inputs["tokens"].sizes == (signature.outputs["tokens"].size,) == (pipeline.tokenizer.size,)
    stored = json.loads(json.dumps(pipeline.to_json()))
    assert TextPipeline.load(pipeline.schema, stored, pipeline.arrays()).to_json() == stored


@pytest.mark.parametrize(
    "broken",
    [
        {"format": "reinforge.text", "version": 1},
        {"format": "reinforge.text", "version": 2, "tokenizer": {}},
        {"format": "reinforge.text", "version": 1, "tokenizer": {"kind": "pickle"}},
        {
            "format": "reinforge.text",
            "version": 1,
            "tokenizer": {"kind": "character", "version": 1, "characters": "ba"},
        },
        {
            "format": "reinforge.text",
            "version": 1,
            "tokenizer": {"kind": "character", "version": 1, "characters": ["a"]},
        },
        [],
    ],
)
def test_hostile_pipelines(broken: object) -> None:
    schema = TextPipeline(CharacterTokenizer("a")).schema
    with pytest.raises(IntegrityError):
        TextPipeline.load(schema, broken, {})


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        prepare_text(TextOptions(path=str(tmp_path / "none.txt")))
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\nnot \xff fine")
    with pytest.raises(DataError, match="line 2"):
        prepare_text(TextOptions(path=str(bad)))
    bad.write_text("abc")
    with pytest.raises(DataError, match="too little"):
        prepare_text(TextOptions(path=str(bad)))
    pipeline = TextPipeline(CharacterTokenizer("ab"))
    with pytest.raises(DataError, match="no column 'text'"):
        pipeline.transform({"words": ["a"]})
    with pytest.raises(DataError, match=r"row 2.*int is no text"):
        pipeline.transform({"text": ["ab", 3]})
    with pytest.raises(DataError, match="too short"):
        pipeline.transform({"text": ["a"]})
    with pytest.raises(DataError, match="ids must lie"):
        pipeline.tokenizer.decode([3])
