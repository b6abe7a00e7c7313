"""Every kind of field against an oracle: scikit-learn, polars, Python's own calendar, or brute force."""

import base64
import datetime
import hashlib
import io
import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer, RobustScaler, StandardScaler

from reinforge.core.ragged import Ragged
from reinforge.data.operations.dates import moment
from reinforge.data.options import CharacterOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.readers import read
from reinforge.data.values import Nulls, Unreadable
from reinforge.errors import DataError, IntegrityError
from reinforge.schema.fields import Category, Date, Image, Labels, Number, Span, Text, Vector
from reinforge.schema.schema import Schema

RNG = np.random.default_rng(0)
NULLS = Nulls.of(("", "NA"))


def fit(*fields, columns, **schema):
    characters = {f.name: CharacterOptions() for f in fields if isinstance(f, Text)}
    return Pipeline.fit(columns, Schema(fields=fields, **schema), tokenizers=characters)


def numbers(pipeline, columns):
    return pipeline.transform(columns)["inputs"]["numbers"].numpy()


def reloaded(pipeline):
    description, arrays = json.loads(json.dumps(pipeline.to_json())), dict(pipeline.arrays())
    return Pipeline.load(Schema.from_json(json.loads(json.dumps(pipeline.schema.to_json()))), description, arrays)


# Numbers


def test_robust_scaling_against_scikit_learn():
    x = RNG.standard_t(2, 300)
    expected = RobustScaler().fit_transform(x[:, None])
    assert np.allclose(numbers(fit(Number(name="x", scale="robust"), columns={"x": x}), {"x": x}), expected, atol=1e-5)


def test_robust_scaling_of_mostly_one_value_only_shifts():
    x = np.array([3.0] * 9 + [100.0])
    assert numbers(fit(Number(name="x", scale="robust"), columns={"x": x}), {"x": x})[:, 0].tolist() == [0] * 9 + [97]


def test_quartiles_that_are_as_good_as_equal_only_shift():
    x = np.array([0.0, 0.0, 0.0, 1.0, 3e-259])
    assert numbers(fit(Number(name="x", scale="robust"), columns={"x": x}), {"x": x})[:, 0].tolist() == [0, 0, 0, 1, 0]


def test_log_against_scikit_learn():
    x = RNG.lognormal(3, 2, 300) * RNG.choice([-1, 1], 300)
    log = FunctionTransformer(lambda v: np.sign(v) * np.log1p(np.abs(v))).fit_transform(x[:, None])
    found = numbers(fit(Number(name="x", transform="log"), columns={"x": x}), {"x": x})
    assert np.allclose(found, StandardScaler().fit_transform(log), atol=1e-5)


def test_outliers_against_polars():
    x = np.concatenate([RNG.normal(size=200), [50.0, -70.0]])
    series = pl.Series(x)
    first, third = (series.quantile(q, interpolation="linear") for q in (0.25, 0.75))
    low, high = first - 3 * (third - first), third + 3 * (third - first)
    plain = Number(name="x", scale="none", outliers="clip")
    found = numbers(fit(plain, columns={"x": x}), {"x": x})[:, 0]
    assert np.allclose(found, series.clip(low, high).to_numpy(), rtol=1e-6)
    quantiles = plain.model_copy(update={"fence": "quantile", "tail": 0.05})
    low, high = (series.quantile(q, interpolation="linear") for q in (0.05, 0.95))
    found = numbers(fit(quantiles, columns={"x": x}), {"x": x})[:, 0]
    assert np.allclose(found, series.clip(low, high).to_numpy(), rtol=1e-6)


def test_outliers_as_missing_are_imputed_and_indicated():
    x = np.concatenate([RNG.normal(size=200), [50.0, -70.0, np.nan]])
    field = Number(name="x", scale="none", outliers="missing", indicator=True)
    found = numbers(fit(field, columns={"x": x}), {"x": x})
    assert np.allclose(found[200:, 0], x[:200].mean(), atol=1e-6)
    assert found[:, 1].tolist() == [0.0] * 200 + [1.0] * 3


