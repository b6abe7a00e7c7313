"""Some rows at random: which they are, that all stand the same chance, and that pieces give the same ones."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reinforge.data import chunks, sampling
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.readers import read
from reinforge.errors import DataError
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.prepare import prepare
from reinforge.workflow.train import train


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chunks, "_SAMPLE", 512)
    monkeypatch.setenv("REINFORGE_LANG", "en")
    draw = np.random.default_rng(0)
    x = draw.normal(size=300)
    y = np.where(x + draw.normal(size=300) > 0, "yes", "no")
    pl.DataFrame({"number": np.arange(300), "x": x, "y": y}).write_csv(tmp_path / "t.csv")
    (tmp_path / "header.csv").write_text("x,y\n")
    return tmp_path


def options(**more: object) -> TableOptions:
    return TableOptions.model_validate({"path": "t.csv", "targets": ["y"], **more})


def test_which_rows_follows_from_the_seed_and_each_stands_the_same_chance() -> None:
    counts = np.zeros(40)
    for seed in range(2000):
        rows = sampling.chosen(40, 10, seed)
        assert len(rows) == 10
        assert np.array_equal(rows, np.unique(rows))
        counts[rows] += 1
    # Binomial: 2,000 draws of 1/4, within five deviations.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)
    assert np.array_equal(sampling.chosen(40, 10, 3), sampling.chosen(40, 10, 3))
    assert np.array_equal(sampling.chosen(40, 40, 3), np.arange(40))


def test_a_sample_is_the_table_of_those_rows(folder: Path) -> None:
    prepared = prepare_table(options(rows=100, inputs=["x"]), seed=7, base=folder)
    rows = sampling.chosen(300, 100, 7)
    sides = (prepared.rows.train, prepared.rows.validation, prepared.rows.test)
    assert np.array_equal(np.sort(np.concatenate(sides)), rows)
    assert prepared.notes[0] == "100 of 300 rows, drawn at random (`data.rows`)"
    alone = read(folder / "t.csv").take(rows)
    same = prepare_table(options(inputs=["x"]), seed=7, data=alone)
    assert prepared.pipeline.to_json() == same.pipeline.to_json()
    assert np.array_equal(rows[same.rows.test], prepared.rows.test)
    # The place of a row is still the file's.
    assert prepared.training.origin.at(0) == f"t.csv, line {prepared.rows.train[0] + 2}"
    whole = prepare_table(options(rows=5000, inputs=["x"]), seed=7, base=folder)
    assert len(whole.training) == len(prepare_table(options(inputs=["x"]), seed=7, base=folder).training)
    assert not any("drawn" in note for note in whole.notes)


@pytest.mark.parametrize("form", ["csv", "parquet", "json"])
def test_pieces_give_the_same_rows(form: str, folder: Path) -> None:
    table = pl.read_csv(folder / "t.csv")
    write = {"csv": lambda path: None, "parquet": table.write_parquet, "json": table.write_json}
    write[form](folder / f"t.{form}")
    whole = prepare_table(options(path=f"t.{form}", rows=90), seed=1, base=folder)
    pieces = prepare_table(options(path=f"t.{form}", rows=90, stream=32), seed=1, base=folder)
    assert whole.notes == pieces.notes
    assert whole.digest == pieces.digest
    assert whole.pipeline.to_json() == pieces.pipeline.to_json()
    for side in ("train", "validation", "test"):
        assert np.array_equal(getattr(whole.rows, side), getattr(pieces.rows, side))
    assert whole.training.origin.at(3) == pieces.training.origin.at(3)


def test_a_header_alone_is_an_error_in_pieces_too(folder: Path) -> None:
    for more in ({}, {"stream": 32}):
        with pytest.raises(DataError, match="no row follows"):
            prepare_table(options(path="header.csv", rows=5, **more), base=folder)


def test_card_and_run_say_so(folder: Path) -> None:
    recipe = {
        "data": {"kind": "table", "path": str(folder / "t.csv"), "targets": ["y"], "rows": 120, "stream": 50},
        "model": "composed", "objective": "supervised", "learn": {"stop": {"epochs": 1}},
    }  # fmt: skip
    told = "120 of 300 rows, drawn at random"
    prepare(recipe, output=folder / "card.html")
    assert told in (folder / "card.html").read_text("utf-8")
    run = train(recipe, output=folder / "run")
    assert told in (run.folder / "report.html").read_text("utf-8")
    # Judged again, it is on the same test rows.
    assert run.metrics["test/accuracy"] == pytest.approx(evaluate(run)["accuracy"])
