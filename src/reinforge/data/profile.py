"""What is in a table's columns, in numbers that a page can draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reinforge.data.cleaning.leaks import Alone, alone, days
from reinforge.data.operations import labels
from reinforge.data.table import Table
from reinforge.data.values import Codes, Column, Encoded, Nulls, Numbers, label, read_codes, read_numbers
from reinforge.schema.fields import Category, Date, Field, Image, Labels, Number, Text, sources
from reinforge.schema.schema import Schema

BINS = 24
TOP = 10
MOST_CLASSES = 6
# Of so many columns, those that tell most about the target, every pair is looked at, and so many are shown.
COMPARED, MOST_CORRELATED = 200, 16
# Positive numbers whose largest is so many medians are shown by their logarithm.
LONG_TAILED = 20


@dataclass(frozen=True)
class Histogram:
    """Counts between edges (bins + 1), by class where there are few ("" for all rows); `unit` is what the edges count.
    `logarithmic`: bins are equally wide in the logarithm."""

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    unit: str = ""
    logarithmic: bool = False


@dataclass(frozen=True)
class ColumnProfile:
    """One column: how many values are missing and different, and where they lie. `facts`: minimum, quartiles, mean and
    the like, by name; `top`: the most frequent labels with their counts by class; `others`: values beyond these."""

    name: str
    role: str
    kind: str
    missing: int
    distinct: int
    facts: Mapping[str, float]
    histogram: Histogram | None = None
    top: Sequence[tuple[str, Mapping[str, int]]] = ()
    others: int = 0


@dataclass(frozen=True)
class Profile:
    """A table's columns; `correlations` (k, k) of the numeric ones in `correlated` (Pearson, where both are there);
    `alone`: how well each column predicts each target by itself."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    classes: tuple[str, ...]
    correlated: tuple[str, ...]
    correlations: tuple[tuple[float, ...], ...]
    alone: tuple[Alone, ...]


def profile(table: Table, schema: Schema) -> Profile:
    """Look at every column of the schema that the table has, by the classes of the first target that has few."""
    columns = table.plain(schema)
    nulls = Nulls.of(schema.nulls)
    names, codes = _classes(columns, schema, nulls)
    found, numbers = [], {}
    for f in schema.fields:
        if not all(name in columns for name in sources(f)) or (len(sources(f)) > 1 and not isinstance(f, Labels)):
            continue
        column = columns[sources(f)[0]]
        if isinstance(f, Labels):
            found.append(_sets(f, columns, nulls, names, codes))
        elif isinstance(f, Image):
            missing = sum(value is None for value in column) if isinstance(column, list) else 0
            found.append(ColumnProfile(f.name, f.role, f.kind, missing, len(column) - missing, {}))
        elif isinstance(f, Number):
            numbers[f.name] = read_numbers(column, f.name, nulls)
            found.append(_numeric(f, numbers[f.name], names, codes))
        elif isinstance(f, Date):
            found.append(_numeric(f, days(column, f, nulls), names, codes, unit="date"))
        else:
            found.append(_labelled(f, column, nulls, names, codes))
    scores = alone(columns, schema)
    best = list(dict.fromkeys(each.column for each in scores))
    ordered = sorted(numbers, key=lambda name: best.index(name) if name in best[:COMPARED] else len(best))
    chosen = set(ordered[:COMPARED])
    correlated, matrix = _correlations({name: values for name, values in numbers.items() if name in chosen})
    return Profile(len(table), tuple(found), names, correlated, matrix, scores)


def _classes(columns: Mapping[str, Column], schema: Schema, nulls: Nulls) -> tuple[tuple[str, ...], Codes | None]:
    for f in schema.targets:
        if isinstance(f, Category) and f.name in columns and 1 < len(f.labels) <= MOST_CLASSES:
            return f.labels, read_codes(columns[f.name], f.name, labels.coder(f, nulls))
    return (), None


def _numeric(f: Field, values: Numbers, names: Sequence[str], codes: Codes | None, unit: str = "") -> ColumnProfile:
    there = values[np.isfinite(values)]
    facts: dict[str, float] = {}
    histogram = None
    if len(there):
        quartiles = np.quantile(there, (0, 0.25, 0.5, 0.75, 1)).tolist()
        facts = dict(zip(("minimum", "first quartile", "median", "third quartile", "maximum"), quartiles))
        facts |= {"mean": float(there.mean()), "deviation": float(there.std())}
        histogram = _histogram(values, names, codes, unit)
    distinct = len(np.unique(there))
    return ColumnProfile(f.name, f.role, f.kind, len(values) - len(there), distinct, facts, histogram)


def _histogram(values: Numbers, names: Sequence[str], codes: Codes | None, unit: str) -> Histogram:
    there = values[np.isfinite(values)]
    distinct = np.unique(there)
    logarithmic = unit != "date" and bool(there.min() > 0 and there.max() > LONG_TAILED * np.median(there))
    if len(distinct) <= BINS and bool((distinct == np.round(distinct)).all()) and np.ptp(distinct) < BINS:
        logarithmic = False
        edges = np.arange(distinct[0] - 0.5, distinct[-1] + 1)
    elif logarithmic:
        edges = np.geomspace(there.min(), there.max(), BINS + 1)
        edges[0], edges[-1] = there.min(), there.max()
    else:
        edges = np.histogram_bin_edges(there, BINS)
    if codes is None:
        return Histogram(tuple(edges.tolist()), {"": tuple(np.histogram(there, edges)[0].tolist())}, unit, logarithmic)
    counts = {
        name: tuple(np.histogram(values[(codes == code) & np.isfinite(values)], edges)[0].tolist())
        for code, name in enumerate(names)
    }
    return Histogram(tuple(edges.tolist()), counts, unit, logarithmic)


