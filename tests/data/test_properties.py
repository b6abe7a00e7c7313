"""Whatever the schema and the rows: the same row gives the same tensors on every road."""

import datetime
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reinforge.core import batch as batches
from reinforge.core.ragged import Ragged
from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import apply
from reinforge.data.readers import read
from reinforge.data.values import NUMBER, Nulls, number
from reinforge.errors import DataError
from reinforge.schema.fields import Category, Date, Labels, Number, Text, Vector
from reinforge.schema.schema import Schema

PROFILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NULLS = ("", "NA", "null")

plain_numbers = st.one_of(
    st.integers(-(2**60), 2**60),
    st.floats(-1e12, 1e12, allow_nan=False),
    st.floats(-1e-3, 1e-3, allow_subnormal=False),
)
# Letters, digits, quotes, separators, line breaks, letters of other scripts, and spaces inside.
words = st.text(st.sampled_from("abzAZ019.,;\"'\n\r é温-+e"), min_size=1, max_size=6)
tags = st.text(st.sampled_from("abcé温"), min_size=1, max_size=3)
labels = words.map(str.strip).filter(lambda text: text not in NULLS)


def a_number(draw, name):
    field = Number(
        name=name,
        missing=draw(st.sampled_from(["mean", "median"])),
        indicator=draw(st.booleans()),
        scale=draw(st.sampled_from(["standard", "range", "robust", "none"])),
        transform=draw(st.sampled_from(["none", "log"])),
        outliers=draw(st.sampled_from(["keep", "clip", "missing"])),
        fence=draw(st.sampled_from(["interquartile", "quantile"])),
        tail=0.2,
    )
    return field, st.one_of(st.none(), plain_numbers)


def a_category(draw, name):
    known = draw(st.lists(labels, min_size=1, max_size=4, unique=True))
    maker = st.one_of(st.none(), st.sampled_from(known), labels, st.booleans(), st.integers(-3, 3))
    if draw(st.booleans()):
        return Category(name=name, coding="hash", buckets=5), maker
    rare = draw(st.integers(1, 2))
    return Category(name=name, labels=tuple(known) if draw(st.booleans()) or rare > 1 else (), rare=rare), maker


def a_date(draw, name):
    parts = draw(st.lists(st.sampled_from(["elapsed", "year", "month", "weekday", "hour"]), min_size=1, unique=True))
    plain = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)).map(str)
    exact = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)).map(str)
    return Date(name=name, parts=parts, indicator=draw(st.booleans())), st.one_of(
        st.none(), st.just("2026-11-23"), draw(st.sampled_from([plain, exact, st.one_of(plain, st.integers(0, 10**9))]))
    )


def a_set(draw, name):
    known = draw(st.lists(tags, min_size=1, max_size=4, unique=True))
    several = st.lists(st.one_of(st.sampled_from(known), tags), max_size=4)
    return Labels(name=name, labels=tuple(known), separator=";"), st.one_of(st.none(), several)


def a_text(draw, name):
    length = draw(st.one_of(st.none(), st.integers(1, 5)))
    return Text(name=name, length=length), st.one_of(st.none(), st.just("a text"), words, st.integers(0, 9))


FIELDS = {"number": a_number, "category": a_category, "date": a_date, "labels": a_set, "text": a_text}


@st.composite
def tables(draw):
    """A schema and rows that it accepts, with labels declared so that any rows may train."""
    fields, makers = [], []
    kinds = st.sampled_from(["number", "number", "category", "date", "labels", "text"])
    for index in range(draw(st.integers(1, 4))):
        name = f"{draw(words).strip() or 'x'}{index}"
        field, maker = FIELDS[draw(kinds)](draw, name)
        fields.append(field)
        makers.append(maker)
    fields.append(Number(name="y", role="target", missing="mask", transform=draw(st.sampled_from(["none", "log"]))))
    makers.append(st.one_of(st.none(), plain_numbers))
    if draw(st.booleans()):
        known = draw(st.lists(tags, min_size=1, max_size=3, unique=True))
        fields.append(Labels(name="s", role="target", labels=tuple(known), missing="mask", unseen="error"))
        makers.append(st.one_of(st.none(), st.lists(st.sampled_from(known), max_size=3)))
    if draw(st.booleans()):
        fields.append(Vector(name="v", columns=("y",), missing="mask", scale="robust"))
        makers.append(st.none())
    rows = draw(st.lists(st.tuples(*makers), min_size=2, max_size=12))
    named = [dict(zip((f.name for f in fields), row)) for row in rows]
    for row in named:
        row.pop("v", None)  # made of columns that are there
    return Schema(fields=tuple(fields), nulls=NULLS), named


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def fitted(schema, rows):
    try:
        return Pipeline.fit(columns_of(rows), schema)
    except DataError:
        return None  # nothing to impute from, or no label


