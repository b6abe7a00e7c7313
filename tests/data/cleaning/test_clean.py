"""Cleaning against plain Python that compares every row with every other, and against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data.cleaning.clean import clean, mend_words, outlying
from reinforge.data.cleaning.options import CleanOptions, NearOptions
from reinforge.data.cleaning.similar import PIECE, alike_texts
from reinforge.data.readers import read
from reinforge.data.values import Nulls
from reinforge.errors import DataError

NULLS = Nulls.of(("", "NA"))
ROW = st.tuples(st.integers(0, 2), st.sampled_from(["a", " a", "b", None]), st.sampled_from(["p", "q"]))


def cleaned(rows, options, bounds=None):
    table = read({"x": [row[0] for row in rows], "c": [row[1] for row in rows], "y": [row[2] for row in rows]})
    return clean(table, ["x", "c"], ["y"], bounds or {}, NULLS, options)


def same(row):
    return (row[0], row[1].strip() if row[1] else row[1])


@given(st.lists(ROW, min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_duplicates_and_conflicts_by_force(rows):
    firsts = [i for i, row in enumerate(rows) if (same(row), row[2]) not in [(same(r), r[2]) for r in rows[:i]]]
    found = cleaned(rows, CleanOptions(duplicates="drop"))
    assert found.rows.tolist() == firsts
    frame = pd.DataFrame([(*same(row), row[2]) for row in rows])
    assert found.rows.tolist() == frame.drop_duplicates().index.tolist()
    answers = {same(row): {r[2] for r in rows if same(r) == same(row)} for row in rows}
    agreed = [i for i, row in enumerate(rows) if len(answers[same(row)]) == 1]
    if agreed:
        assert cleaned(rows, CleanOptions(conflicts="drop")).rows.tolist() == agreed
    said = {}
    kept = [i for i, row in enumerate(rows) if said.setdefault(same(row), row[2]) == row[2]]
    assert cleaned(rows, CleanOptions(conflicts="first")).rows.tolist() == kept
    untouched = cleaned(rows, CleanOptions())
    assert untouched.rows.tolist() == list(range(len(rows)))
    told = {change.policy: change.found for change in untouched.changes}
    assert told.get("duplicates", 0) == len(rows) - len(firsts)
    assert told.get("conflicts", 0) == len(rows) - len(agreed)


@given(st.lists(ROW, min_size=1, max_size=40), st.booleans())
@settings(max_examples=50, deadline=None)
def test_equal_inputs_are_kept_together(rows, wanted):
    found = cleaned(rows, CleanOptions(together=True if wanted else None))
    repeats = len(rows) - len({same(row) for row in rows})
    if not repeats or (not wanted and repeats > len(rows) / 2):
        assert found.together is None
        return
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert (found.together[i] == found.together[j]) == (same(one) == same(other))


def test_numbers_are_the_same_however_they_are_spelt():
    table = read({"x": ["1", "1.0", " 1e0", "NA", "", "-0", "0"]})
    found = clean(table, ["x"], [], {}, NULLS, CleanOptions(duplicates="drop"))
    assert found.rows.tolist() == [0, 3, 5]


def test_every_change_is_counted():
    rows = [
        (1, "a", "p"),
        (1, " a", "p"),
        (1, "a ", "q"),
        (2, None, "p"),
        (99, "b", "q"),
        (-1, "b", "p"),
        (3, "c", "q"),
    ]
    options = CleanOptions(noise="drop", duplicates="drop", conflicts="drop", sparse=0.4)
    found = cleaned(rows, options, {"x": (0.0, 10.0)})
    told = {change.policy: (change.found, change.dropped) for change in found.changes}
    assert told == {"spaces": (2, 0), "noise": (2, 2), "sparse": (1, 1), "duplicates": (1, 1), "conflicts": (2, 2)}
    assert found.rows.tolist() == [6]
    assert all(change.text() for change in found.changes)
    mended = cleaned(rows, CleanOptions(noise="missing"), {"x": (0.0, 10.0)})
    assert mended.table.columns["x"].to_list() == [1, 1, 1, 2, None, None, 3]


def test_words_among_numbers():
    table = read(
        {"x": ["1", "2", "three", "4", "NA", "?"], "code": ["007", "010", "x", "1", "2", "3"], "w": list("abc1de")}
    )
    for noise, rows in (("missing", list(range(6))), ("drop", [0, 1, 3, 4]), ("error", list(range(6)))):
        found = mend_words(table, ["x", "code", "w"], NULLS, CleanOptions(noise=noise))
        assert found.rows.tolist() == rows
        assert found.table.columns["code"].to_list() == [table.columns["code"][row] for row in rows]
        if noise == "missing":
            assert found.table.columns["x"].to_list() == ["1", "2", None, "4", "NA", None]
            assert "'three'" in found.changes[0].text()


def test_what_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="leaves no row"):
        cleaned([(99, "a", "p")], CleanOptions(noise="drop"), {"x": (None, 10.0)})


@given(st.lists(st.one_of(st.none(), st.floats(-100, 100)), min_size=4, max_size=50), st.floats(0.5, 3))
@settings(max_examples=60, deadline=None)
def test_outliers_by_pandas(values, reach):
    series = pd.Series(values, dtype=float)
    low, high = series.quantile(0.25), series.quantile(0.75)
    expected = np.flatnonzero((series < low - reach * (high - low)) | (series > high + reach * (high - low)))
    if not high > low:
        expected = np.empty(0)
    found = outlying(np.array([series, np.zeros(len(series))]).T, reach)
    assert found.tolist() == expected.tolist()


def jaccard(one, other):
    pieces = [{text[i : i + PIECE] for i in range(max(1, len(text) - PIECE + 1))} for text in (one, other)]
    return len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])


def test_nearly_equal_texts_are_found_and_others_are_not():
    import polars as pl

    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghij "), 6)) for _ in range(300)]
    texts = [" ".join(generator.choice(words, 25)) for _ in range(150)]
    for index in range(0, 60):
        changed = texts[index].split()
        changed[int(generator.integers(len(changed)))] = "zz"
        texts.append(" ".join(changed))
    codes = alike_texts(pl.Series(texts), 0.8)
    for i, one in enumerate(texts):
        for j in range(i):
            likeness = jaccard(one, texts[j])
            if likeness >= 0.8:
                assert codes[i] == codes[j], likeness
            elif likeness < 0.5:
                assert codes[i] != codes[j], likeness


def test_nearly_equal_rows():
    texts = [
        "这家酒店的服务非常好，房间也很干净，下次还会再来住。",
        "这家酒店的服务非常好，房间也很干净，下次还会再来住！！",
        "完全不同的一段评论，内容没有任何相似的地方可言。",
    ]
    table = read(
        {
            "x": [1.00001, 1.00002, 1.00001, 1.1],
            "c": ["New York", "new  york", "Ｎｅｗ York", "New York"],
            "t": [texts[0], texts[1], texts[2], texts[0]],
            "y": ["p", "p", "p", "p"],
        }
    )
    options = CleanOptions(near=NearOptions(drop=True))
    found = clean(table, ["x", "c", "t"], ["y"], {}, NULLS, options)
    assert found.rows.tolist() == [0, 2, 3]
    kept = clean(table, ["x", "c", "t"], ["y"], {}, NULLS, CleanOptions(near=NearOptions()))
    assert kept.rows.tolist() == [0, 1, 2, 3]
    assert kept.together[0] == kept.together[1]
    assert len(set(kept.together.tolist())) == 3
