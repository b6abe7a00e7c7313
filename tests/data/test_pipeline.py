import json
import math
import timeit

import numpy as np
import pytest
import torch
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import LabelEncoder, MinMaxScaler, OrdinalEncoder, StandardScaler

from reinforge.data.pipeline import Pipeline
from reinforge.data.values import Encoded, Origin
from reinforge.errors import DataError, IntegrityError
from reinforge.schema.fields import Box, Category, Number
from reinforge.schema.schema import Schema

RNG = np.random.default_rng(0)
X = RNG.normal(5, 3, (200, 3)) * [1, 1000, 1e-6]
X[RNG.random(X.shape) < 0.1] = np.nan
COLUMNS = {name: X[:, index] for index, name in enumerate("abc")}


def fit(*fields, columns=None, **schema):
    columns = COLUMNS if columns is None else columns
    return Pipeline.fit(columns, Schema(fields=fields, **schema))


def numbers(pipeline, columns=None):
    return pipeline.transform(COLUMNS if columns is None else columns)["inputs"]["numbers"].numpy()


def same(a, b):
    return a.keys() == b.keys() and all(
        x.keys() == b[key].keys() and all(torch.equal(x[name], b[key][name]) for name in x) for key, x in a.items()
    )


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_impute_and_standardise_against_scikit_learn(strategy):
    pipeline = fit(*(Number(name=name, missing=strategy) for name in "abc"))
    imputed = SimpleImputer(strategy=strategy).fit_transform(X)
    assert np.allclose(numbers(pipeline), StandardScaler().fit_transform(imputed), rtol=1e-6, atol=1e-6)


def test_constant_range_and_indicator_against_scikit_learn():
    fields = [Number(name=n, missing="constant", constant=-1.0, scale="range", indicator=n != "b") for n in "abc"]
    pipeline = fit(*fields)
    expected = MinMaxScaler().fit_transform(SimpleImputer(strategy="constant", fill_value=-1.0).fit_transform(X))
    found = numbers(pipeline)
    assert np.allclose(found[:, :3], expected, atol=1e-6)
    assert np.array_equal(found[:, 3:], MissingIndicator(features="all").fit_transform(X)[:, [0, 2]])
    assert pipeline.feature_names["numbers"] == ("a", "b", "c", "a is missing", "c is missing")


def test_no_scaling_keeps_the_numbers():
    found = numbers(fit(Number(name="a", scale="none", missing="constant", constant=0.0)))
    assert np.array_equal(found[:, 0], np.nan_to_num(X[:, 0]).astype(np.float32))


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1, 1e300, -1e-300])
@pytest.mark.parametrize("scale", ["standard", "range"])
def test_constant_column_is_only_shifted(value, scale):
    pipeline = fit(Number(name="a", scale=scale), columns={"a": [value] * 7})
    assert not numbers(pipeline, {"a": [value] * 3}).any()


def test_input_codes_against_scikit_learn():
    labels = RNG.choice(["b", "a", "d", "c"], 100)
    pipeline = fit(Category(name="q"), columns={"q": labels.tolist()})
    oracle = OrdinalEncoder().fit_transform(labels[:, None])[:, 0]
    codes = pipeline.transform({"q": labels.tolist()})["inputs"]["categories"]
    assert np.array_equal(codes[:, 0].numpy(), oracle + 2)
    assert codes.dtype == torch.int64


def test_target_codes_and_numbers_against_scikit_learn():
    labels, y = RNG.choice(["b", "a", "d"], 50), RNG.normal(100, 7, 50)
    columns = {"x": list(range(50)), "q": labels.tolist(), "y": y}
    pipeline = fit(
        Number(name="x"),
        Category(name="q", role="target", missing="drop", unseen="error"),
        Number(name="y", role="target", missing="drop"),
        columns=columns,
    )
    batch = pipeline.transform(columns)
    encoder = LabelEncoder().fit(labels)
    assert np.array_equal(batch["targets"]["q"].numpy(), encoder.transform(labels))
    assert pipeline.inverse("q", batch["targets"]["q"]) == labels.tolist()
    assert batch["targets"]["y"].shape == (50, 1)
    assert np.allclose(batch["targets"]["y"][:, 0], StandardScaler().fit_transform(y[:, None])[:, 0], atol=1e-6)
    assert np.allclose(pipeline.inverse("y", batch["targets"]["y"]), y, rtol=1e-6)
    assert batch["valid"] == {}


