import numpy as np
import polars as pl
import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from reinforge.core import batch as batches
from reinforge.data.infer import infer
from reinforge.data.linear import generate
from reinforge.data.options import LinearOptions, TableOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import apply, prepare
from reinforge.data.readers import read
from reinforge.errors import DataError, RecipeError
from reinforge.schema.fields import Category, Number

PENGUINS = {"path": "package:palmerpenguins/data/penguins.csv", "targets": ["species"]}


def options(**values):
    return TableOptions.model_validate({"targets": ["y"]} | values)


def kinds(schema):
    return {f.name: f.kind for f in schema.fields}


def inferred(columns, **values):
    return infer(read(columns), options(**values))


def test_penguins():
    prepared = prepare(TableOptions.model_validate(PENGUINS))
    assert kinds(prepared.schema) == {
        "island": "category",
        "bill_length_mm": "number",
        "bill_depth_mm": "number",
        "flipper_length_mm": "number",
        "body_mass_g": "number",
        "sex": "category",
        "year": "number",
        "species": "category",
    }
    assert prepared.schema.field("species").labels == ("Adelie", "Chinstrap", "Gentoo")
    assert prepared.schema.field("sex").labels == ("female", "male")
    assert [batches.rows(side) for side in (prepared.train, prepared.validation, prepared.test)] == [241, 51, 52]
    assert prepared.signature.inputs["categories"].sizes == (5, 4)
    assert prepared.notes == ()


def test_statistics_come_from_training_rows_alone():
    """Changing every row outside of training changes nothing that was fitted."""
    columns = {"x": np.arange(50.0) ** 2, "q": ["a", "b"] * 25, "y": np.arange(50.0)}
    first = prepare(options(split={"kind": "random"}, fields={"q": {"kind": "category"}}), data=columns)
    other = np.concatenate([first.rows.validation, first.rows.test])
    changed = {"x": columns["x"].copy(), "q": list(columns["q"]), "y": columns["y"].copy()}
    changed["x"][other] = 1e6 + np.arange(len(other))  # equal rows would stay together
    changed["y"][other] = -1e6
    for row in other:
        changed["q"][row] = "never in training"
    second = prepare(options(split={"kind": "random"}, fields={"q": {"kind": "category"}}), data=changed)
    assert second.pipeline.schema == first.pipeline.schema
    assert all(np.array_equal(a, second.pipeline.arrays()[n]) for n, a in first.pipeline.arrays().items())
    assert torch.equal(second.train["inputs"]["numbers"], first.train["inputs"]["numbers"])
    assert (second.test["inputs"]["categories"] == 0).all()


@pytest.mark.parametrize("fold", range(5))
def test_folds_match_scikit_learn_on_the_table(fold):
    species = read(PENGUINS["path"]).columns["species"].to_numpy()
    split = {"kind": "folds", "folds": 5, "fold": fold, "seed": 0, "validation": 0.0}
    prepared = prepare(TableOptions.model_validate(PENGUINS | {"split": split}))
    _, test = list(StratifiedKFold(5, shuffle=True, random_state=0).split(species, species))[fold]
    assert np.array_equal(prepared.rows.test, test)
    assert prepared.validation is None


def test_rows_of_sides_are_rows_of_the_table():
    columns = {"x": [float(i) for i in range(40)], "y": [None if i % 4 == 0 else i * 1.5 for i in range(40)]}
    prepared = prepare(
        options(split={"kind": "random"}, fields={"x": {"scale": "none", "kind": "number"}}), data=columns
    )
    for side in ("train", "validation", "test"):
        expected = getattr(prepared.rows, side)
        assert torch.equal(getattr(prepared, side)["inputs"]["numbers"][:, 0], torch.tensor(expected).float())
    assert prepared.notes == ("10 of 40 rows are left out: their target 'y' is missing",)