def identical(first, second):
    """Bit for bit, -0 and 0 told apart."""

    def same(a, b):
        if isinstance(a, Ragged):
            return torch.equal(a.values, b.values) and torch.equal(a.offsets, b.offsets)
        return torch.equal(*(x.view(torch.int32) if x.dtype == torch.float32 else x for x in (a, b)))

    return all(
        first[part].keys() == second[part].keys()
        and all(same(leaf, second[part][name]) for name, leaf in first[part].items())
        for part in first
    )


def spelled(value):
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


@given(tables())
@PROFILE
def test_a_row_alone_is_the_row_in_its_batch(table):
    schema, rows = table
    pipeline = fitted(schema, rows)
    if pipeline is None:
        return
    batch = pipeline.transform(columns_of(rows))
    for index, row in enumerate(rows):
        alone = pipeline.transform({name: [value] for name, value in row.items()})
        assert identical(alone, batches.part(batch, index, index + 1))


@given(tables())
@PROFILE
def test_stored_and_loaded_gives_the_same(table):
    schema, rows = table
    pipeline = fitted(schema, rows)
    if pipeline is None:
        return
    description = json.loads(json.dumps(pipeline.to_json()))
    loaded = Pipeline.load(
        Schema.from_json(json.loads(json.dumps(pipeline.schema.to_json()))), description, pipeline.arrays()
    )
    assert identical(loaded.transform(columns_of(rows)), pipeline.transform(columns_of(rows)))


@given(tables())
@PROFILE
def test_every_file_gives_what_the_rows_give(table):
    schema, rows = table
    pipeline = fitted(schema, rows)
    if pipeline is None:
        return
    expected = pipeline.transform(columns_of(rows))
    names = list(rows[0])
    with TemporaryDirectory() as folder:
        path = Path(folder)
        lines = [",".join(map(quoted, names))]
        lines += [",".join(quoted(spelled(row[name])) for name in names) for row in rows]
        (path / "t.csv").write_bytes("\n".join(lines).encode())
        (path / "t.json").write_text(json.dumps(rows), encoding="utf-8")
        (path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        texts = {name: pl.Series(name, [spelled(r[name]) for r in rows], dtype=pl.String) for name in names}
        pl.DataFrame(texts).write_parquet(path / "t.parquet")
        for name in ("t.csv", "t.json", "t.jsonl", "t.parquet"):
            assert identical(apply(pipeline, path / name).batch, expected), name
    assert identical(apply(pipeline, rows).batch, expected)
    assert identical(apply(pipeline, columns_of(rows)).batch, expected)


@given(tables())
@PROFILE
def test_training_on_csv_or_json_fits_the_same(table):
    schema, rows = table
    names = list(rows[0])
    texts = [{name: None if row[name] is None else spelled(row[name]) for name in names} for row in rows]
    pipelines = [fitted(schema, rows), fitted(schema, texts)]
    if None in pipelines:
        assert pipelines == [None, None]
        return
    assert pipelines[0].schema == pipelines[1].schema
    first, second = pipelines[0].arrays(), pipelines[1].arrays()
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**30), 10**30)))
@settings(max_examples=300, deadline=None)
def test_text_and_value_of_a_number_agree(value):
    nulls = Nulls.of(NULLS)
    assert number(repr(value), nulls) == number(value, nulls) == float(value)
    assert math.copysign(1, number(-0.0, nulls)) == math.copysign(1, number("-0.0", nulls)) == 1


@given(st.lists(st.text(st.sampled_from("0123456789+-.eEinfatyINF_x ١"), max_size=12), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_fast_reading_never_reads_what_single_values_refuse(texts):
    """Polars parses columns of texts, Python single values: they accept the same numbers and give the same bits."""
    nulls = Nulls.of(NULLS)
    field = Number(name="x")
    table = read({"x": texts})
    plain = table.plain(Schema(fields=(field,), nulls=NULLS))["x"]
    if not isinstance(plain, np.ndarray):
        return
    expected = np.array([number(text, nulls) for text in texts])
    assert np.array_equal(plain + 0.0, expected, equal_nan=True)


def test_grammar_of_numbers():
    for text in ("1", "+1", "-1.", ".5", "1e5", "1E-5", "1.5e+10"):
        assert NUMBER.fullmatch(text)
    for text in ("", ".", "1e", "e5", "1 2", "1_0", "0x1", "1.2.3", "--1", "١", "1,5", "inf", "nan"):
        assert not NUMBER.fullmatch(text)
