"""Every form of table holds the same rows: one frame, written by other libraries, read by us."""

import datetime
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from reinforge.data.readers import read
from reinforge.data.table import Table
from reinforge.errors import DataError
from reinforge.schema.schema import Schema

FRAME = pl.DataFrame({"n": [1, 2, None, -4], "x": [1 / 3, 2.0, 3.25, None], "name": ["a", " ü", None, "温"]})


def plain(table: Table) -> dict[str, list[object]]:
    """The columns, with numbers as numbers however they are spelt."""
    schema = Schema.from_json(
        {
            "version": 1,
            "fields": [
                {"kind": "number", "name": "n", "role": "input"},
                {"kind": "number", "name": "x", "role": "input"},
            ],
        }
    )
    numbers = {k: [None if v != v else float(v) for v in c] for k, c in table.plain(schema).items()}  # type: ignore[union-attr]
    return {**numbers, "name": table.columns["name"].to_list()}


EXPECTED = {"n": [1, 2, None, -4], "x": [1 / 3, 2.0, 3.25, None], "name": ["a", " ü", None, "温"]}


def write_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE people (n INTEGER, x REAL, name TEXT)")
        connection.executemany("INSERT INTO people VALUES (?, ?, ?)", FRAME.rows())
    connection.close()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", FRAME.write_csv),
        ("t.parquet", FRAME.write_parquet),
        ("t.arrow", FRAME.write_ipc),
        ("t.feather", lambda path: FRAME.write_ipc(path, compression="zstd")),
        ("t.jsonl", FRAME.write_ndjson),
        ("t.json", FRAME.write_json),
        ("t.xlsx", FRAME.write_excel),
    ],
)
def test_every_form_holds_the_same(name: str, write: object, tmp_path: Path) -> None:
    write(tmp_path / name)  # type: ignore[operator]
    table = read(name, base=tmp_path)
    assert plain(table) == EXPECTED
    assert table.digest.startswith("sha256:")
    assert name in table.origin.at(1)
    assert table.digest == read(name, base=tmp_path).digest


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("t.parquet", "t.arrow", "t.xlsx"):
        (tmp_path / name).write_bytes(b"rubbish" * 100)
        with pytest.raises(DataError, match="can't be read") as caught:
            read(name, base=tmp_path)
        assert caught.value.where == name
        with pytest.raises(DataError, match="no such file"):
            read(f"missing-{name}", base=tmp_path)


def test_sheets_of_a_workbook(tmp_path: Path) -> None:
    import xlsxwriter

    path = tmp_path / "t.xlsx"
    with xlsxwriter.Workbook(path) as book:
        first, second = book.add_worksheet("first"), book.add_worksheet("数据")
        first.write_row(0, 0, ["a", "b"])
        first.write_row(1, 0, ["007", 1.5])
        first.write_row(3, 0, ["x", True])
        second.write_row(0, 0, ["day"])
        second.write_datetime(1, 0, datetime.datetime(2026, 11, 23), book.add_format({"num_format": "yyyy-mm-dd"}))
        book.add_worksheet("empty")
    table = read(path)
    assert {k: s.to_list() for k, s in table.columns.items()} == {"a": ["007", "x"], "b": ["1.5", "true"]}
    assert table.origin.at(1).endswith("row 4")
    assert "'first'" in table.notes[0]
    other = read(path, sheet="数据")
    assert other.columns["day"].to_list()[0].startswith("2026-11-23")
    assert not other.notes
    with pytest.raises(DataError, match="no sheet 'second'"):
        read(path, sheet="second")
    with pytest.raises(DataError, match="is empty"):
        read(path, sheet="empty")


@pytest.mark.parametrize("url", ["sqlite:///p.db?table=people", "sqlite:///p.db?query=SELECT%20*%20FROM%20people"])
def test_sqlite(url: str, tmp_path: Path) -> None:
    write_sqlite(tmp_path / "p.db")
    table = read(url, base=tmp_path)
    assert plain(table) == EXPECTED
    assert plain(read("sqlite:///p.db", base=tmp_path, query="people")) == EXPECTED
    chosen = read(f"sqlite:///{tmp_path}/p.db", query="SELECT name, 2 * n AS n FROM people WHERE n > 1")
    assert {k: s.to_list() for k, s in chosen.columns.items()} == {"name": [" ü"], "n": [4]}
    assert chosen.digest != table.digest


@pytest.mark.parametrize(
    ("source", "query", "problem"),
    [
        ("sqlite:///p.db", None, "isn't said what to read"),
        ("sqlite:///p.db", "animals", "no such table"),
        ("sqlite:///p.db", "SELECT * FROM people WHERE n > 99", "no row follows"),
        ("sqlite:///p.db", "DELETE FROM people", "readonly|read-only"),
        ("sqlite:///p.db", "DROP TABLE people", "readonly|read-only"),
        ("sqlite:///missing.db", "people", "no such file"),
        ("sqlite:///text.db", "people", "not a database"),
        ("postgresql://me:secret@127.0.0.1/x", "people", "a password in a URL"),
        ("postgresql://me@127.0.0.1/x?password=secret", "people", "a password in a URL"),
        ("postgresql://127.0.0.1:1/x", "people", "refused"),
    ],
)
def test_databases_that_refuse(source: str, query: str | None, problem: str, tmp_path: Path) -> None:
    write_sqlite(tmp_path / "p.db")
    (tmp_path / "text.db").write_text("no database\n" * 100)
    with pytest.raises(DataError, match=problem) as caught:
        read(source, base=tmp_path, query=query)
    assert "secret" not in str(caught.value)
    assert len(read("sqlite:///p.db?table=people", base=tmp_path)) == 4