def test_frozen_pipeline_is_never_refitted():
    first = prepare(
        options(split={"kind": "random"}), data={"x": list(np.arange(30) * 0.7), "y": list(np.arange(30.0))}
    )
    shifted = {"x": list(np.arange(30) * 0.7 + 5), "y": list(np.arange(30.0) + 9), "new": [1] * 30}
    second = prepare(options(split={"kind": "random"}), data=shifted, pipeline=first.pipeline)
    assert second.pipeline is first.pipeline
    assert second.train["targets"]["y"].mean() > first.train["targets"]["y"].mean() + 0.5
    assert second.notes == ("columns the model doesn't know are ignored: new",)


def test_apply_gives_what_training_saw(tmp_path):
    prepared = prepare(TableOptions.model_validate(PENGUINS))
    applied = apply(prepared.pipeline, PENGUINS["path"])
    for side in ("train", "validation", "test"):
        expected = batches.select(applied.batch, torch.from_numpy(getattr(prepared.rows, side)))
        assert torch.equal(getattr(prepared, side)["inputs"]["numbers"], expected["inputs"]["numbers"])
        assert torch.equal(getattr(prepared, side)["targets"]["species"], expected["targets"]["species"])
    example = prepared.examples[0]
    row = int(prepared.rows.validation[0])
    alone = prepared.pipeline.transform_row(example)
    assert torch.equal(alone["inputs"]["numbers"][0], applied.batch["inputs"]["numbers"][row])
    without = apply(prepared.pipeline, [example], targets=False)
    assert without.batch["targets"] == {}


def test_apply_names_the_line_of_a_bad_row(tmp_path):
    pipeline = prepare(options(), data={"x": [1.5, 2.5] * 20, "y": ["a", "b"] * 20}).pipeline
    (tmp_path / "new.csv").write_text("y,x\na,1\n,2\nb,much\n")
    with pytest.raises(DataError, match="'much' is not a number") as caught:
        apply(pipeline, "new.csv", base=tmp_path)
    assert caught.value.where == "new.csv, line 4, column 'x'"
    (tmp_path / "new.csv").write_text("y,x\na,1\n,2\nb,\nc,4\n")
    with pytest.raises(DataError, match="'c' is none of the known labels") as caught:
        apply(pipeline, "new.csv", base=tmp_path)
    assert caught.value.where == "new.csv, line 5, column 'y'"


def test_a_class_that_a_bundle_does_not_know_is_named_with_its_line(tmp_path):
    pipeline = prepare(options(), data={"x": [1.5, 2.5] * 20, "y": ["a", "b"] * 20}).pipeline
    (tmp_path / "new.csv").write_text("y,x\na,1\n,2\nb,3\nc,4\n")
    with pytest.raises(DataError, match="'c' is none of the known labels") as caught:
        prepare(options(path="new.csv"), pipeline=pipeline, base=tmp_path)
    assert caught.value.where == "new.csv, line 5, column 'y'"
    assert "start.extend=true" in (caught.value.remedy or "")


def test_sets_of_labels_that_are_not_there_are_told():
    columns = {"x": [i * 0.5 for i in range(60)], "y": ["a;b", "", "b"] * 20}
    asked = options(targets={"y": {"kind": "labels", "separator": ";"}})
    dropped = prepare(asked, data=columns)
    assert sum("20 rows have no labels" in note and "missing: empty" in note for note in dropped.notes) == 1
    kept = prepare(options(targets={"y": {"kind": "labels", "separator": ";", "missing": "empty"}}), data=columns)
    assert sum(len(side) for side in vars(kept.rows).values()) == 60
    assert not any("missing" in note for note in kept.notes)


def test_several_targets_one_often_missing():
    columns = {
        "x": [i * 0.5 for i in range(60)],
        "y": ["a", "b", "a"] * 20,
        "z": [None if i % 3 else i * 1.1 for i in range(60)],
    }
    prepared = prepare(TableOptions(targets={"y": {}, "z": {"missing": "mask"}}), data=columns)
    assert sum(batches.rows(side) for side in (prepared.train, prepared.validation, prepared.test)) == 60
    assert set(prepared.train["valid"]) == {"z"}
    assert prepared.train["valid"]["z"].sum() < 20