def test_labels_stand_in_order_numbers_first():
    pipeline = fit(Category(name="q"), columns={"q": ["10", "9", "x", "-1", "1.5", "b"]})
    assert pipeline.schema.categories[0].labels == ("-1", "1.5", "9", "10", "b", "x")


def test_declared_labels_keep_their_order():
    pipeline = fit(Category(name="q", labels=("low", "high")), columns={"q": ["high", "odd"]})
    assert pipeline.transform({"q": ["low", "high", "odd", None]})["inputs"]["categories"].ravel().tolist() == [
        2,
        3,
        0,
        1,
    ]


def test_rare_labels_share_the_unknown_slot():
    pipeline = fit(Category(name="q", rare=2), columns={"q": ["a", "a", "b", "c", "c"]})
    assert pipeline.schema.categories[0].labels == ("a", "c")
    assert pipeline.transform({"q": ["b"]})["inputs"]["categories"].tolist() == [[0]]


@pytest.mark.parametrize("spelling", ["1", "1.0", 1, 1.0, np.int64(1), np.float32(1), " 1 "])
@pytest.mark.parametrize("trained", [["1", "2"], ["1.0", "2.0"], [1, 2], [1.0, 2.0]])
def test_one_label_many_spellings(spelling, trained):
    pipeline = fit(Category(name="q"), columns={"q": trained})
    assert pipeline.transform({"q": [spelling]})["inputs"]["categories"].tolist() == [[2]]


@pytest.mark.parametrize("spelling", ["true", "True", True, np.bool_(True)])
@pytest.mark.parametrize("trained", [["true", "false"], ["True", "False"], [True, False]])
def test_one_truth_many_spellings(spelling, trained):
    pipeline = fit(Category(name="q"), columns={"q": trained})
    assert pipeline.transform({"q": [spelling]})["inputs"]["categories"].tolist() == [[3]]


def test_labels_that_differ_only_in_spelling_stay_apart():
    pipeline = fit(Category(name="version"), columns={"version": ["3.1", "3.10", "007", "7"]})
    find = lambda text: pipeline.transform({"version": [text]})["inputs"]["categories"].item()  # noqa: E731
    assert len({find("3.1"), find("3.10"), find("007"), find("7")}) == 4
    assert find("3.100") == 0  # either could be meant


def test_true_and_one_are_different_labels():
    pipeline = fit(Category(name="q"), columns={"q": [True, 1, "x"]})
    assert pipeline.schema.categories[0].labels == ("1", "true", "x")


MIXED = (
    Number(name="a", indicator=True, low=0, high=10),
    Number(name="n", integer=True, missing="error"),
    Category(name="q"),
    Category(name="s", missing="error", unseen="error"),
    Number(name="y", role="target", missing="mask"),
    Category(name="k", role="target", missing="mask", unseen="error"),
)
TRAINING = {
    "a": [1.0, 2.5, None, 4.0],
    "n": [1, 2, 3, 4],
    "q": ["x", "y", None, "x"],
    "s": ["u", "v", "u", "v"],
    "y": [1.0, None, 3.0, 5.0],
    "k": ["yes", "no", None, "no"],
}
PIPELINE = fit(*MIXED, columns=TRAINING)
GOOD = {"a": 1.5, "n": 2, "q": "x", "s": "u"}


def test_masked_targets():
    batch = PIPELINE.transform(TRAINING)
    assert batch["valid"]["y"].tolist() == [True, False, True, True]
    assert batch["valid"]["k"].tolist() == [True, True, False, True]
    assert batch["targets"]["y"][1].item() == 0
    assert batch["targets"]["k"].tolist() == [1, 0, 0, 0]
    everything = {name: values[3:] for name, values in TRAINING.items()}
    assert PIPELINE.transform(everything)["valid"].keys() == {"y", "k"}  # the same structure whatever the rows


