"""Cleaning, leaks and copies on the road of `prepare`: what is planted is found, and nothing else."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.metrics import balanced_accuracy_score, r2_score

from reinforge.data.cleaning import leaks
from reinforge.data.operations.labels import fit_labels
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.values import Nulls
from reinforge.schema.fields import Category


def table(count=400, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 3))
    label = np.where(x[:, 0] + generator.normal(size=count) > 0, "p", "q")
    return {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": label.tolist()}


def leak_notes(columns, **options):
    prepared = prepare_table(TableOptions(targets=["y"], **options), data=columns)
    return [note for note in prepared.notes if "almost alone" in note]


def test_a_planted_target_is_flagged_and_nothing_else():
    columns = table()
    assert leak_notes(columns) == []
    generator = np.random.default_rng(1)
    codes = np.array([label == "p" for label in columns["y"]], float)
    planted = {
        "copy": [label.upper() for label in columns["y"]],
        "number": codes,
        "noisy": codes * 10 + generator.normal(size=400) * 0.5,
        "scattered": [f"{v}" for v in 5 * codes + generator.integers(0, 3, 400)],
        "absence": np.where(codes == 1, np.nan, generator.normal(size=400)),
    }
    for name, values in planted.items():
        kind = "category" if isinstance(values, list) else "number"
        notes = leak_notes({**columns, name: values}, fields={name: {"kind": kind}})
        assert len(notes) == 1, name
        assert repr(name) in notes[0]


def test_a_planted_number_is_flagged():
    columns = table()
    generator = np.random.default_rng(2)
    columns["y"] = (columns["a"] * 3 + generator.normal(size=400)).tolist()
    assert leak_notes(columns) == []
    for values in (
        2 * np.array(columns["y"]) - 7,
        np.exp(np.array(columns["y"]) / 5) + generator.normal(size=400) * 0.01,
    ):
        assert len(leak_notes({**columns, "late": values})) == 1


def test_an_identifier_is_no_leak():
    columns = table()
    columns["who"] = [f"{i * 7919 % 400:03d}x" for i in range(400)]
    assert leak_notes(columns, fields={"who": {"kind": "category"}}) == []


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_iris, load_diabetes])
def test_honest_data_are_not_flagged(load):
    data = load()
    columns = {f"x{i}": data.data[:, i] for i in range(data.data.shape[1])}
    target = data.target if load is load_diabetes else [str(value) for value in data.target]
    assert leak_notes({**columns, "y": target}) == []


def test_scores_are_what_scikit_learn_computes():
    generator = np.random.default_rng(0)
    bins, answers = generator.integers(0, 4, 300), generator.integers(0, 3, 300)
    answers = np.where(generator.random(300) < 0.6, bins % 3, answers)
    guess = np.array([np.argmax([np.mean(bins[:200][answers[:200] == c] == b) for c in range(3)]) for b in range(4)])[
        bins[200:]
    ]
    expected = (balanced_accuracy_score(answers[200:], guess) - 1 / 3) / (2 / 3)
    assert leaks._classes_score(bins[:200], answers[:200], bins[200:], answers[200:]) == pytest.approx(expected)
    numbers = answers + generator.normal(size=300)
    means = np.array([numbers[:200][bins[:200] == b].mean() for b in range(4)])[bins[200:]]
    found = leaks._means_score(bins[:200], numbers[:200], bins[200:], numbers[200:])
    assert found == pytest.approx(r2_score(numbers[200:], means))


def test_copies_stay_on_one_side_by_default():
    columns = {name: np.array(values) for name, values in table(100).items()}
    doubled = {name: np.concatenate([values, values[:40]]).tolist() for name, values in columns.items()}
    for split in ({"kind": "random"}, {"kind": "stratified"}, {"kind": "folds", "fold": 1}):
        prepared = prepare_table(TableOptions(targets=["y"], split=split), data=doubled)
        sides = [
            {row % 100 for row in side.tolist()}
            for side in (prepared.rows.train, prepared.rows.validation, prepared.rows.test)
        ]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert sum(map(len, sides)) == 100
        assert any("40 found" in note and "duplicate" in note for note in prepared.notes)
    dropped = prepare_table(TableOptions(targets=["y"], clean={"duplicates": "drop"}), data=doubled)
    assert max(row for side in vars(dropped.rows).values() for row in side) < 100
    assert dropped.changes[0].dropped == 40


def test_outliers_leave_training_alone():
    columns = table()
    columns["a"][::10] = 1e6
    prepared = prepare_table(TableOptions(targets=["y"], clean={"outliers": 3}), data=columns)
    plain = prepare_table(TableOptions(targets=["y"]), data=columns)
    assert set(plain.rows.train) - set(prepared.rows.train) == {row for row in plain.rows.train if row % 10 == 0}
    assert np.array_equal(plain.rows.test, prepared.rows.test)
    assert prepared.pipeline.arrays()["inputs.0.0.fill"][0] < 10


def test_noise_is_mended_before_kinds_are_told():
    columns = {name: list(values) for name, values in table().items()}
    columns["a"] = [str(value) for value in columns["a"]]
    columns["a"][5], columns["a"][6] = "about three", "?"
    columns["b"][7] = 99.0
    options = TableOptions(targets=["y"], clean={"noise": "missing"}, fields={"b": {"high": 10.0}})
    prepared = prepare_table(options, data=columns)
    assert prepared.schema.field("a").kind == "number"
    assert {(c.policy, c.column, c.cells) for c in prepared.changes} == {("noise", "a", 2), ("noise", "b", 1)}
    dropped = prepare_table(
        TableOptions.model_validate({**options.model_dump(), "clean": {"noise": "drop"}}), data=columns
    )
    assert not {5, 6, 7} & {row for side in vars(dropped.rows).values() for row in side.tolist()}


def test_of_several_spellings_the_tidiest_stands():
    """Neither the stray space nor the full-width letter, though they are more frequent; but where there is no other."""
    texts = ["a  b"] * 9 + ["Ａ b"] * 8 + ["A b", "a b", "a b"] + ["X  Y"] * 3 + ["x  y"] * 2
    assert fit_labels(Category(name="c", spelling="loose"), texts, Nulls.of(())).labels == ("X  Y", "a b")


def test_spellings_are_merged_in_training_and_serving_alike():
    columns = {name: list(values) for name, values in table().items()}
    cities = ["New York", "new york", " New  York", "Ｎｅｗ York", "Paris", "PARIS", "Oslo"]
    columns["city"] = [cities[i * 7919 % 997 % len(cities)] for i in range(400)]
    columns["y"] = [label.upper() if i % 9 == 0 else label for i, label in enumerate(columns["y"])]
    prepared = prepare_table(TableOptions(targets=["y"], clean={"spelling": "merge"}), data=columns)
    city = prepared.schema.field("city")
    assert {label.casefold() for label in city.labels} == {"new york", "paris", "oslo"}
    assert prepared.schema.field("y").labels == ("p", "q")
    served = [
        prepared.pipeline.transform({**{n: [0.0] for n in "abc"}, "city": [text]}, targets=False) for text in cities
    ]
    codes = [int(batch["inputs"]["categories"][0, 0]) for batch in served]
    assert len(set(codes[:4])) == len(set(codes[4:6])) == 1
    assert len(set(codes)) == 3
    told = {c.column: (c.found, c.cells) for c in prepared.changes if c.policy == "spelling"}
    assert told["y"] == (2, sum(label.isupper() for label in columns["y"]))
    spelt = [text.strip() for text in columns["city"]]
    assert told["city"] == (len(set(spelt)) - 3, sum(text not in city.labels for text in spelt))
    plain = prepare_table(TableOptions(targets=["y"]), data=columns)
    assert len(plain.schema.field("y").labels) == 4
    told = {c.column: c.found for c in plain.changes if c.policy == "spellings"}
    assert told == {"city": len(plain.schema.field("city").labels) - 3, "y": 2}
    assert sum("spelling: merge" in note for note in plain.notes) == 2
    kept = TableOptions(targets={"y": {"spelling": "exact"}}, clean={"spelling": "merge"})
    assert len(prepare_table(kept, data=columns).schema.field("y").labels) == 4