@pytest.mark.parametrize(
    ("column", "kind", "note"),
    [
        ([1.5, 2.5], "number", None),
        ([1, 2], "number", None),
        (["1", "2.5"], "number", None),
        (["1", "NA"], "number", None),
        (["x", "y"], "category", None),
        ([True, False], "category", None),
        (["007", "008"], "category", None),
        ([5, 5], None, "same value in every row"),
        (["x", "x"], None, "same value in every row"),
        ([None, None], None, "all values are missing"),
        (["NA", ""], None, "all values are missing"),
        (pl.Series(["2026-01-01", "2026-01-02"] * 20).str.to_date(), "date", None),
        (pl.Series(["2026-01-01T12:30", "2026-01-02T08:00"] * 20).str.to_datetime(), "date", None),
        (
            pl.Series(["2026-01-01", "2026-01-02"] * 20).str.to_date().cast(pl.Datetime("ms", "Asia/Tokyo")),
            "date",
            None,
        ),
        (["2026-01-01", "2026-02-02T10:00:00Z"], "date", None),
        (["2026-01-01", "2026-13-02"], "category", None),
        (["2026-01-01", "2026-01-01"], None, "same value in every row"),
        ([f"2026-01-01 10:{i}:00" for i in range(10, 50)], "date", None),
        (pl.Series(["10:00:00", "11:00:00"] * 20).str.to_time(), None, "times of day"),
        (pl.Series([[1.5], [2.5]] * 20), None, "nested"),
        (pl.Series([["a"], ["b", "a"]] * 20), "labels", None),
        (pl.Series([[1], [2, 1]] * 20), "labels", None),
        (['["a"]', '["a", "b"]'], "labels", "sets of labels"),
        (["a;b", "b;c", "a;c", "b", "a;b;c", "a;b;d", "d;a", "d;b", "d;c", "c;d"] * 4, "labels", "4 labels"),
        (["a|b", "b|c", "a|c", "b", "a|b|c", "a|b|d", "d|a", "d|b", "d|c", "c|d"] * 4, "labels", "'|'"),
        ([f"{i},{j}" for i in range(8) for j in range(5)], None, "identifies rows"),
        ([f"so here is some text, number {i}" for i in range(40)], "text", None),
        ([f"这个酒店的早餐很好吃{i}" for i in range(40)], "text", None),
        (pl.Series([b"\x89PNG1", b"\xff\xd8\xff"] * 20), "image", None),
        (pl.Series([b"1", b"2"] * 20), None, "no image"),
        (pl.Series(np.zeros((40, 3, 4), np.uint8)), "image", None),
        (pl.Series(np.zeros((40, 3), np.uint8)), None, "arrays"),
        (["nowhere/a.png", "nowhere/b.PNG"], None, "not there"),
        (pl.Series(["1", "2"] * 20, dtype=pl.Categorical), "category", None),
        (pl.Series(["1", "x"] * 20, dtype=pl.Enum(["1", "x"])), "category", None),
        ([f"word {i}" for i in range(40)], None, "identifies rows"),
        ([f"word {i if i < 30 else 7}" for i in range(40)], None, "free text"),
        (list(range(7, 47)), None, "numbers the rows"),
        ([str(i) for i in range(40)], None, "numbers the rows"),
        ([0, 1, *range(1, 39)], None, "numbers the rows"),
        ([*range(38), 3, 7], None, "numbers the rows"),  # copies at the end
        ([*range(39), 50], "number", None),
        ([*range(20), *range(20)], "number", None),
        (sorted([*range(20), *range(20)]), "number", None),
        ([f"{i % 12 + 1:02}/03/2024" for i in range(40)], None, "may be %d/%m/%Y or %m/%d/%Y"),
        ([f"3/{i % 28 + 1}/24 10:{30 if i else ''}" for i in range(40)], None, "not all written in one way"),
        ([i * 1.5 for i in range(40)], "number", None),
        ([i * i for i in range(40)], "number", None),
    ],
)
def test_inferred_kinds(column, kind, note):
    values = column if len(column) == 40 else column * 20
    schema, notes = inferred({"c": values, "keep": [0.5, 1.5] * 20, "y": ["a", "b"] * 20})
    assert kinds(schema).get("c") == kind
    assert (note is None) == (notes == ())
    assert note is None or note in notes[0]


