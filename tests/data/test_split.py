import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, TimeSeriesSplit

from reinforge.data.options import FoldSplit, GivenSplit, GroupSplit, RandomSplit, StratifiedSplit, TimeSplit
from reinforge.data.readers import read
from reinforge.data.split import (
    Indices,
    group_folds,
    random_folds,
    split,
    stratified_folds,
    stratified_split,
    time_folds,
    union,
)
from reinforge.errors import DataError


def assert_partition(found: Indices, count: int) -> None:
    assert np.array_equal(np.sort(np.concatenate([found.train, found.validation, found.test])), np.arange(count))


def table(**columns):
    return read(columns or {"x": list(range(100))})


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_folds_are_those_of_scikit_learn(folds, seed):
    classes = np.random.default_rng(seed).choice([3, 1, 0, 2], 97, p=[0.5, 0.3, 0.1, 0.1])
    ours = stratified_folds(classes, folds, seed)
    oracle = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(oracle.split(classes, classes)):
        assert np.array_equal(np.flatnonzero(ours == fold), test)
    ours = random_folds(97, folds, seed)
    for fold, (_, test) in enumerate(KFold(folds, shuffle=True, random_state=seed).split(classes)):
        assert np.array_equal(np.flatnonzero(ours == fold), test)


@given(
    st.lists(st.integers(0, 4), min_size=3, max_size=300),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_stratified_keeps_proportions_to_within_a_row(classes, validation, test, seed):
    classes = np.array(classes)
    found = stratified_split(classes, validation, test, np.random.RandomState(seed))
    count = len(classes)
    assert_partition(found, count)
    assert len(found.test) == round(count * test)
    assert len(found.test) + len(found.validation) == round(count * (test + validation))
    for code, size in zip(*np.unique(classes, return_counts=True)):
        for side in (found.train, found.validation, found.test):
            share = len(side) / count
            assert abs((classes[side] == code).sum() - size * share) < 2
            # one for the borders' rounding to whole rows, one for the class's own


def test_seed_decides_the_draw():
    options = RandomSplit()
    first, again, other = (split(table(), options, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)
    fixed = RandomSplit(seed=5)
    assert np.array_equal(split(table(), fixed, 1).test, split(table(), fixed, 2).test)


def test_stratified_by_a_column():
    data = table(x=list(range(100)), g=["a"] * 90 + ["b"] * 10)
    found = split(data, StratifiedSplit(by="g", validation=0.2, test=0.3), 0)
    assert [int((side >= 90).sum()) for side in (found.train, found.validation, found.test)] == [5, 2, 3]


@given(st.lists(st.integers(0, 9), min_size=30, max_size=200), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_groups_stay_whole(groups, seed):
    groups = np.array(groups)
    options = GroupSplit(column="g", validation=0.2, test=0.3, seed=seed)
    try:
        found = split(table(g=groups.tolist()), options, 0)
    except DataError:
        return  # too few groups for three sides
    assert_partition(found, len(groups))
    sides = [set(groups[side].tolist()) for side in (found.train, found.validation, found.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_groups_fill_their_shares():
    groups = np.repeat(np.arange(200), 5)
    found = split(table(g=groups.tolist()), GroupSplit(column="g", validation=0.2, test=0.3, seed=0), 0)
    assert abs(len(found.test) - 300) <= 5
    assert abs(len(found.validation) - 200) <= 10


@pytest.mark.parametrize(
    "times",
    [
        [7, 3, 3, 9, 1, 3, 8, 2, 5, 5],
        [f"2026-01-{day:02}" for day in (7, 3, 3, 9, 1, 3, 8, 2, 5, 5)],
        [f"2026-01-01T{hour:02}:30:00" for hour in (7, 3, 3, 9, 1, 3, 8, 2, 5, 5)],
        [f"2026-01-01 {hour:02}:30" for hour in (7, 3, 3, 9, 1, 3, 8, 2, 5, 5)],
        ["7", "3", "3.0", "9", "1", "3", "8", "2", "5", "5e0"],
    ],
    ids=["numbers", "dates", "iso", "space", "texts"],
)
def test_time_never_looks_ahead(times):
    found = split(table(t=times), TimeSplit(column="t", validation=0.3, test=0.2), 0)
    assert_partition(found, 10)
    moments = np.array([7, 3, 3, 9, 1, 3, 8, 2, 5, 5])
    assert sorted(moments[found.test]) == [8, 9]
    assert sorted(moments[found.validation]) == [5, 5, 7]
    assert moments[found.train].max() < moments[found.validation].min()


@given(st.lists(st.integers(0, 6), min_size=12, max_size=60), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
@settings(max_examples=60, deadline=None)
def test_equal_times_stay_together(times, validation, test):
    data = table(t=times)
    try:
        found = split(data, TimeSplit(column="t", validation=validation, test=test), 0)
    except DataError:
        return  # too few different times for three sides
    moments = np.array(times)
    assert_partition(found, len(times))
    assert moments[found.train].max() < moments[found.validation].min()
    assert moments[found.validation].max() < moments[found.test].min()


def test_given_column_decides():
    found = split(table(s=["test", " train", "validation", "train"]), GivenSplit(column="s"), 0)
    assert (found.train.tolist(), found.validation.tolist(), found.test.tolist()) == ([1, 3], [2], [0])


@pytest.mark.parametrize("fold", range(4))
def test_fold_is_disjoint_from_the_rest(fold):
    classes = np.arange(40) % 4
    found = split(table(x=list(range(40))), FoldSplit(folds=4, fold=fold, validation=0.2), 3, classes)
    assert_partition(found, 40)
    assert np.array_equal(found.test, np.flatnonzero(stratified_folds(classes, 4, 0) == fold))
    assert len(found.validation) == 6


@pytest.mark.parametrize(
    ("options", "columns", "problem"),
    [
        (GivenSplit(column="s"), {"s": ["train", "dev"]}, "'dev' is none of train"),
        (GivenSplit(column="s"), {"s": ["train", None]}, "None is none of train"),
        (GivenSplit(column="s"), {"s": ["test", "test"]}, "none is left for train"),
        (GroupSplit(column="g"), {"g": ["a", None]}, "None can't say"),
        (GroupSplit(column="g"), {"g": ["a", "a"]}, "none is left for"),
        (TimeSplit(column="t"), {"t": ["2026-01-01", "yesterday"]}, "'yesterday' can't say"),
        (TimeSplit(column="t"), {"t": [1.0, float("nan")]}, "nan can't say"),
        (TimeSplit(column="t"), {"t": [1, 1, 1]}, "none is left for"),
        (RandomSplit(), {"x": [1, 2]}, "none is left for"),
        (FoldSplit(folds=3), {"x": [1, 2]}, "2 rows can't make 3 folds"),
        (FoldSplit(folds=3, fold=0, group="g"), {"g": [1, 1, 2, 2]}, "2 groups can't make 3 folds"),
        (FoldSplit(folds=3, fold=0, time="t"), {"t": [1, 1, 1, 2, 2]}, "2 different times can't make 3 folds"),
        (StratifiedSplit(by="q"), {"x": [1, 2]}, "column 'q' is missing"),
    ],
)
def test_what_can_not_be_split(options, columns, problem):
    with pytest.raises(DataError, match=problem):
        split(table(**columns), options, 0)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=60))
def test_union_joins_what_is_linked(pairs):
    left, right = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    found = union(left, right)
    # By force: rows reachable from one another over equal codes.
    for row in range(len(pairs)):
        reached, border = {row}, [row]
        while border:
            at = border.pop()
            linked = np.flatnonzero((left == left[at]) | (right == right[at])).tolist()
            border += [other for other in linked if other not in reached]
            reached |= set(linked)
        assert set(np.flatnonzero(found == found[row]).tolist()) == reached


COPIES = st.lists(st.integers(0, 40), min_size=60, max_size=150)


@pytest.mark.parametrize(
    "options",
    [
        RandomSplit(),
        StratifiedSplit(by="c"),
        GroupSplit(column="g"),
        TimeSplit(column="t"),
        GivenSplit(column="s"),
        FoldSplit(fold=1),
        FoldSplit(fold=2, stratified=False),
        FoldSplit(fold=0, group="g", folds=3),
        FoldSplit(fold=1, time="t", folds=3),
    ],
)
@given(copies=COPIES, seed=st.integers(0, 99))
@example(copies=[i * 7919 % 41 for i in range(120)], seed=1)
@settings(max_examples=12, deadline=None)
def test_copies_never_straddle_a_split(options, copies, seed):
    copies = np.array(copies)
    generator = np.random.default_rng(seed)
    count = len(copies)
    data = table(
        c=generator.integers(0, 3, count),
        g=generator.integers(0, 20, count) * 100 + copies // 8,
        t=generator.permutation(count),
        s=generator.choice(["train", "validation", "test"], count, p=[0.6, 0.2, 0.2]).tolist(),
    )
    classes = generator.integers(0, 2, count)
    try:
        found = split(data, options, seed, classes, copies)
    except DataError:
        return  # a side had nothing but copies
    sides = [found.train, found.validation, found.test]
    again = split(data, options, seed, classes, copies)
    assert all(map(np.array_equal, sides, (again.train, again.validation, again.test)))
    rows = np.concatenate(sides)
    assert len(set(rows.tolist())) == len(rows)
    held = [set(copies[side].tolist()) for side in sides]
    assert not (held[0] & held[1])
    assert not (held[0] & held[2])
    assert not (held[1] & held[2])
    if isinstance(options, RandomSplit | StratifiedSplit):
        assert len(rows) == count
        largest = np.bincount(copies).max()
        assert abs(len(found.test) - 0.15 * count) <= largest / 2 + 1


def test_where_a_column_decides_the_later_side_keeps_its_copies():
    data = table(s=["train", "train", "validation", "test", "train"])
    found = split(data, GivenSplit(column="s"), 0, None, np.array([0, 1, 1, 0, 2]))
    assert (found.train.tolist(), found.validation.tolist(), found.test.tolist()) == ([4], [2], [3])


@given(st.lists(st.integers(0, 30), min_size=40, max_size=200), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_group_folds_are_as_large_as_scikit_learns(groups, folds):
    groups = np.array(groups)
    if len(set(groups.tolist())) < folds:
        return
    ours = group_folds(groups, folds)
    theirs = [len(test) for _, test in GroupKFold(folds).split(groups, groups=groups)]
    assert sorted(np.bincount(ours, minlength=folds).tolist()) == sorted(theirs)
    assert all(len(set(ours[groups == group].tolist())) == 1 for group in groups)


@pytest.mark.parametrize(("count", "folds"), [(23, 3), (100, 5), (6, 5)])
def test_time_folds_are_those_of_scikit_learn(count, folds):
    times = np.random.default_rng(0).permutation(count).astype(float)
    order = np.argsort(times)
    ours = time_folds(times, folds)
    for fold, (train, test) in enumerate(TimeSeriesSplit(folds).split(order)):
        assert set(np.flatnonzero(ours == fold)) == set(order[test])
        found = split(table(t=times), FoldSplit(folds=folds, fold=fold, time="t", validation=0.0), 0)
        assert set(found.train) == set(order[train])
        assert set(found.test) == set(order[test])


@given(st.lists(st.integers(0, 9), min_size=20, max_size=80), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_time_folds_never_look_ahead(times, folds):
    data, moments = table(t=times), np.array(times)
    for fold in range(folds):
        try:
            found = split(data, FoldSplit(folds=folds, fold=fold, time="t", validation=0.2), 0)
        except DataError:
            continue  # too few different times
        assert moments[found.train].max() < moments[found.validation].min()
        assert max(moments[found.train].max(), moments[found.validation].max()) < moments[found.test].min()