def test_what_is_learned_stays_when_new_rows_are_far_off():
    """A shift planted outside the training rows changes no statistic."""
    x = RNG.normal(size=100)
    fields = [
        Number(name=n, outliers="clip", transform="log", scale=s)
        for n, s in zip("abc", ("standard", "robust", "range"))
    ]
    pipeline = fit(*fields, columns=dict.fromkeys("abc", x))
    before = {name: array.copy() for name, array in pipeline.arrays().items()}
    pipeline.transform(dict.fromkeys("abc", x + 1000))
    assert all(np.array_equal(array, before[name]) for name, array in pipeline.arrays().items())
    assert np.abs(numbers(pipeline, dict.fromkeys("abc", x + 1000))).max() < 100  # clipped, by the old fence


def test_a_logarithm_has_the_same_bits_alone_and_in_a_batch():
    """Vectorised logarithms must not differ from those of what is left over at the end."""
    x = np.concatenate([RNG.lognormal(0, 5, 2000), RNG.normal(size=1001), [0.0, 1e-320, 1e308]])
    fields = [Number(name=n, transform="log", scale="none") for n in "ab"] + [Number(name="c", scale="none")]
    pipeline = fit(*fields, columns=dict.fromkeys("abc", np.arange(3.0)))
    columns = {"a": x, "b": x[::-1], "c": np.zeros(len(x))}
    batch = numbers(pipeline, columns)
    for row in range(len(x)):
        alone = numbers(pipeline, {name: [values[row]] for name, values in columns.items()})
        assert alone.tobytes() == batch[row].tobytes()


def test_log_of_a_target_is_inverted():
    y = RNG.lognormal(2, 1, 50) * RNG.choice([-1, 1], 50)
    columns = {"x": y, "y": y}
    pipeline = fit(Number(name="x"), Number(name="y", role="target", missing="drop", transform="log"), columns=columns)
    encoded = pipeline.transform(columns)["targets"]["y"]
    oracle = StandardScaler().fit_transform((np.sign(y) * np.log1p(np.abs(y)))[:, None])
    assert np.allclose(encoded, oracle, atol=1e-5)
    assert np.allclose(pipeline.inverse("y", encoded), y, rtol=1e-4)
    assert np.allclose(reloaded(pipeline).inverse("y", encoded), y, rtol=1e-4)


def test_counts_are_not_scaled_and_never_negative():
    columns = {"x": [1.0, 2.0, 3.0], "n": [0, 7, 2]}
    pipeline = fit(Number(name="x"), Number(name="n", role="target", missing="drop", count=True), columns=columns)
    assert pipeline.signature.outputs["n"].form == "count"
    assert pipeline.transform(columns)["targets"]["n"].tolist() == [[0], [7], [2]]
    for bad, problem in ((-1, "below"), (1.5, "whole")):
        with pytest.raises(DataError, match=problem):
            pipeline.transform(columns | {"n": [0, 1, bad]})


def test_vectors_against_scikit_learn():
    y = RNG.normal(5, [1, 100], (60, 2))
    columns = {"x": y[:, 0], "u": y[:, 0], "v": y[:, 1].tolist()}
    columns["v"][3] = None
    pipeline = fit(Number(name="x"), Vector(name="p", columns=("u", "v"), missing="mask"), columns=columns)
    batch = pipeline.transform(columns)
    assert batch["valid"]["p"].tolist() == [i != 3 for i in range(60)]
    there = np.arange(60) != 3
    assert np.allclose(
        batch["targets"]["p"][there, 0], StandardScaler().fit(y[:, :1]).transform(y[there, :1])[:, 0], atol=1e-5
    )
    assert np.allclose(batch["targets"]["p"][there, 1], StandardScaler().fit_transform(y[there, 1:])[:, 0], atol=1e-5)
    assert np.allclose(pipeline.inverse("p", batch["targets"]["p"])[there], y[there], rtol=1e-5)


# Dates

PARTS = ("elapsed", "year", "month", "day", "weekday", "yearday", "hour", "minute", "second")
moments = st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30))