@pytest.mark.parametrize(
    ("clock", "hours"), [("", False), (" 00:00:00", False), ("T00:00:00.000Z", False), (" 00:30", True)]
)
def test_the_hour_of_a_date_is_worth_knowing_where_it_has_one(clock, hours):
    days = [f"2024-03-{i % 28 + 1:02}{clock}" for i in range(40)]
    schema, notes = inferred({"c": days, "y": ["a", "b"] * 20})
    assert ("hour" in schema.field("c").parts) == hours
    assert notes == ()


@pytest.mark.parametrize(
    "name",
    ["id", "ID", "customer_id", "row id", "uuid", "Index", "record_no", "CustomerID", "passengerId", "客户编号"],
)
def test_identifiers_by_name(name):
    schema, notes = inferred({name: [i * i for i in range(40)], "x": [0.5, 1.5] * 20, "y": [0.5, 2.5] * 20})
    assert name not in kinds(schema)
    assert "numbers the rows" in notes[0]
    schema, _ = inferred({"x": [0.5, 1.5], name: [4, 1], "y": [0.5, 2]}, inputs=["x", name])
    assert kinds(schema)[name] == "number"  # the recipe overrules


@pytest.mark.parametrize("name", ["covid", "paid", "PAID", "编号数量", "Humid"])
def test_no_identifiers_by_name(name):
    schema, _notes = inferred({name: [i * i for i in range(40)], "y": [0.5, 2.5] * 20})
    assert kinds(schema)[name] == "number"


@pytest.mark.parametrize(
    ("target", "kind", "noted"),
    [
        (["a", "b"], "category", False),
        ([True, False], "category", False),
        ([0, 1], "category", True),
        (["0", "1"], "category", True),
        ([0.0, 1.0], "category", True),
        ([0.5, 1.0], "number", False),
    ],
)
def test_inferred_targets(target, kind, noted):
    schema, notes = inferred({"x": [0.5, 1.5] * 20, "y": target * 20})
    assert kinds(schema)["y"] == kind
    assert bool(notes) == noted
    schema, notes = infer(read({"x": [0.5, 1.5] * 20, "y": target * 20}), options(targets={"y": {"kind": "category"}}))
    assert (kinds(schema)["y"], notes) == ("category", ())


def test_the_recipe_overrules():
    columns = {"a": [1, 2, 3, 4], "b": ["u", "v", "u", "w"], "c": [1, 1, 1, 1], "y": [1.5, 2, 3, 4]}
    schema, notes = inferred(
        columns,
        fields={
            "a": {"kind": "category", "labels": ["4", "3", "2", "1"], "unseen": "error", "missing": "error"},
            "b": {"rare": 2},
            "c": {"low": 0, "missing": "median", "scale": "range", "indicator": True},
        },
        nulls=["?"],
    )
    a, b, c, y = schema.fields
    assert a == Category(name="a", labels=("4", "3", "2", "1"), unseen="error", missing="error")
    assert b == Category(name="b", rare=2)
    assert c == Number(name="c", low=0, missing="median", scale="range", indicator=True)
    assert y == Number(name="y", role="target", missing="drop")
    assert notes == ()
    assert schema.nulls == ("?",)


def test_inputs_and_drop_choose_columns():
    columns = {"a": [1.5, 2], "b": [1.5, 2], "c": [1.5, 2], "y": [1.5, 2]}
    assert list(kinds(inferred(columns, inputs=["c", "a"])[0])) == ["c", "a", "y"]
    assert list(kinds(inferred(columns, drop=["b"])[0])) == ["a", "c", "y"]