def test_complete_tells_the_rows_to_keep():
    fields = [f.model_copy(update={"missing": "drop"}) if f.role == "target" else f for f in MIXED]
    schema = Schema(fields=tuple(fields))
    with pytest.raises(DataError, match="the target is missing"):
        Pipeline.fit(TRAINING, schema).transform(TRAINING)
    kept = Pipeline.fit(TRAINING, schema).complete(TRAINING)
    assert kept.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "code"),
    [({"q": "never seen"}, 0), ({"q": None}, 1), ({"q": "NA"}, 1), ({"q": float("nan")}, 1), ({"q": "  y "}, 3)],
)
def test_policies_for_categories(change, code):
    assert PIPELINE.transform_row(GOOD | change)["inputs"]["categories"][0, 0].item() == code


@pytest.mark.parametrize("missing", [None, "", "NA", "nan", "-nan", " null ", float("nan"), np.float32("nan")])
def test_what_counts_as_a_missing_number(missing):
    row = PIPELINE.transform_row(GOOD | {"a": missing})["inputs"]["numbers"][0]
    assert row[0].item() == pytest.approx(0, abs=1e-7)  # the mean
    assert row[2].item() == 1


@pytest.mark.parametrize(
    ("change", "problem", "column"),
    [
        ({"a": "abc"}, "'abc' is not a number", "a"),
        ({"a": True}, "True is not a number", "a"),
        ({"a": [1]}, "is not a number", "a"),
        ({"a": {"x": 1}}, "is not a number", "a"),
        ({"a": "1,5"}, "is not a number", "a"),
        ({"a": "1_000"}, "is not a number", "a"),
        ({"a": "0x10"}, "is not a number", "a"),
        ({"a": "١"}, "is not a number", "a"),
        ({"a": b"1"}, "is not a number", "a"),
        ({"a": math.inf}, "inf is infinite", "a"),
        ({"a": "-Infinity"}, "-inf is infinite", "a"),
        ({"a": "1e999"}, "inf is infinite", "a"),
        ({"a": 10**400}, "inf is infinite", "a"),
        ({"a": -0.5}, "below", "a"),
        ({"a": "10.001"}, "above", "a"),
        ({"n": 1.5}, "no whole number", "n"),
        ({"n": None}, "must not be missing", "n"),
        ({"q": ["x"]}, "is not a label", "q"),
        ({"q": math.inf}, "is not a label", "q"),
        ({"s": "never seen"}, "'never seen' is none of the known labels", "s"),
        ({"s": None}, "must not be missing", "s"),
    ],
)
def test_refusals_name_row_and_column_alone_and_in_a_batch(change, problem, column):
    with pytest.raises(DataError, match=problem) as caught:
        PIPELINE.transform_row(GOOD | change)
    assert caught.value.where == f"row 0, column {column!r}"
    assert caught.value.remedy
    rows = [GOOD, GOOD, GOOD | change, GOOD]
    columns = {name: [row[name] for row in rows] for name in GOOD}
    origin = Origin("f.csv", "line", np.array([2, 3, 9, 10]))
    with pytest.raises(DataError, match=problem) as caught:
        PIPELINE.transform(columns, targets=False, origin=origin)
    assert caught.value.where == f"f.csv, line 9, column {column!r}"


def test_missing_column_is_refused_alone_and_in_a_batch():
    row = {name: value for name, value in GOOD.items() if name != "a"}
    with pytest.raises(DataError, match="column 'a' is missing"):
        PIPELINE.transform_row(row)
    with pytest.raises(DataError, match="column 'y' is missing"):
        PIPELINE.transform({name: [value] for name, value in GOOD.items()})


def test_missing_column_may_count_as_missing_values():
    pipeline = fit(Number(name="a"), Category(name="q"), columns={"a": [1, 3], "q": ["x", "y"]}, absent="null")
    alone = pipeline.transform_row({"q": "x"})
    assert same(alone, pipeline.transform_row({"q": "x", "a": None}))
    with pytest.raises(DataError, match="none of the schema's columns"):
        pipeline.transform_row({"other": 1})


