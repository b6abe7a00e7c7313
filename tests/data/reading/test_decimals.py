"""Decimal commas: what is one is read as such, whole and in pieces; what may be something else stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reinforge.data.chunks import pieces
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.readers import read

EUROPEAN = "name;price;count;tags;date\nA;3,14;1;a,b;1,5x\nB;-2,5e1;2;c;x\nC;NA;3;b,a;x\nD;7;4;a;x\n"


def test_decimal_commas_are_recognised_column_by_column(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(EUROPEAN)
    table = read("x.csv", base=tmp_path)
    assert table.columns["price"].to_list() == ["3.14", "-2.5e1", "NA", "7"]
    assert table.columns["tags"].to_list() == ["a,b", "c", "b,a", "a"]
    assert table.columns["date"].to_list() == ["1,5x", "x", "x", "x"]
    assert any("decimal comma" in note and "price" in note for note in table.notes)


@pytest.mark.parametrize(
    ("text", "decimal", "expected"),
    [
        ("a;b\n1,234;1\n5,678;2\n", None, ["1,234", "5,678"]),  # thousands, maybe
        ("a;b\n1,234;1\n5,678;2\n", ",", ["1.234", "5.678"]),
        ("a;b\n1,234;1\n5,67;2\n", None, ["1.234", "5.67"]),
        ("a;b\n1,5;1\n2,5;2\n", ".", ["1,5", "2,5"]),
        ("a;b\n1,5;1\n2.5;2\n", None, ["1,5", "2.5"]),
        ('a,b\n"1,5",1\n"2,5",2\n', None, ["1,5", "2,5"]),  # a comma separates: say so
        ('a,b\n"1,5",1\n"2,5",2\n', ",", ["1.5", "2.5"]),
        ("a\tb\n1,5\t1\n,5\t2\n", None, ["1.5", ".5"]),
    ],
)
def test_what_is_open_to_doubt_stays(tmp_path: Path, text: str, decimal: object, expected: list[str]) -> None:
    name = "x.tsv" if "\t" in text else "x.csv"
    (tmp_path / name).write_text(text)
    assert read(name, base=tmp_path, decimal=decimal).columns["a"].to_list() == expected  # type: ignore[arg-type]


def test_pieces_are_read_as_the_whole(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 10};{i}" for i in range(5000)]
    (tmp_path / "x.csv").write_text("a;b\n" + "\n".join(rows) + "\n")
    whole = read("x.csv", base=tmp_path).columns["a"].to_list()
    options = TableOptions(path="x.csv", targets=["b"], stream=700)
    assert [value for piece in pieces(options, tmp_path) for value in piece.columns["a"].to_list()] == whole
    prepared = prepare_table(TableOptions(path="x.csv", targets=["b"]), base=tmp_path)
    assert [f.kind for f in prepared.schema.inputs] == ["number"]