@pytest.mark.parametrize(
    ("values", "problem", "where"),
    [
        ({"targets": ["z"]}, "no column 'z'", "data"),
        ({"drop": ["z"]}, "no column 'z'", "data"),
        ({"inputs": ["z"]}, "no column 'z'", "data"),
        ({"fields": {"z": {}}}, "no column 'z'", "data"),
        ({"fields": {"x": {"labels": ["a"]}}}, "a number has no option 'labels'", "data.fields.x.labels"),
        ({"fields": {"x": {"missing": "own"}}}, "mean", "data.fields.x"),
        ({"fields": {"x": {"low": 2, "high": 1}}}, "above", "data.fields.x"),
        ({"targets": {"y": {"missing": "mean"}}}, "missing", "data.targets.y"),
        ({"targets": {"y": {"kind": "category", "unseen": "unknown"}}}, "unseen", "data.targets.y"),
    ],
)
def test_wrong_recipes(values, problem, where):
    with pytest.raises(RecipeError, match=problem) as caught:
        inferred({"x": [1.5, 2.5], "y": [1.5, 2.5]}, **values)
    assert caught.value.where.startswith(where)


@pytest.mark.parametrize(
    "values",
    [
        {"targets": []},
        {"targets": {}},
        {"targets": ["y"], "drop": ["y"]},
        {"targets": ["y"], "inputs": ["y"]},
        {"targets": ["y"], "fields": {"y": {}}},
        {"targets": ["y"], "fields": {"x": {}}, "drop": ["x"]},
        {"targets": ["y"], "split": {"kind": "random", "validation": 0.6, "test": 0.5}},
        {"targets": ["y"], "split": {"kind": "folds", "folds": 3, "fold": 3}},
        {"targets": ["y"], "delimiter": ";;"},
        {"targets": ["y"], "colour": 1},
    ],
)
def test_contradictory_options(values):
    with pytest.raises(ValueError):
        TableOptions.model_validate(values)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"x": [0.5, 1.5] * 20, "y": ["a"] * 40}, "every row has the same class, 'a'"),
        ({"x": [0.5, 1.5] * 20, "y": [None] * 40}, "all values are missing"),
        ({"x": [1] * 40, "y": [0.5, 1.5] * 20}, "no column is left to predict from"),
        ({"x": [0.5, 1.5] * 20, "y": [f"text {i}" for i in range(40)]}, "too many to be classes"),
        ({"x": ["1"] * 39 + ["one"], "y": [0.5, 1.5] * 20}, "'one' is not a number, but most values"),
        ({"x": [0.5, 1.5] * 20, "y": ["1.5"] * 39 + ["one"]}, "'one' is not a number, but most values"),
        ({"x": [0.5, float("inf")] * 20, "y": [0.5, 1.5] * 20}, "inf is infinite"),
        ({"x": ["0.5", "inf"] * 20, "y": [0.5, 1.5] * 20}, "inf is infinite"),
        ({"x": [0.5, 1.5] * 20, "y": [0.5, float("-inf")] * 20}, "-inf is infinite"),
        ({"x": [0.5, 1.5], "y": [0.5, 1.5]}, "none is left for"),
    ],
)
def test_data_that_can_not_be_learned_from(columns, problem):
    with pytest.raises(DataError, match=problem):
        prepare(options(split={"kind": "random"}), data=columns)


def test_mixture_names_the_row(tmp_path):
    rows = "".join(f"{i}.5,a\n" if i != 7 else "seven,b\n" for i in range(20))
    (tmp_path / "t.csv").write_text("x,y\n" + rows)
    with pytest.raises(DataError, match="'seven' is not a number") as caught:
        prepare(options(path="t.csv"), base=tmp_path)
    assert caught.value.where == "t.csv, line 9, column 'x'"
    assert "data.fields.x.kind: category" in caught.value.remedy


def test_constant_in_training_is_noted():
    columns = {
        "x": [1.0] * 39 + [2.0],
        "q": [0.5, 1.5] * 20,
        "y": list(np.arange(40.0)),
        "s": ["train"] * 38 + ["test"] * 2,
    }
    prepared = prepare(options(split={"kind": "given", "column": "s"}), data=columns)
    assert "'x' is constant in training" in prepared.notes
    assert (prepared.train["inputs"]["numbers"][:, 0] == 0).all()
    assert prepared.test["inputs"]["numbers"][:, 0].tolist() == [0, 1]