def test_extra_columns_are_ignored():
    assert same(PIPELINE.transform_row(GOOD), PIPELINE.transform_row({"extra": object()} | GOOD))


def test_columns_of_different_lengths():
    with pytest.raises(DataError, match="different lengths"):
        PIPELINE.transform({"a": [1], "n": [1, 2], "q": ["x"], "s": ["u"]}, targets=False)


def test_numbers_that_mean_missing():
    pipeline = fit(Number(name="a", indicator=True), columns={"a": [1, 3, -999]}, nulls=("", "-999"))
    for missing in ("-999", -999, -999.0, "-999.0", np.array([-999])):
        values = missing if isinstance(missing, np.ndarray) else [missing]
        assert pipeline.transform({"a": values})["inputs"]["numbers"].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("fields", "columns", "problem"),
    [
        ([Number(name="a")], {"a": [None, "NA"]}, "no training row has a value"),
        ([Category(name="q")], {"q": [None, None]}, "no row has a label"),
        ([Category(name="q", rare=3)], {"q": ["a", "b"]}, "no label is seen often enough"),
        ([Number(name="a")], {"a": [1.7e308, 1.7e308, -1.7e308]}, "too large"),
        ([Number(name="a", missing="median")], {"a": [1.7e308, -1.7e308]}, "too large"),
        (
            [Number(name="a"), Category(name="k", role="target", missing="drop", unseen="error")],
            {"a": [1, 2], "k": ["x", "x"]},
            "every row has the same class",
        ),
        ([Number(name="y", role="target", missing="drop")], {"y": [1]}, "no input"),
        ([Box(shape=(1,))], {"observation": [1]}, "no box fields"),
        ([Number(name="a")], {"a": np.zeros((2, 2))}, "is not a column"),
        ([Number(name="a")], {"a": np.array([1j])}, "is not a column"),
    ],
)
def test_what_can_not_be_fitted(fields, columns, problem):
    with pytest.raises(DataError, match=problem):
        fit(*fields, columns=columns)


def test_overflow_to_32_bits_is_refused():
    pipeline = fit(Number(name="a", scale="none"), columns={"a": [1.0, 2.0]})
    with pytest.raises(DataError, match="no 32-bit float holds"):
        pipeline.transform({"a": [1.0, 1e300]})


@pytest.mark.parametrize(
    "column",
    [
        [1, 2.5, None],
        (1, 2.5, None),
        ["1", "2.50", ""],
        np.array([1, 2.5, np.nan]),
        np.array([1, 2.5, np.nan], dtype=np.float32),
        np.array(["1", "2.5", "NA"]),
        np.array([1, 2.5, None], dtype=object),
        Encoded(["2.5", None, 1], np.array([2, 0, 1], dtype=np.uint32)),
    ],
    ids=lambda column: type(column).__name__,
)
def test_every_form_of_a_column_gives_the_same(column):
    pipeline = fit(Number(name="a", indicator=True), columns={"a": [1, 2.5, None]})
    expected = pipeline.transform({"a": [1.0, 2.5, math.nan]})
    assert same(pipeline.transform({"a": column}), expected)


def stored(pipeline):
    return json.loads(json.dumps(pipeline.to_json())), {name: array.copy() for name, array in pipeline.arrays().items()}


def test_stored_and_loaded_is_the_same():
    loaded = Pipeline.load(Schema.from_json(PIPELINE.schema.to_json()), *stored(PIPELINE))
    assert same(loaded.transform(TRAINING), PIPELINE.transform(TRAINING))
    assert loaded.to_json() == PIPELINE.to_json()


def steps(description):
    return description["inputs"]["numbers"]["operations"]


def altered(change):
    description, arrays = stored(PIPELINE)
    change(description, arrays)
    return description, arrays