@given(st.lists(moments, min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_dates_against_python(values):
    date = Date(name="t", parts=PARTS, scale="none")
    found = numbers(fit(date, columns={"t": values}), {"t": values})
    epoch = datetime.datetime(1970, 1, 1)
    for row, value in zip(found, values):
        expected = [(value - epoch) / datetime.timedelta(days=1), value.year]
        places = [
            (value.month - 1, 12), (value.day - 1, 31), (value.weekday(), 7), (value.timetuple().tm_yday - 1, 366),
            (value.hour, 24), (value.minute, 60), (value.second, 60),
        ]  # fmt: skip
        for place, period in places:
            expected += [math.sin(2 * math.pi * place / period), math.cos(2 * math.pi * place / period)]
        assert np.allclose(row, expected, rtol=1e-6, atol=1e-6)


@given(st.lists(st.one_of(st.none(), moments), min_size=1, max_size=12), st.sampled_from(["T", " "]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_form_of_a_date_is_the_same(values, between, seconds):
    values = [v and v.replace(microsecond=v.microsecond if seconds else 0) for v in values]
    date = Date(name="t", parts=PARTS, indicator=True, scale="none")
    pipeline = fit(date, columns={"t": [datetime.datetime(2000, 1, 1), datetime.datetime(2020, 5, 5)]})
    expected = numbers(pipeline, {"t": values})
    texts = [None if v is None else v.isoformat(between) for v in values]
    forms = [
        texts,
        [t and f"{t}Z" for t in texts],
        pl.Series(values, dtype=pl.Datetime("us")),
        pl.Series(values, dtype=pl.Datetime("us", "UTC")),
        pl.Series(values, dtype=pl.Datetime("us")).dt.to_string("iso")
        if seconds
        else pl.Series(texts, dtype=pl.String),
    ]
    for form in forms:
        table = read({"t": form})
        assert np.array_equal(numbers(pipeline, table.plain(pipeline.schema)), expected)
        assert np.array_equal(numbers(pipeline, {"t": list(form)}), expected)


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [
        (0, "s", 0), ("86400", "s", 86400), (1.5, "d", 129600), (1500, "ms", 1.5), ("1970-01-02", "s", 86400),
        ("1970-01-01T01:00:00+01:00", "s", 0), ("1970-01-01 00:00-02:30", "s", 9000), ("1969-12-31", "s", -86400),
        ("1970-01-01T00:00:00.123456789Z", "s", 0.123456), (np.datetime64("1970-01-02"), "s", 86400),
        (datetime.date(1970, 1, 2), "s", 86400), ("1970-01-01T00:00:00+0130", "s", -5400),
    ],
)  # fmt: skip
def test_moments(value, unit, seconds):
    assert moment(value, NULLS, unit) == round(seconds * 1e6)


@pytest.mark.parametrize(
    "value",
    ["2026-13-01", "2026-02-30", "26-01-01", "2026/01/01", "2026-01-01T25:00", "2026-01-01T10", "x", True, [1], 1e300,
     "0001-01-01T00:00+02:00", "2026-01-01T00:00:60", "２０２６-01-01", "2026-01-01T00:00+99:00", math.inf],
)  # fmt: skip
def test_no_moments(value):
    with pytest.raises(Unreadable):
        moment(value, NULLS)
    pipeline = fit(Date(name="t"), columns={"t": ["2026-01-01", "2026-02-01"]})
    with pytest.raises(DataError) as caught:
        pipeline.transform({"t": ["2026-01-01", value]})
    assert caught.value.where == "row 1, column 't'"


def test_missing_dates():
    columns = {"t": ["2026-01-01", None, "2026-01-03", "NA"]}
    found = numbers(fit(Date(name="t", parts=("elapsed",), indicator=True), columns=columns), columns)
    assert np.allclose(found, [[-(2**0.5), 0], [0, 1], [2**0.5, 0], [0, 1]])
    with pytest.raises(DataError, match="must not be missing") as caught:
        fit(Date(name="t", missing="error"), columns=columns)
    assert caught.value.where == "row 1, column 't'"


# Categories


def test_hashed_categories():
    """The bucket is part of the format, and must never change; 1 and 1.0, True and true are one label."""
    field = Category(name="q", coding="hash", buckets=10)
    pipeline = fit(field, columns={"q": ["a", "b"]})
    assert pipeline.signature.inputs["categories"].sizes == (11,)
    codes = pipeline.transform({"q": ["a", "b", "never seen", None, "1.0", 1, "True", True]})["inputs"]["categories"]
    expected = [_bucket(text) for text in ("a", "b", "never seen")] + [0] + [_bucket("1")] * 2 + [_bucket("true")] * 2
    assert codes[:, 0].tolist() == expected


def _bucket(text):
    return 1 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % 10


def test_hashes_spread_evenly():
    pipeline = fit(Category(name="q", coding="hash", buckets=50, missing="error"), columns={"q": ["a"]})
    codes = pipeline.transform({"q": [f"label {i}" for i in range(20_000)]})["inputs"]["categories"][:, 0]
    counts = torch.bincount(codes, minlength=50)
    assert ((counts - 400).abs() < 5 * 20).all()  # five deviations of a binomial


def test_classes_in_order():
    columns = {"x": [1.0, 2.0, 3.0], "r": ["10", "9", "2"]}
    target = Category(name="r", role="target", ordered=True, missing="drop", unseen="error")
    pipeline = fit(Number(name="x"), target, columns=columns)
    assert pipeline.signature.outputs["r"].form == "ordinal"
    assert pipeline.transform(columns)["targets"]["r"].tolist() == [2, 1, 0]
    declared = Category(name="r", role="target", ordered=True, labels=("low", "high"), missing="drop", unseen="error")
    found = fit(Number(name="x"), declared, columns={"x": [1.0, 2.0], "r": ["high", "low"]})
    assert found.transform({"x": [1.0], "r": ["high"]})["targets"]["r"].tolist() == [1]
    with pytest.raises(DataError, match="no order of their own"):
        fit(Number(name="x"), declared.model_copy(update={"labels": ()}), columns={"x": [1.0, 2.0], "r": ["a", "b"]})


# Sets of labels


def test_sets_of_labels_against_scikit_learn():
    sets = [["b", "a"], [], ["c"], ["a"], ["c", "a", "b"]]
    oracle = MultiLabelBinarizer().fit_transform(sets)
    columns = {"x": [1.0] * 5, "s": sets, "t": [";".join(s) or "[]" for s in sets]}
    target = Labels(name="t", role="target", separator=";", missing="drop", unseen="error")
    pipeline = fit(Number(name="x"), Labels(name="s"), target, columns=columns)
    batch = pipeline.transform(columns)
    assert np.array_equal(batch["inputs"]["s"].numpy(), oracle)
    assert np.array_equal(batch["targets"]["t"].numpy(), oracle)
    assert pipeline.inverse("t", batch["targets"]["t"]) == [sorted(s) for s in sets]
    assert pipeline.feature_names["s"] == ("a", "b", "c")


@pytest.mark.parametrize(
    "value",
    [["b", "a"], ("a", "b"), '["a", "b"]', "a,b", " b , a,, a", {"a", "b"}, np.array(["b", "a"])],
    ids=["list", "tuple", "json", "text", "loose", "set", "array"],
)
def test_one_set_many_spellings(value):
    pipeline = fit(Labels(name="s"), columns={"s": ["a,b,c", "c"]})
    assert pipeline.transform({"s": [value]})["inputs"]["s"].tolist() == [[1, 1, 0]]


def test_policies_for_sets():
    pipeline = fit(Labels(name="s", rare=2), columns={"s": ["a,b", "a", "b,c"]})
    assert pipeline.transform({"s": ["a,c,d", None, "", []]})["inputs"]["s"].tolist() == [
        [1, 0],
        [0, 0],
        [0, 0],
        [0, 0],
    ]
    strict = fit(Labels(name="s", missing="error", unseen="error"), columns={"s": ["a,b", "a"]})
    for value, problem in (("a,d", "'d' is none of the known"), (None, "must not be missing"), ("[1", "JSON list")):
        with pytest.raises(DataError, match=problem) as caught:
            strict.transform({"s": ["a", value]})
        assert caught.value.where == "row 1, column 's'"


def test_columns_of_flags_are_a_set():
    columns = {"x": [1.0, 2.0, 3.0], "a": [0, 1, None], "b": ["1", "true", "0"]}
    pipeline = fit(
        Number(name="x"),
        Labels(name="s", role="target", columns=("a", "b"), missing="mask", unseen="error"),
        columns=columns,
    )
    batch = pipeline.transform(columns)
    assert batch["targets"]["s"].tolist() == [[0, 1], [1, 1], [0, 0]]
    assert batch["valid"]["s"].tolist() == [True, True, False]
    with pytest.raises(DataError, match="neither 0 nor 1"):
        pipeline.transform(columns | {"a": [0, 1, 2]})


def test_a_set_that_is_missing_may_be_the_empty_set():
    columns = {"x": [1.0, 2.0, 3.0], "s": ["a,b", "", "b"], "a": [1, None, 0], "b": [1, 0, None]}
    empty = {"role": "target", "missing": "empty", "unseen": "error"}
    pipeline = fit(Number(name="x"), Labels(name="s", **empty), columns=columns)
    batch = pipeline.transform(columns)
    assert batch["targets"]["s"].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert batch["valid"] == {}
    assert pipeline.complete(columns).all()
    pipeline = fit(Number(name="x"), Labels(name="f", columns=("a", "b"), **empty), columns=columns)
    assert pipeline.transform(columns)["targets"]["f"].tolist() == [[1, 1], [0, 0], [0, 0]]


# Texts and spans


def test_texts():
    columns = {"t": ["abba", "", None, "a much longer text"], "u": ["x", "y", "x", "z"]}
    pipeline = fit(Text(name="t", length=6), Text(name="u"), columns=columns)
    tokens = pipeline.transform(columns)["inputs"]["t"]
    assert isinstance(tokens, Ragged)
    block = pipeline.blocks["t"].tokenizer
    assert [block.decode(tokens.row(i)) for i in (0, 3)] == ["abba", "a much"]
    assert tokens.row(1).tolist() == tokens.row(2).tolist() == [0]  # nothing to read is one unknown token
    assert pipeline.signature.inputs["t"].shape == (6,)
    again = reloaded(pipeline)
    assert torch.equal(again.transform(columns)["inputs"]["t"].values, tokens.values)
    with pytest.raises(DataError, match="must not be missing") as caught:
        fit(Text(name="t", missing="error"), columns=columns).transform(columns)
    assert caught.value.where == "row 1, column 't'"


def test_tokenizers_see_the_training_rows_alone():
    schema = Schema(fields=(Text(name="t"),))
    pipeline = Pipeline.fit({"t": ["ab", "b"]}, schema, tokenizers={"t": CharacterOptions()})
    assert pipeline.schema.field("t").vocabulary == 3
    assert pipeline.transform({"t": ["abc"]})["inputs"]["t"].values.tolist() == [1, 2, 0]


def test_a_text_counts_as_often_as_rows_have_it():
    columns = {"t": ["alpha beta", "alpha beta", "gamma delta"]}
    pipeline = Pipeline.fit(columns, Schema(fields=(Text(name="t", length=8),)))
    assert pipeline.schema.field("t").vocabulary == 3  # the unknown one, alpha and beta


def test_another_tokenizer_is_refused():
    pipeline = fit(Text(name="t"), columns={"t": ["ab"]})
    description = json.loads(json.dumps(pipeline.to_json()))
    description["inputs"]["t"]["tokenizer"]["characters"] = "abc"
    with pytest.raises(IntegrityError, match="does not fit"):
        Pipeline.load(pipeline.schema, description, {})


@pytest.mark.parametrize("form", ["text", "list", "json", "columns"])
def test_spans(form):
    texts = ["the cat sat", "a dog", "no answer here", "cut off beyond the length: fox"]
    answers = ["cat", "dog", None, "fox"]
    ends = [None if a is None else (t.index(a), t.index(a) + len(a)) for t, a in zip(texts, answers)]
    columns = {"t": texts}
    columns |= {
        "text": {"s": answers}, "list": {"s": [e and list(e) for e in ends]},
        "json": {"s": [e and json.dumps(e) for e in ends]},
        "columns": {"b": [e and e[0] for e in ends], "e": [e and e[1] for e in ends]},
    }[form]  # fmt: skip
    span = Span(name="s", of="t", columns=("b", "e") if form == "columns" else (), missing="mask")
    pipeline = fit(Text(name="t", length=20), span, columns=columns)
    batch = pipeline.transform(columns)
    assert batch["targets"]["s"].tolist() == [[4, 6], [2, 4], [0, 0], [0, 0]]
    assert batch["valid"]["s"].tolist() == [True, True, False, False]
    assert pipeline.complete(columns).all()
    dropping = Schema(fields=(pipeline.schema.fields[0], span.model_copy(update={"missing": "drop"})))
    assert Pipeline(dropping, pipeline.blocks, pipeline.targets).complete(columns).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [("cow", "does not hold"), ([3, 99], "no part"), ([2, 2], "no part"), ([1], "is not"), ("[1, 2, 3]", "is not")],
)
def test_answers_that_are_not_there(answer, problem):
    columns = {"t": ["the cat sat"], "s": ["cat"]}
    pipeline = fit(Text(name="t", length=20), Span(name="s", of="t"), columns=columns)
    with pytest.raises(DataError, match=problem) as caught:
        pipeline.transform(columns | {"s": [answer]})
    assert caught.value.where == "row 0, column 's'"


# Images


def test_images_from_bytes_files_base64_and_pixels(tmp_path):
    pixels = RNG.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pictures.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    sources = [
        buffer.getvalue(),
        tmp_path / "a.png",
        base64.b64encode(buffer.getvalue()).decode(),
        pixels.tolist(),
        pixels,
    ]
    field = Image(name="i", size=(5, 7))
    pipeline = fit(field, columns={"i": sources})
    found = pipeline.transform({"i": sources})["inputs"]["i"]
    assert found.shape == (5, 3, 5, 7)
    assert all(np.array_equal(one.permute(1, 2, 0), pixels) for one in found)
    assert torch.equal(pipeline.transform({"i": pixels[None]})["inputs"]["i"], found[:1])
    (tmp_path / "t.csv").write_text("i,y\na.png,1\n")
    columns = read(tmp_path / "t.csv").plain(pipeline.schema)  # paths start where the file lies
    assert torch.equal(pipeline.transform(columns)["inputs"]["i"], found[:1])


def test_a_request_never_names_a_file(tmp_path):
    Pictures.new("L", (2, 2)).save(tmp_path / "a.png")
    pipeline = fit(Image(name="i", size=(2, 2)), columns={"i": [tmp_path / "a.png"]})
    with pytest.raises(DataError, match="base64"):
        pipeline.transform_row({"i": str(tmp_path / "a.png")})


def test_missing_images(tmp_path):
    blank = fit(Image(name="i", size=(2, 2), channels=1, missing="blank"), columns={"i": [None]})
    assert not blank.transform({"i": [None, ""]})["inputs"]["i"].any()
    with pytest.raises(DataError, match="must not be missing"):
        fit(Image(name="i"), columns={"i": [None]}).transform({"i": [None]})


# Schemas


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Number(name="x", role="target", missing="drop", outliers="clip"), "can't be judged"),
        (lambda: Number(name="x", outliers="missing", missing="error"), "a way to fill"),
        (lambda: Number(name="x", count=True), "for targets"),
        (lambda: Category(name="x", ordered=True), "for targets"),
        (lambda: Category(name="x", coding="hash", labels=("a",)), "for inputs, without"),
        (lambda: Date(name="x", parts=("year", "year")), "repeated"),
        (lambda: Labels(name="x", role="target", missing="drop"), "must be `error`"),
        (lambda: Vector(name="x", columns=("a", "a")), "repeated"),
        (lambda: Schema(fields=(Span(name="s", of="t"),)), "no text field"),
        (lambda: Schema(fields=(Text(name="numbers"),)), "name of a block"),
    ],
)
def test_contradictions(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()
