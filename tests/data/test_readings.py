"""One column of texts, read in several ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reinforge.bundle.bundle import Bundle
from reinforge.core import batch as batches
from reinforge.core.ragged import Ragged
from reinforge.data.options import CharacterOptions, TableOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import Prepared, prepare_table
from reinforge.data.streaming import stream
from reinforge.data.text import fit_characters
from reinforge.errors import RecipeError
from reinforge.workflow.train import train

LETTERS = {"kind": "text", "column": "text", "length": 9, "tokenizer": {"kind": "character"}}
TEXTS = [f"{word} of {other}" for word in ("red", "blue", "dim", "odd") for other in ("ants", "bees", "cats", "dogs")]


def options(folder: Path, **more: object) -> TableOptions:
    lines = ["text,y", *(f"{text},{'pq'[place % 2]}" for place, text in enumerate(TEXTS * 2))]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    said = {"path": str(folder / "t.csv"), "targets": ["y"], "clean": {"together": False, "sparse": 0.9}}
    return TableOptions.model_validate({**said, "fields": {"text": {"kind": "text"}, "letters": LETTERS}, **more})


def blocks(prepared: Prepared) -> dict[str, Ragged]:
    found = batches.section(prepared.train, "inputs")
    return {name: leaf for name, leaf in found.items() if isinstance(leaf, Ragged)}


def test_each_reading_is_an_input_of_its_own(tmp_path: Path) -> None:
    prepared = prepare_table(options(tmp_path))
    found = blocks(prepared)
    assert list(found) == ["text", "letters"]
    texts = prepared.training.column("text").to_list()
    oracle = fit_characters(CharacterOptions(), texts)
    for row, text in enumerate(texts):
        assert torch.equal(found["letters"].row(row), oracle.encode(text, 9).long())
    assert all(len(row) == 3 for row in (found["text"].row(place) for place in range(len(texts))))
    # A request, and an example, hold the text once.
    assert all(set(example) == {"text"} for example in prepared.examples)
    pipeline = Pipeline.load(prepared.schema, prepared.pipeline.to_json(), prepared.pipeline.arrays())
    again = pipeline.transform({"text": texts}, targets=False)
    assert torch.equal(batches.section(again, "inputs")["letters"].values, found["letters"].values)


def test_the_same_in_pieces(tmp_path: Path) -> None:
    asked = options(tmp_path)
    whole = blocks(prepare_table(asked, seed=2))
    pieces = blocks(stream(asked.model_copy(update={"stream": 7}), tmp_path / "out", seed=2))
    assert all(torch.equal(whole[name].values, pieces[name].values) for name in ("text", "letters"))


def test_a_reading_of_nothing_and_of_no_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no column 'words'"):
        prepare_table(options(tmp_path, fields={"letters": {"kind": "text", "column": "words"}}))
    with pytest.raises(RecipeError, match="has no option 'column'"):
        prepare_table(options(tmp_path, fields={"letters": {"kind": "number", "column": "text"}}))


def test_it_trains_and_serves(tmp_path: Path) -> None:
    asked = options(tmp_path).model_dump(mode="json", exclude_unset=True)
    recipe = {
        "name": "two", "seed": 0, "data": {"kind": "table", **asked}, "objective": "supervised",
        "model": {"kind": "composed", "encoders": {"letters": {"kind": "bag", "ngrams": 2, "buckets": 50}}},
        "source": {"kind": "loader", "alike": 2}, "learn": {"batch": 4, "stop": {"epochs": 1}},
    }  # fmt: skip
    run = train(recipe, output=tmp_path / "run")
    bundle = run.bundle
    assert isinstance(bundle, Bundle)
    (found,) = bundle.predict([{"text": "red of bees"}])
    assert found["y"]["label"] in "pq"