def test_class_without_training_rows_is_noted():
    columns = {"x": [0.5, 1.5] * 20, "y": ["a", "b"] * 19 + ["c", "c"], "s": ["train"] * 38 + ["test"] * 2}
    prepared = prepare(options(split={"kind": "given", "column": "s"}), data=columns)
    assert prepared.schema.field("y").labels == ("a", "b", "c")
    assert "no training row has target 'y' as 'c'" in prepared.notes


def test_helper_columns_are_no_inputs():
    columns = {"x": [0.5, 1.5] * 20, "t": [i * 1.5 for i in range(40)], "y": [0.5, 1.5] * 20}
    split = {"kind": "time", "column": "t"}
    assert "t" not in kinds(prepare(options(split=split), data=columns).schema)
    assert "t" in kinds(prepare(options(split=split, inputs=["x", "t"]), data=columns).schema)


def test_seed_decides_the_split_and_nothing_else():
    columns = {"x": [i * 1.5 for i in range(40)], "y": [0.5, 1.5] * 20}
    one, again, other = (prepare(options(), seed=seed, data=columns) for seed in (1, 1, 2))
    assert np.array_equal(one.rows.test, again.rows.test)
    assert not np.array_equal(one.rows.test, other.rows.test)
    assert one.digest == other.digest


def test_no_data():
    with pytest.raises(DataError, match="there are no data"):
        prepare(options())


def test_linear_is_recovered_by_least_squares():
    chosen = LinearOptions(rows=400, weights=(2.0, -3.4, 0.5), bias=4.2, noise=1e-3, shift=2.0, scale="none")
    prepared = prepare(chosen, seed=3)
    x, y = prepared.train["inputs"]["numbers"].double(), prepared.train["targets"]["y"].double()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1), y).solution[:, 0]
    assert torch.allclose(solution, torch.tensor([2.0, -3.4, 0.5, 4.2], dtype=torch.float64), atol=1e-3)
    assert abs(x.mean().item() - 2.0) < 0.2
    assert [batches.rows(side) for side in (prepared.train, prepared.validation, prepared.test)] == [240, 80, 80]


def test_linear_depends_on_its_seed_alone():
    first, again, other = (generate(LinearOptions(), seed) for seed in (1, 1, 2))
    assert np.array_equal(first["y"], again["y"])
    assert not np.array_equal(first["y"], other["y"])
    assert np.array_equal(generate(LinearOptions(seed=7), 1)["y"], generate(LinearOptions(seed=7), 2)["y"])


EVERY = {
    "x": {"outliers": "clip", "transform": "log", "scale": "robust", "indicator": True},
    "t": {"kind": "date"},
    "q": {"rare": 2},
    "s": {"kind": "labels", "separator": ";"},
    "w": {"kind": "text"},
}


def every_kind(seed, count, far=0.0):
    draw = np.random.default_rng(seed)
    letters = "abcd" if not far else "wxyz"
    x = draw.normal(size=count) + far
    return {
        "x": [None if i % 9 == 4 else float(value) for i, value in enumerate(x)],
        "t": [f"20{26 + int(far > 0)}-{m:02d}-01" for m in draw.integers(1, 13, count)],
        "q": draw.choice(list(letters), count).tolist(),
        "s": [";".join(draw.choice(list(letters), 2)) for _ in range(count)],
        "w": ["".join(draw.choice(list(letters), 6)) for _ in range(count)],
        "y": (x * 2).tolist(),
        "k": draw.choice(["u", "v"], count).tolist(),
    }


def test_nothing_is_fitted_to_rows_that_are_held_back():
    """The same training rows beside others that are near or far: every statistic, label and token is the same."""
    training, fitted = every_kind(0, 60), []
    for far in (0.0, 1000.0):
        held = every_kind(1, 40, far)
        columns = {name: [*training[name], *held[name]] for name in training}
        columns["side"] = ["train"] * 60 + ["validation"] * 20 + ["test"] * 20
        split = {"kind": "given", "column": "side"}
        chosen = TableOptions.model_validate({"targets": ["y", "k"], "fields": EVERY, "split": split})
        fitted.append(prepare(chosen, data=columns).pipeline)
    first, second = fitted
    assert first.schema == second.schema
    assert first.to_json() == second.to_json()
    assert all(np.array_equal(a, second.arrays()[name], equal_nan=True) for name, a in first.arrays().items())