def _labelled(f: Field, column: Column, nulls: Nulls, names: Sequence[str], codes: Codes | None) -> ColumnProfile:
    values, places = _spelt(column, nulls)
    missing = int(sum(count for value, count in Counter(places.tolist()).items() if values[value] is None))
    if isinstance(f, Text):
        lengths = np.array([np.nan if value is None else len(value) for value in values])[places]
        there = lengths[np.isfinite(lengths)]
        facts = {"median": float(np.median(there)), "maximum": float(there.max())} if len(there) else {}
        histogram = _histogram(lengths, names, codes, "characters") if len(there) else None
        distinct = len({value for value in values if value is not None})
        return ColumnProfile(f.name, f.role, f.kind, missing, distinct, facts, histogram)
    counts: Counter[str] = Counter()
    by_class: dict[tuple[str, str], int] = {}
    rows = np.zeros(len(places), np.int64) if codes is None else codes
    pairs, sizes = np.unique(np.stack([places, rows]), axis=1, return_counts=True)
    for (place, code), size in zip(pairs.T.tolist(), sizes.tolist()):
        text = values[place]
        if text is not None:
            counts[text] += size
            key = (text, names[code] if codes is not None and code >= 0 else "")
            by_class[key] = by_class.get(key, 0) + size
    keys = names if codes is not None else ("",)
    top = tuple(
        (text, {name: by_class.get((text, name), 0) for name in keys})
        for text, _count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    )
    others = counts.total() - sum(counts[text] for text, _by in top)
    return ColumnProfile(f.name, f.role, f.kind, missing, len(counts), {}, None, top, others)


def _sets(
    f: Labels, columns: Mapping[str, Column], nulls: Nulls, names: Sequence[str], codes: Codes | None
) -> ColumnProfile:
    """How many rows hold each label; a row may count several times."""
    if f.columns:
        read = (read_codes(columns[name], name, lambda value: labels.flag(value, nulls)) for name in f.columns)
        holds, missing = np.stack([flags > 0 for flags in read], 1), 0
    else:
        column = columns[f.name]
        values = column.values if isinstance(column, Encoded) else column
        sets = [labels.label_set(value, nulls, f.separator) for value in values]
        places = column.codes if isinstance(column, Encoded) else np.arange(len(sets))
        table = np.array([[label in (held or ()) for label in f.labels] for held in sets]).reshape(-1, len(f.labels))
        missing = int(np.array([held is None for held in sets])[places].sum())
        holds = table[places]
    classes = {"": np.ones(len(holds), bool)} if codes is None else {n: codes == c for c, n in enumerate(names)}
    counts = {label: {name: int(holds[here, place].sum()) for name, here in classes.items()}
              for place, label in enumerate(f.labels)}  # fmt: skip
    totals = {label: sum(by.values()) for label, by in counts.items()}
    top = sorted(f.labels, key=lambda label: -totals[label])
    return ColumnProfile(
        f.name, f.role, f.kind, missing, len(f.labels), {}, None,
        tuple((label, counts[label]) for label in top[:TOP]), sum(totals[label] for label in top[TOP:]),
    )  # fmt: skip


def _spelt(column: Column, nulls: Nulls) -> tuple[list[str | None], Codes]:
    """Distinct values as texts, None where missing; and each row's."""
    if isinstance(column, Encoded):
        return [_text(value, nulls) for value in column.values], column.codes.astype(np.int64)
    texts = [_text(value, nulls) for value in column]
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(distinct), np.array([distinct[text] for text in texts], dtype=np.int64)


def _text(value: object, nulls: Nulls) -> str | None:
    if isinstance(value, str) or value is None or isinstance(value, int | float | np.generic):
        return label(value, nulls)
    return type(value).__name__


def _correlations(numbers: Mapping[str, Numbers]) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Of at most so many columns, those that correlate most with any other."""
    names = [
        name
        for name, values in numbers.items()
        if np.nanmax(values, initial=-np.inf) > np.nanmin(values, initial=np.inf)
    ]
    if len(names) < 2:
        return (), ()
    whole = np.array([numbers[name] for name in names])
    there = np.isfinite(whole)
    filled = np.where(there, whole - np.nanmean(whole, axis=1, keepdims=True), 0.0)
    scale = np.abs(filled).max(1, keepdims=True)
    filled /= np.where(scale > 0, scale, 1.0)
    both = there.astype(np.float64)
    # Sums over the rows where both are there.
    n = both @ both.T
    sums, squares = filled @ both.T, (filled**2) @ both.T
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = filled @ filled.T / n - sums * sums.T / n**2
        variance = squares / n - (sums / n) ** 2
        matrix = covariance / np.sqrt(variance * variance.T)
    matrix = np.clip(np.nan_to_num(matrix), -1, 1)
    strength = np.abs(matrix - np.diag(np.diag(matrix))).max(1)
    chosen = np.sort(np.argsort(-strength, kind="stable")[:MOST_CORRELATED])
    return tuple(names[i] for i in chosen), tuple(map(tuple, matrix[np.ix_(chosen, chosen)].tolist()))
