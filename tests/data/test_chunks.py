"""Pieces of a table, put together, are the table, with the same places in errors."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data import chunks as module
from reinforge.data.chunks import Chunks
from reinforge.data.readers import read
from reinforge.data.reading.how import How
from reinforge.errors import DataError


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLE", 64)


def assert_same(path: Path, rows: int = 3) -> int:
    whole = read(path)
    pieces = Chunks(str(path), Path(), How(), rows)
    tables = list(pieces)
    for name, series in whole.columns.items():
        assert [value for table in tables for value in table.columns[name].to_list()] == series.to_list()
    places = [table.origin.at(row, "a") for table in tables for row in range(len(table))]
    assert places == [whole.origin.at(row, "a") for row in range(len(whole))]
    assert pieces.digest() == whole.digest
    return len(tables)


CELL = st.text(st.sampled_from('ab,;" \n1é中'), max_size=8)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=40), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_delimited_text(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("c") / "t.csv"
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(end.join(["a,b", *quoted]) + end)
    assert_same(path)


def test_other_forms(tmp_path):
    generator = np.random.default_rng(0)
    frame = pl.DataFrame({"a": generator.normal(size=50), "b": generator.choice(["x", "y", None], 50)})
    frame.write_csv(tmp_path / "t.csv")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.csv").read_bytes())
    (tmp_path / "gb.csv").write_bytes(
        ("\n\n" + "".join(f"{i},温度{i}\n" for i in range(90))).replace("0,", "a,", 1).encode("gb18030")
    )
    frame.write_csv(tmp_path / "semi.csv", separator=";")
    frame.write_ndjson(tmp_path / "t.jsonl")
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ipc(tmp_path / "t.arrow")
    frame.write_excel(tmp_path / "t.xlsx")
    for name in ("t.csv", "bom.csv", "semi.csv", "t.jsonl", "t.parquet", "t.arrow", "t.xlsx"):
        assert assert_same(tmp_path / name, 7) > 2, name
    tables = list(Chunks("gb.csv", tmp_path, How(), 7))
    assert sum(map(len, tables)) == 89
    assert tables[-1].origin.at(len(tables[-1]) - 1).endswith("line 92")


def test_several_files(tmp_path):
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("a,b\n" + "".join(f"{i},{name}\n" for i in range(20)))
    pieces = Chunks("*.csv", tmp_path, How(), 6)
    whole = read("*.csv", base=tmp_path)
    assert [v for table in pieces for v in table.columns["b"].to_list()] == whole.columns["b"].to_list()
    assert pieces.digest() == whole.digest


@pytest.mark.parametrize(
    ("content", "name", "problem", "where"),
    [
        ("a,b\n" + "1,2\n" * 50 + "3\n", "t.csv", "1 values", "line 52"),
        ('{"a": 1}\n' * 50 + '{"a": \n', "t.jsonl", "malformed JSON", "line 51"),
        ('"a\n",b\n1,2\n', "t.csv", "header over several lines", "line 1"),
    ],
)
def test_errors_name_the_line_of_the_file(content, name, problem, where, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=problem) as caught:
        list(Chunks(name, tmp_path, How(), 5))
    assert caught.value.where == f"{name}, {where}"


def test_wide_encodings_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(DataError, match="utf-16 can't be streamed"):
        list(Chunks("t.csv", tmp_path, How(), 5))