def test_every_fold_is_fitted_to_its_own_training_rows():
    columns = every_kind(2, 90)
    for fold in range(3):
        split = {"kind": "folds", "folds": 3, "fold": fold, "validation": 0.0}
        chosen = TableOptions.model_validate({"targets": ["y", "k"], "fields": EVERY, "split": split})
        prepared = prepare(chosen, data=columns)
        alone = {name: [values[i] for i in prepared.rows.train] for name, values in columns.items()}
        schema = prepared.schema.model_copy(
            update={
                "fields": tuple(
                    f.model_copy(update={"labels": ()}) if getattr(f, "labels", ()) else f
                    for f in prepared.schema.fields
                )
            }
        )
        expected = Pipeline.fit(read(alone).plain(schema), schema)
        assert expected.schema == prepared.schema
        for name, array in expected.arrays().items():
            assert np.array_equal(array, prepared.pipeline.arrays()[name], equal_nan=True)


def test_fields_of_several_columns():
    columns = {
        "a": [0, 1] * 20, "b": [1, 0] * 20, "u": [0.5, 1.5] * 20, "v": [2.5, 1.5] * 20,
        "x": [0.1 * i for i in range(40)],
        "t": ["some text to read", "more text to read"] * 20, "start": [0, 5] * 20, "end": [4, 9] * 20,
    }  # fmt: skip
    chosen = {
        "targets": {"p": {"columns": ["u", "v"]}, "s": {"of": "t", "columns": ["start", "end"]}},
        "fields": {"flags": {"columns": ["a", "b"]}, "t": {"kind": "text"}},
        "split": {"kind": "random"},
    }
    prepared = prepare(TableOptions.model_validate(chosen), data=columns)
    assert kinds(prepared.schema) == {"x": "number", "t": "text", "flags": "labels", "p": "vector", "s": "span"}
    assert prepared.train["inputs"]["flags"].sum(1).tolist() == [1.0] * batches.rows(prepared.train)
    assert prepared.train["targets"]["p"].shape[1] == 2
    with pytest.raises(RecipeError, match="no column 'w'"):
        prepare(TableOptions.model_validate(chosen | {"targets": {"p": {"columns": ["u", "w"]}}}), data=columns)


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ({"targets": {"y": {"kind": "date"}}}, "a date can't be a target"),
        ({"targets": {"y": {"kind": "text"}}}, "a text can't be a target"),
        ({"fields": {"x": {"kind": "vector", "columns": ["x"]}}}, "a vector can't be an input"),
        ({"fields": {"x": {"kind": "number", "tail": 0.7, "outliers": "clip"}}}, "less than 0.5"),
        ({"fields": {"x": {"kind": "category", "tokenizer": "word"}}}, "a category has no option 'tokenizer'"),
        ({"targets": {"y": {"of": "x"}}}, "which is no text field"),
        ({"fields": {"x": {"kind": "image", "parts": ["year"]}}}, "image has no option 'parts'"),
        ({"fields": {"x": {"size": [8, 8]}}}, "taken for a category; state"),
    ],
)
def test_options_that_do_not_fit(chosen, problem):
    with pytest.raises((RecipeError, DataError), match=problem):
        prepare(options(**chosen), data={"x": ["a", "b"] * 20, "y": [0.5, 1.5] * 20})


def test_which_targets_are_missing_is_told():
    columns = {
        "x": [float(i % 7) for i in range(40)], "y": [None if i < 4 else i * 1.5 for i in range(40)],
        "z": [None if 2 < i < 9 else i * 1.5 for i in range(40)],
    }  # fmt: skip
    prepared = prepare(options(targets=["y", "z"], split={"kind": "random"}), data=columns)
    assert prepared.notes[0] == "9 of 40 rows are left out: a target is missing ('y' in 4, 'z' in 6)"
