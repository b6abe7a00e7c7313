"""Whatever the schema and the rows: the same row gives the same tensors on every road."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import apply
from reinforge.data.readers import read
from reinforge.data.values import NUMBER, Nulls, number
from reinforge.errors import DataError
from reinforge.schema.fields import Category, Number
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
labels = words.map(str.strip).filter(lambda text: text not in NULLS)


@st.composite
def tables(draw):
    """A schema and rows that it accepts, with labels declared so that any rows may train."""
    fields, makers = [], []
    for index in range(draw(st.integers(1, 4))):
        name = f"{draw(words).strip() or 'x'}{index}"
        if draw(st.booleans()):
            fields.append(
                Number(
                    name=name,
                    missing=draw(st.sampled_from(["mean", "median"])),
                    indicator=draw(st.booleans()),
                    scale=draw(st.sampled_from(["standard", "range", "none"])),
                )
            )
            makers.append(st.one_of(st.none(), plain_numbers))
        else:
            known = draw(st.lists(labels, min_size=1, max_size=4, unique=True))
            rare = draw(st.integers(1, 2))
            fields.append(
                Category(name=name, labels=tuple(known) if draw(st.booleans()) or rare > 1 else (), rare=rare)
            )
            makers.append(st.one_of(st.none(), st.sampled_from(known), labels, st.booleans(), st.integers(-3, 3)))
    fields.append(Number(name="y", role="target", missing="mask"))
    makers.append(st.one_of(st.none(), plain_numbers))
    rows = draw(st.lists(st.tuples(*makers), min_size=2, max_size=12))
    return Schema(fields=tuple(fields), nulls=NULLS), [dict(zip((f.name for f in fields), row)) for row in rows]


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def fitted(schema, rows):
    try:
        return Pipeline.fit(columns_of(rows), schema)
    except DataError:
        return None  # nothing to impute from, or no label


def identical(first, second):
    """Bit for bit, -0 and 0 told apart."""
    return all(
        first[part].keys() == second[part].keys()
        and all(
            torch.equal(x.view(torch.int32) if x.dtype == torch.float32 else x, second[part][name].view(torch.int32))
            if x.dtype == torch.float32
            else torch.equal(x, second[part][name])
            for name, x in first[part].items()
        )
        for part in first
    )


def spelled(value):
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
        assert identical(alone, {part: {k: v[index : index + 1] for k, v in batch[part].items()} for part in batch})


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
