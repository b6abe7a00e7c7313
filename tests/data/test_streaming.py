"""A table in pieces gives what it gives whole: the same pipeline, split and tensors, bit for bit where it is small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reinforge.core.ragged import Ragged
from reinforge.data import chunks, streaming
from reinforge.data.blocks import fit_steps
from reinforge.data.fitting import Moments, refined
from reinforge.data.operations.numbers import asked
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.readers import read
from reinforge.data.store.folder import flat
from reinforge.data.streaming import stream
from reinforge.errors import DataError, RecipeError
from reinforge.schema.fields import Number


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_SAMPLE", 512)


def write(path: Path, count: int = 400) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=count)
    lines = ["id,x,z,city,words,when,group,price,y"]
    for i in range(count):
        words = '"' + " ".join(generator.choice(["good", "bad,", "fine"], 5)) + f' {i}"'
        city = generator.choice(["Rome", " rome", "Oslo", "NA", f"rare{i}"], p=[0.4, 0.2, 0.2, 0.1, 0.1])
        z = "" if i % 7 == 0 else f"{generator.normal():.4f}"
        y = generator.choice(["p", "P", "q"], p=[0.4, 0.1, 0.5]) if i % 31 else ""
        price = "?" if i % 97 == 5 else f"{np.exp(generator.normal() * 2):.3f}"
        lines.append(f"{i},{x[i]:.5f},{z},{city},{words},2026-0{1 + i % 9}-11,g{i % 37},{price},{y}")
    lines += lines[20:30]
    # The same inputs with the other answer.
    lines += [line[:-1] + ("q" if line.endswith("p") else "p") for line in lines[40:60:3] if line[-1] in "pq"]
    path.write_text("\n".join(lines) + "\n")


def same(one, other, exact=True):
    assert one.schema == other.schema
    assert one.pipeline.to_json() == other.pipeline.to_json()
    for name, array in one.pipeline.arrays().items():
        if exact:
            assert np.array_equal(array, other.pipeline.arrays()[name], equal_nan=True)
        else:
            np.testing.assert_allclose(array, other.pipeline.arrays()[name], rtol=1e-12)
    for side in ("train", "validation", "test"):
        assert np.array_equal(getattr(one.rows, side), getattr(other.rows, side))
        left, right = dict(flat(getattr(one, side) or {})), dict(flat(getattr(other, side) or {}))
        assert left.keys() == right.keys()
        for name, leaf in left.items():
            pairs = [(leaf, right[name])]
            if isinstance(leaf, Ragged):
                pairs = [(leaf.values, right[name].values), (leaf.offsets, right[name].offsets)]
            for a, b in pairs:
                assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    assert one.digest == other.digest


WORDS = {"kind": "text"}
BASE = {
    "targets": ["y"], "drop": ["id", "group"], "clean": {"noise": "missing"},
    "fields": {"words": {"kind": "text"}, "city": {"rare": 2}},
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"split": {"kind": "random", "test": 0.3}},
        {"split": {"kind": "group", "column": "group"}, "drop": ["id"]},
        {"split": {"kind": "time", "column": "when"}, "fields": {"words": {"kind": "text"}}},
        {"split": {"kind": "folds", "fold": 2}},
        {"clean": {"noise": "drop", "duplicates": "drop", "spelling": "merge", "sparse": 0.3}},
        {"clean": {"noise": "missing", "together": False}},
        {"clean": {"noise": "missing", "conflicts": "drop"}},
        {"clean": {"noise": "missing", "conflicts": "first", "duplicates": "drop", "together": False}},
        {"targets": {"y": {}, "z": {"missing": "mask"}}},
        {"fields": {"price": {"transform": "log", "outliers": "clip"}, "x": {"scale": "range"}, "words": WORDS}},
    ],
)
def test_a_small_table_is_the_same_in_pieces(changed: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    options = TableOptions.model_validate({**BASE, **changed, "path": "t.csv"})
    whole = prepare_table(options, seed=5, base=tmp_path)
    found = stream(options.model_copy(update={"stream": 40}), tmp_path / "out", seed=5, base=tmp_path)
    same(whole, found)
    # Which spellings were merged is told of a whole table alone.
    told = [(change.policy, change.found, change.dropped) for change in whole.changes if change.policy != "spelling"]
    assert told == [(change.policy, change.found, change.dropped) for change in found.changes]
    again = prepare_table(TableOptions(path="out", targets=list(options.targets)), base=tmp_path)
    same(whole, again)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.arrow"])
def test_other_forms(name: str, tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    import polars as pl

    frame = pl.DataFrame(read(tmp_path / "t.csv").columns)
    {"t.parquet": frame.write_parquet, "t.jsonl": frame.write_ndjson, "t.arrow": frame.write_ipc}[name](tmp_path / name)
    options = TableOptions.model_validate({**BASE, "path": name})
    whole = prepare_table(options, base=tmp_path)
    same(whole, stream(options.model_copy(update={"stream": 50}), tmp_path / "out", base=tmp_path))


def test_beyond_the_sample_means_are_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FITTED", 100)
    write(tmp_path / "t.csv", 900)
    fields = {"price": {"transform": "log", "indicator": True}, "x": {"scale": "range"}, "city": {"rare": 2}}
    said = {**BASE, "drop": ["id", "group", "words"], "fields": fields, "targets": ["y", "z"], "path": "t.csv"}
    options = TableOptions.model_validate(said)
    whole = prepare_table(options, seed=1, base=tmp_path)
    found = stream(options.model_copy(update={"stream": 64}), tmp_path / "out", seed=1, base=tmp_path)
    same(whole, found, exact=False)


@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-1e6, 1e6) | st.just(np.nan)
    ),
    st.lists(st.integers(0, 60), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_moments_by_numpy(block, cuts):
    found = Moments(3)
    for part in np.split(block, sorted(min(cut, len(block)) for cut in cuts)):
        found.add(part)
    for column in range(3):
        there = block[:, column][~np.isnan(block[:, column])]
        assert found.count[column] == len(there)
        if len(there):
            assert found.mean[column] == pytest.approx(there.mean(), rel=1e-9, abs=1e-6)
            assert found.deviation[column] == pytest.approx(there.std(), rel=1e-6, abs=1e-3)
            assert (found.least[column], found.most[column]) == (there.min(), there.max())


@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(4, 60), st.just(4)), elements=st.floats(-1e3, 1e3) | st.just(np.nan)
    ),
    st.integers(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_refined_steps_are_those_of_all_rows(block, size):
    block[0] = 1.0
    fields = (
        Number(name="a"), Number(name="b", transform="log", indicator=True), Number(name="c", scale="range"),
        Number(name="d", missing="constant", constant=7.0),
    )  # fmt: skip
    exact = fit_steps(asked(fields), block, fields)
    begun = fit_steps(asked(fields), block[:1], fields)
    found = refined(begun, fields, np.split(block, range(size, len(block), size)))
    for step, expected in zip(found, exact, strict=True):
        for name, array in step.arrays().items():
            np.testing.assert_allclose(array, expected.arrays()[name], rtol=1e-6, atol=1e-6)


def test_what_needs_the_whole_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    for clean in ({"near": {}}, {"outliers": 3}):
        options = TableOptions.model_validate({"targets": ["y"], "path": "t.csv", "stream": 50, "clean": clean})
        with pytest.raises(RecipeError, match="whole table"):
            stream(options, tmp_path / "out", base=tmp_path)
    options = TableOptions(targets=["y"], path="t.csv", stream=50)
    with pytest.raises(RecipeError, match="prepared before"):
        prepare_table(options, base=tmp_path)


def test_a_bad_row_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    fields = {**BASE["fields"], "price": {"kind": "number"}}
    said = {**BASE, "clean": {}, "path": "t.csv", "stream": 50, "fields": fields}
    options = TableOptions.model_validate(said)
    with pytest.raises(DataError, match=r"'\?' is not a number") as caught:
        stream(options, tmp_path / "out", base=tmp_path)
    assert caught.value.where == "t.csv, line 7, column 'price'"
    assert not (tmp_path / "out").exists()