@pytest.mark.parametrize(
    "change",
    [
        lambda d, a: d.update(version=1),
        lambda d, a: d.update(format="other"),
        lambda d, a: d.update(more=1),
        lambda d, a: d.pop("targets"),
        lambda d, a: steps(d)[0].update(kind="execute"),
        lambda d, a: steps(d)[0].update(version=9),
        lambda d, a: steps(d)[0].update(more=1),
        lambda d, a: steps(d).pop(),
        lambda d, a: steps(d).reverse(),
        lambda d, a: d["inputs"]["numbers"].update(version=2),
        lambda d, a: d["inputs"]["numbers"].update(operations="impute"),
        lambda d, a: d["inputs"].update(numbers=[]),
        lambda d, a: d["inputs"].update(more={"kind": "labels", "version": 1}),
        lambda d, a: d.update(targets=[]),
        lambda d, a: d["inputs"].update(categories={"kind": "categories", "version": 2}),
        lambda d, a: d["targets"]["y"].update(kind="impute"),
        lambda d, a: d["targets"]["y"]["operations"].clear(),
        lambda d, a: d["targets"]["k"].update(kind="labels"),
        lambda d, a: d["targets"].update(z={"kind": "scale", "version": 1}),
        lambda d, a: a.pop("inputs.0.1.fill"),
        lambda d, a: a.update(extra=np.zeros(1)),
        lambda d, a: a.update({"inputs.1.0.fill": np.zeros(1)}),
        lambda d, a: a.update({"targets.1.0.scale": np.zeros(1)}),
        lambda d, a: a.update({"inputs.0.1.fill": np.zeros(7)}),
        lambda d, a: a.update({"inputs.0.1.fill": np.zeros((3, 1))}),
        lambda d, a: a.update({"inputs.0.1.fill": np.zeros(3, dtype=np.float32)}),
        lambda d, a: a.update({"inputs.0.1.fill": np.full(3, np.inf)}),
        lambda d, a: a.update({"inputs.0.1.fill": np.full(3, np.nan)}),
        lambda d, a: (steps(d).clear(), [a.pop(name) for name in list(a) if name.startswith("inputs")]),
        lambda d, a: a.update({"inputs.0.2.scale": np.zeros(3)}),
        lambda d, a: a.update({"inputs.0.2.scale": np.full(3, -1.0)}),
        lambda d, a: a.update({"inputs.0.2.shift": np.full(3, np.nan)}),
        lambda d, a: a.update({"inputs.0.0.columns": np.array([5])}),
        lambda d, a: a.update({"inputs.0.0.columns": np.array([-1])}),
        lambda d, a: a.update({"inputs.0.0.columns": np.array([0.0])}),
        lambda d, a: a.update({"inputs.0.0.columns": np.array([], dtype=np.int64)}),
        lambda d, a: a.update({"targets.0.0.scale": np.array([0.0])}),
    ],
)
def test_altered_pipelines_are_refused(change):
    with pytest.raises(IntegrityError):
        Pipeline.load(PIPELINE.schema, *altered(change))


@pytest.mark.parametrize("description", [None, [], "x", 1])
def test_no_description_is_refused(description):
    with pytest.raises(IntegrityError):
        Pipeline.load(PIPELINE.schema, description, {})


def test_a_schema_that_does_not_belong_is_refused():
    other = Schema(fields=MIXED[2:])
    with pytest.raises(IntegrityError):
        Pipeline.load(other, *stored(PIPELINE))


@pytest.mark.parametrize("value", [0, 10, "0", "10.0", -0.0])
def test_bounds_are_allowed_values(value):
    assert PIPELINE.transform_row(GOOD | {"a": value})["inputs"]["numbers"].isfinite().all()


def test_single_rows_are_cheap():
    """A guard against losing the direct path: 34 columns took 60 to 100 us on a busy core; a table library takes ms."""
    rows = {f"x{i}": RNG.normal(size=50) for i in range(30)} | {f"q{i}": ["a", "b"] * 25 for i in range(4)}
    kinds = [Category(name=name) if name[0] == "q" else Number(name=name) for name in rows]
    pipeline = fit(*kinds, columns=rows)
    row = {name: "a" if name[0] == "q" else 0.5 for name in rows}
    seconds = min(timeit.repeat(lambda: pipeline.transform_row(row), number=50, repeat=5)) / 50
    assert seconds < 1e-3
