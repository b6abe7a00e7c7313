"""One column of texts, read in several ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from reinforge.bundle.bundle import Bundle
from reinforge.core import batch as batches
from reinforge.core.ragged import Ragged
from reinforge.data.options import CharacterOptions, TableOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import Prepared, prepare_table
from reinforge.data.streaming import stream
from reinforge.data.text import fit_characters
from reinforge.errors import DataError, RecipeError
from reinforge.serving.asked import asked
from reinforge.serving.description import describe, row_schema
from reinforge.workflow.run import Run
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


def test_no_reading_of_a_target(tmp_path: Path) -> None:
    """It would give the answer away, and a request could not have it."""
    with pytest.raises(ValidationError, match="reads 'y', which is a target"):
        options(tmp_path, fields={"letters": {**LETTERS, "column": "y"}})
    with pytest.raises(ValidationError, match="reads 'y', which is a target"):
        options(tmp_path, fields={"tags": {"kind": "labels", "columns": ["text", "y"]}})
    with pytest.raises(ValidationError, match="reads 'b', which is a target"):
        options(tmp_path, targets={"place": {"kind": "vector", "columns": ["a", "b"]}},
                fields={"letters": {**LETTERS, "column": "b"}})  # fmt: skip


def test_no_reading_under_the_name_of_another_column(tmp_path: Path) -> None:
    asked = options(tmp_path, fields={"other": LETTERS})
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([f"other,{lines[0]}", *(f"x,{line}" for line in lines[1:])]) + "\n")
    with pytest.raises(RecipeError, match="'other' of their own"):
        prepare_table(asked)


def trained(folder: Path, **more: object) -> Run:
    said = options(folder, **more).model_dump(mode="json", exclude_unset=True)
    recipe = {
        "name": "two", "seed": 0, "data": {"kind": "table", **said}, "objective": "supervised",
        "model": {"kind": "composed", "encoders": {"letters": {"kind": "bag", "ngrams": 2, "buckets": 50}}},
        "source": {"kind": "loader", "alike": 2}, "learn": {"batch": 4, "stop": {"epochs": 1}},
    }  # fmt: skip
    return train(recipe, output=folder / "run")


def test_it_trains_and_a_request_holds_the_text_once(tmp_path: Path) -> None:
    """Served, described and asked for under its column's name, by the strictest of its readings."""
    fields = {"text": {"kind": "text"}, "letters": {**LETTERS, "missing": "error"}}
    bundle = trained(tmp_path, fields=fields).bundle
    assert isinstance(bundle, Bundle)
    (found,) = bundle.predict([{"text": "red of bees"}])
    assert found["y"]["label"] in "pq"
    with pytest.raises(DataError, match="'text' is missing"):
        bundle.predict([{"letters": "red of bees"}])
    schema = row_schema(bundle)
    assert schema["properties"] == {"text": {"type": ["string"]}}
    assert schema["required"] == ["text"]
    assert [(one["name"], one["optional"]) for one in asked(bundle)] == [("text", False)]
    assert describe("two", bundle)["inputs"] == ["text"]
    with pytest.raises(DataError, match="must not be missing"):
        bundle.predict([{"text": None}])


def test_the_report_shows_the_text_of_the_worst_rows(tmp_path: Path) -> None:
    """Though no field bears its column's name."""
    run = trained(tmp_path, inputs=["letters"], fields={"letters": LETTERS})
    page = (run.folder / "report.html").read_text().partition("worst mistakes")[2]
    assert any(text in page.partition("</section>")[0] for text in TEXTS)