def test_semicolons_and_tabs_are_told(tmp_path: Path) -> None:
    def delimited(content: str, name: str = "t.csv") -> tuple[dict[str, list[str]], tuple[str, ...]]:
        (tmp_path / name).write_text(content)
        table = read(tmp_path / name)
        return {column: series.to_list() for column, series in table.columns.items()}, table.notes

    assert delimited("a;b\n1,5;x\n2,5;y\n")[0] == {"a": ["1.5", "2.5"], "b": ["x", "y"]}
    assert "';'" in delimited("a;b\n1,5;x\n")[1][0]
    assert delimited("a\tb\n1\tx\n")[0] == {"a": ["1"], "b": ["x"]}
    assert delimited('a,b\n1,"x;y;z"\n2,";;"\n') == ({"a": ["1", "2"], "b": ["x;y;z", ";;"]}, ())
    assert delimited("a,b;c\n1,2;3\n4,5\n")[0] == {"a": ["1", "4"], "b;c": ["2;3", "5"]}
    assert delimited("a\n1\n2\n") == ({"a": ["1", "2"]}, ())
    assert delimited("a;b\n1;2\n", "t.tsv")[0] == {"a;b": ["1;2"]}


def test_several_files_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.csv").write_text("x,y\n1,p\n\n2,q\n")
    (tmp_path / "parts" / "b.csv").write_text("y;x\nr;3\n")
    expected = {"x": ["1", "2", "3"], "y": ["p", "q", "r"]}
    for source in ("parts/*.csv", "parts", ["parts/a.csv", "parts/b.csv"]):
        table = read(source, base=tmp_path)
        assert {name: series.to_list() for name, series in table.columns.items()} == expected
        assert table.origin.at(1, "x") == "parts/a.csv, line 4, column 'x'"
        assert table.origin.at(2) == "parts/b.csv, line 2"
        turned = table.take([2, 0])
        assert turned.origin.at(0) == "parts/b.csv, line 2"
        assert turned.columns["x"].to_list() == ["3", "1"]
        assert any("b.csv" in note for note in table.notes)
    (tmp_path / "parts" / "c.csv").write_text("x,z\n1,2\n")
    with pytest.raises(DataError, match=r"its columns are not those of parts/a\.csv: 'y', 'z'") as caught:
        read("parts", base=tmp_path)
    assert caught.value.where == "parts/c.csv"
    with pytest.raises(DataError, match="no file is there"):
        read("parts/*.parquet", base=tmp_path)


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for name, text in {"pos/a.txt": "good\nfilm", "pos/b.txt": "很好", "neg/c.txt": "bad", "neg/.d.txt": "x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode("gb18030" if "b.txt" in name else "utf-8"))
    table = read(tmp_path)
    assert {name: series.to_list() for name, series in table.columns.items()} == {
        "text": ["bad", "good\nfilm", "很好"],
        "file": ["neg/c.txt", "pos/a.txt", "pos/b.txt"],
        "label": ["neg", "pos", "pos"],
    }
    assert "gb18030" in table.notes[0]


def test_sides_of_a_folder_of_texts(tmp_path: Path) -> None:
    for name in ("train/pos/a.txt", "train/neg/b.txt", "val/pos/c.txt", "test/neg/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    table = read(tmp_path)
    assert table.columns["split"].to_list() == ["test", "train", "train", "validation"]
    assert table.columns["label"].to_list() == ["neg", "neg", "pos", "pos"]


def test_lines_of_texts(tmp_path: Path) -> None:
    (tmp_path / "neg.txt").write_text("bad, really\n\n worse \n")
    (tmp_path / "pos.txt").write_text("good\n")
    table = read("*.txt", base=tmp_path)
    assert table.columns["text"].to_list() == ["bad, really", "worse", "good"]
    assert table.columns["label"].to_list() == ["neg", "neg", "pos"]
    assert table.origin.at(1) == "neg.txt, line 3"


def test_files_of_a_package() -> None:
    one = read("package:palmerpenguins/data/penguins.csv")
    assert (
        one.columns["species"].to_list()
        == read("package:palmerpenguins/data/penguins.[c]sv").columns["species"].to_list()
    )
    with pytest.raises(DataError, match="has no file"):
        read("package:palmerpenguins/data/*.parquet")


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet", "t.arrow"])
def test_a_damaged_file_says_what_to_do(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("This is none.")
    with pytest.raises(DataError, match="can't be read") as caught:
        read(tmp_path / name)
    assert caught.value.remedy
