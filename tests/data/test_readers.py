import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from reinforge.data.readers import read
from reinforge.data.reading import delimited
from reinforge.data.reading.rows import columns_of_memory
from reinforge.errors import DataError


def texts(table):
    return {name: series.to_list() for name, series in table.columns.items()}


def written(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,x\n2,y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("a,b\n1,x\n2,y", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("a,b\r\n1,x\r\n2,y\r\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("\ufeffa,b\n1,x\n", {"a": ["1"], "b": ["x"]}),
        ("a,b\n1,\n,x\n", {"a": ["1", None], "b": [None, "x"]}),
        (" a , b \n1, x\n", {"a": ["1"], "b": [" x"]}),
        ('a,b\n1,"x, ""y"""\n', {"a": ["1"], "b": ['x, "y"']}),
        ('a,b\n1,"x\ny"\n2,z\n', {"a": ["1", "2"], "b": ["x\ny", "z"]}),
        ('"a","b"\n1,x\n', {"a": ["1"], "b": ["x"]}),
        ("a,b\n\n1,x\n\n2,y\n\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        (",b\n0,x\n1,y\n", {"column_1": ["0", "1"], "b": ["x", "y"]}),
        ("a\n1\n2\n", {"a": ["1", "2"]}),
        ("a,b\n#1,x\n", {"a": ["#1"], "b": ["x"]}),
        ("a,b\n001,1.50\n", {"a": ["001"], "b": ["1.50"]}),
        ("é,b\nü,温\n", {"é": ["ü"], "b": ["温"]}),
    ],
)
def test_csv(tmp_path, content, expected):
    assert texts(read(written(tmp_path, content))) == expected


def test_fast_and_exact_ways_agree(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    cells = ["", "1", "-2.5e3", "x y", "NA", "é", "a'b", " 3", "\t"]
    lines = [",".join(generator.choice(cells, 4)) for _ in range(200)]
    lines = [line for line in lines if line.strip(",") or line]
    path = written(tmp_path, "p,q,r,s\n" + "\n".join(lines))
    fast = read(path)
    assert delimited._plain_grid(path.read_text(), ["p", "q", "r", "s"], 8, ",") is not None
    monkeypatch.setattr(delimited, "_plain_grid", lambda *_: None)
    exact = read(path)
    assert texts(fast) == texts(exact)
    assert [fast.origin.at(row) for row in range(200)] == [exact.origin.at(row) for row in range(200)]


def test_errors_name_the_line_even_after_quoted_line_breaks(tmp_path):
    table = read(written(tmp_path, 'a,b\n1,"x\ny"\n\n2,z\n'))
    assert table.origin.at(1, "b").endswith("table.csv, line 5, column 'b'")


@pytest.mark.parametrize(
    ("content", "problem", "where"),
    [
        ("", "the file is empty", "table.csv"),
        (" \n\n", "the file is empty", "table.csv"),
        ("a,b\n", "no row follows", "table.csv"),
        ("a,b", "no row follows", "table.csv"),
        ("a,b\n1,2\n3\n", "1 values, but the header names 2", "table.csv, line 3"),
        ("a,b\n1,2\n3,4,5\n", "3 values, but the header names 2", "table.csv, line 3"),
        ('a,b\n"1\n",2\n3,4,5\n', "3 values, but the header names 2", "table.csv, line 4"),
        ("a,b\n1,2,3\n4\n", "3 values", "table.csv, line 2"),  # the right number of commas over all
        ("a,b\n1\n2,3,4\n", "1 values", "table.csv, line 2"),
        ("a,b,a\n1,2,3\n", "column names are doubled: a", "table.csv, line 1"),
        ("a, a\n1,2\n", "column names are doubled: a", "table.csv, line 1"),
        ('a,b\n1,"x\n', "can't be read", "table.csv, line 2"),
        ("a,b\n1,é中\n".encode() + b"\xff,2\n", "byte 0xff is not utf-8", "table.csv, line 3"),
        ("a,b\n1,2\n".encode("utf-16-le"), "byte 0x00 is not utf-8", "table.csv, line 1"),
    ],
)
def test_broken_csv(tmp_path, content, problem, where):
    with pytest.raises(DataError, match=problem) as caught:
        read(written(tmp_path, content))
    assert caught.value.where.endswith(where)
    assert caught.value.remedy


def test_encoding_may_be_stated(tmp_path):
    path = written(tmp_path, b"a,b\n1,caf\xe9\n")
    assert texts(read(path, encoding="latin-1")) == {"a": ["1"], "b": ["café"]}
    path = written(tmp_path, "a,b\n1,é\n".encode("utf-16"))
    assert texts(read(path, encoding="utf-16")) == {"a": ["1"], "b": ["é"]}
    with pytest.raises(DataError, match="no encoding 'klingon'"):
        read(path, encoding="klingon")


def test_other_delimiters(tmp_path):
    assert texts(read(written(tmp_path, "a\tb\n1,5\tx\n", "t.tsv"))) == {"a": ["1.5"], "b": ["x"]}
    assert texts(read(written(tmp_path, "a;b\n1;x\n", "t.dat"), delimiter=";")) == {"a": ["1"], "b": ["x"]}
    with pytest.raises(DataError, match="can't tell what kind"):
        read(written(tmp_path, "a;b\n1;x\n", "t.dat"))


ROWS = [{"a": 1, "b": "x", "c": True}, {"a": 2.50, "b": None, "c": False}, {"a": -0.0, "b": "ü", "c": None}]


@pytest.mark.parametrize("lines", [True, False])
def test_json_keeps_the_spelling_of_numbers(tmp_path, lines):
    rows = ['{"a": 1, "b": "x", "c": true}', '{"a": 2.50, "b": null, "c": false}', '{"a": 1e5, "b": "ü", "c": null}']
    content = "\n".join(rows) + "\n\n" if lines else "[" + ",\n".join(rows) + "]"
    table = read(written(tmp_path, content, "t.jsonl" if lines else "t.json"))
    assert texts(table) == {"a": ["1", "2.50", "1e5"], "b": ["x", None, "ü"], "c": [True, False, None]}
    assert table.origin.at(2).endswith("line 3" if lines else "element 3")


@pytest.mark.parametrize(
    ("content", "problem", "where"),
    [
        ('{"a": 1}\n{"a": }\n', "malformed JSON", "line 2"),
        ('{"a": 1}\n[1]\n', "must be an object", "line 2"),
        ('{"a": 1}\n\n{"a": [{"b": 1}]}\n', "a list is no value", "line 3, column 'a'"),
        ('{"a": 1}\n{"a": {"b": 1}}\n', "a dict is no value", "line 2, column 'a'"),
        ('{"a": 1, "b": 2}\n{"a": 1}\n', "key 'b' is absent", "line 2"),
        ('{"a": 1, "a": 2}\n', "key 'a' is doubled", "line 1"),
        ("", "the file is empty", "t.jsonl"),
        ('{"a": ' + "[" * 100_000, "nested too deeply|malformed", "t.jsonl"),
    ],
)
def test_broken_json_lines(tmp_path, content, problem, where):
    with pytest.raises(DataError, match=problem) as caught:
        read(written(tmp_path, content, "t.jsonl"))
    assert where in caught.value.where


def test_absent_keys_may_count_as_missing(tmp_path):
    path = written(tmp_path, '{"a": 1}\n{"b": 2}\n', "t.jsonl")
    assert texts(read(path, absent="null")) == {"a": ["1", None], "b": [None, "2"]}


@pytest.mark.parametrize("content", ['{"a": 1}', "3", "[]", "[3]"])
def test_json_that_is_no_list_of_rows(tmp_path, content):
    with pytest.raises(DataError):
        read(written(tmp_path, content, "t.json"))


def test_parquet(tmp_path):
    frame = pl.DataFrame({"a": [1.5, None], "b": ["x", None]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert texts(read(tmp_path / "t.parquet")) == {"a": [1.5, None], "b": ["x", None]}
    with pytest.raises(DataError, match="Parquet"):
        read(written(tmp_path, b"PAR1 nothing", "u.parquet"))


def test_missing_file_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match="no such file") as caught:
        read("nothing.csv", base=tmp_path)
    assert str(tmp_path) in caught.value.remedy


@pytest.mark.parametrize(
    "data",
    [
        {"a": [1, 2], "b": ["x", None]},
        {"a": np.array([1, 2]), "b": ("x", None)},
        [{"a": 1, "b": "x"}, {"a": 2, "b": None}],
        pl.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pl.LazyFrame({"a": [1, 2], "b": ["x", None]}),
        pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pd.DataFrame({"a": pd.array([1, 2], dtype="Int64"), "b": pd.Categorical(["x", None])}),
    ],
    ids=["columns", "arrays", "rows", "polars", "lazy", "pandas", "pandas-extension"],
)
def test_memory(data):
    table = read(data)
    assert texts(table) == {"a": [1, 2], "b": ["x", None]}
    assert table.digest == read(data).digest


def test_pandas_missing_values():
    table = read(pd.DataFrame({"a": [1.0, None], "b": ["x", float("nan")], "c": [True, None]}))
    a = table.columns["a"].to_list()
    assert a[0] == 1.0
    assert math.isnan(a[1])
    assert table.columns["b"].to_list() == ["x", None]
    assert table.columns["c"].to_list() == [True, None]


@pytest.mark.parametrize("value", ["text", b"bytes", 1, 1.5, None, True])
def test_a_row_taken_for_columns_is_refused(value):
    with pytest.raises(DataError, match=r"(?s)column 'a'.*a single value.*\[row\]"):
        read({"a": value, "b": value})


def test_mixed_values_in_memory_become_the_text_that_a_file_would_hold():
    table = read({"a": [1, "x", 2.5, True, None]})
    assert texts(table) == {"a": ["1", "x", "2.5", "true", None]}


@pytest.mark.parametrize(
    "data",
    [
        {"a": [1], "b": [1, 2]},
        {"a": [{1: 2}]},
        {"a": np.zeros((2, 2))},
        [],
        [1],
        3,
        {},
        {"a": []},
        [{"a": 1}, {"b": 2}],
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        {"a": [1 + 2j]},
    ],
    ids=str,
)
def test_what_is_no_table(data):
    with pytest.raises(DataError):
        read(data)


def test_digest_tells_content_apart(tmp_path):
    tables = [read({"a": values}) for values in ([1, 2], [1, 3], [1.0, 2.0], ["1", "2"], [1, None])]
    assert len({table.digest for table in tables}) == len(tables)
    one, two = written(tmp_path, "a\n1\n", "1.csv"), written(tmp_path, "a\n2\n", "2.csv")
    assert read(one).digest != read(two).digest


def test_package_resource():
    table = read("package:palmerpenguins/data/penguins.csv")
    assert len(table) == 344
    assert table.origin.at(3, "sex") == "package:palmerpenguins/data/penguins.csv, line 5, column 'sex'"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("package:no_such_package_here/a.csv", "not installed"),
        ("package:palmerpenguins/data/none.csv", "has no file"),
        ("package:palmerpenguins/../../secret.csv", "names no file"),
        ("package:palmerpenguins//etc/passwd.csv", "names no file"),
        ("package:palmerpenguins", "names no file"),
        ("sklearn:nothing", "no table sklearn:nothing"),
    ],
)
def test_package_resources_that_are_not_there(source, problem):
    with pytest.raises(DataError, match=problem) as caught:
        read(source)
    assert caught.value.remedy


def test_sklearn_table():
    table = read("sklearn:breast_cancer")
    assert (len(table), len(table.columns)) == (569, 31)
    assert set(table.columns["target"].to_list()) == {"malignant", "benign"}


def test_json_rows_equal_rows_in_memory(tmp_path):
    path = written(tmp_path, json.dumps(ROWS), "t.json")
    from_file, from_memory = read(path), read(ROWS)
    assert list(from_file.columns) == list(from_memory.columns)


def test_names_of_a_frame_are_trimmed_and_given():
    frame = pl.DataFrame({" a ": [1, 2], "": [3, 4]})
    assert {name: list(values) for name, values in columns_of_memory(frame).items()} == {
        "a": [1, 2],
        "column_2": [3, 4],
    }


def test_a_time_beyond_the_calendar_is_refused():
    frame = pl.DataFrame({"at": pl.Series([2**62]).cast(pl.Datetime("ms"))})
    with pytest.raises(DataError, match="no calendar has"):
        read(frame)
