"""Single values and plain columns: one reading of numbers and labels for training and serving, files and JSON alike.

A plain column is a list, a one-dimensional numpy array, or `Encoded`. Nothing here needs a table library, so that one
request costs microseconds; table readers only hand over the same values faster.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reinforge.errors import DataError
from reinforge.messages import _, mark

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]
Read = TypeVar("Read")

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
NOT_A_NUMBER = re.compile(r"[+-]?nan", re.IGNORECASE)


# Where a row stands, by the unit that a person counts in.
_PLACES = {"line": mark("line {n}"), "row": mark("row {n}"), "element": mark("element {n}")}


def placed(unit: str, n: int) -> str:
    """ "line 7", in the language to speak now."""
    return _(_PLACES[unit]).format(n=n) if unit in _PLACES else f"{unit} {n}"


def place_in(where: str, unit: str) -> tuple[int, re.Match[str]] | None:
    """The number that `placed` wrote last into a text, and where; None where it wrote none."""
    pattern = re.escape(_(_PLACES[unit])).replace(re.escape("{n}"), r"(\d+)")
    found = list(re.finditer(pattern, where))
    return (int(found[-1][1]), found[-1]) if found else None


@dataclass(frozen=True)
class Origin:
    """Where rows come from, for error messages: a file's name, and each row's number in the unit that a person
    counts in (`line`, `element`; `row` counts from 0)."""

    name: str = ""
    unit: str = "row"
    places: NDArray[np.int64] | range | None = None

    def at(self, row: int | None = None, column: str | None = None) -> str:
        """ "penguins.csv, line 7, column 'sex'"."""
        place = row if row is None or self.places is None else int(self.places[row])
        parts = [self.name] if self.name else []
        parts += [placed(self.unit, place)] if place is not None else []
        parts += [_("column {name!r}").format(name=column)] if column is not None else []
        return ", ".join(parts) or "data"

    def take(self, rows: Codes) -> Origin:
        """Of those rows, in that order."""
        places = rows if self.places is None else np.asarray(self.places, dtype=np.int64)[rows]
        return Origin(self.name, self.unit, places)


MEMORY = Origin()


@dataclass(frozen=True)
class Encoded:
    """A column with repeated values: row i holds `values[codes[i]]`. `codes`: (n,) int64, or uint32."""

    values: Sequence[Any]
    codes: NDArray[Any]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Codes) -> Encoded:
        """Those rows, in that order."""
        return Encoded(self.values, self.codes[rows])


Column = list[Any] | tuple[Any, ...] | NDArray[Any] | Encoded


@dataclass(frozen=True)
class Nulls:
    """What means "missing": texts, compared after trimming, and the numbers that some of these texts denote."""

    texts: frozenset[str]
    numbers: tuple[float, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Nulls:
        """From a schema's `nulls`."""
        return cls(frozenset(texts), tuple(float(text) for text in texts if NUMBER.fullmatch(text)))


class Unreadable(ValueError):
    """A value that can't be what its field wants; the column's reader adds where it stands."""


def number(value: object, nulls: Nulls) -> float:
    """A finite or infinite double; NaN where the value means "missing". Raises Unreadable.

    Texts are decimal numbers in ASCII digits; true and false are no numbers. Integers beyond 2**53 are rounded.
    """
    if type(value) is float and not nulls.numbers:  # nearly every number that is served
        return value + 0.0
    if isinstance(value, str):
        text = value.strip()
        if text in nulls.texts or NOT_A_NUMBER.fullmatch(text):
            return math.nan
        if not NUMBER.fullmatch(text) and not INFINITE.fullmatch(text):
            raise Unreadable(_("{value} is not a number").format(value=shown(value)))
        result = float(text)
    elif isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
    elif value is None:
        return math.nan
    else:
        raise Unreadable(_("{value} is not a number").format(value=shown(value)))
    return math.nan if result in nulls.numbers else result + 0.0  # -0 is 0, as a JSON integer has no negative zero


def label(value: object, nulls: Nulls) -> str | None:
    """The text of a label, trimmed; None where the value means "missing". Raises Unreadable.

    Numbers read as JSON writes them, true and false in lower case.
    """
    if isinstance(value, str):
        text = value.strip()
    elif value is None:
        return None
    elif isinstance(value, (bool, np.bool_)):
        text = "true" if value else "false"
    elif isinstance(value, (int, np.integer)):
        text = str(int(value))
    elif isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            if math.isnan(value):
                return None
            raise Unreadable(_("{value} is not a label").format(value=shown(value)))
        text = repr(float(value))
    else:
        raise Unreadable(_("{value} is not a label").format(value=shown(value)))
    return None if text in nulls.texts else text


def text(value: object, nulls: Nulls) -> str | None:
    """A free text as it stands; None where the value means "missing". Raises Unreadable."""
    if isinstance(value, str):
        return None if value.strip() in nulls.texts else value
    return label(value, nulls)


def alike(text: str) -> str:
    """One spelling for texts that different writers use for one value: 1.0 and 1, True and true."""
    if NUMBER.fullmatch(text):
        value = float(text)
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return text.lower() if text in ("True", "TRUE", "False", "FALSE") else text


def loosely(text: str) -> str:
    """One spelling for texts that differ only in case, width and white space (Unicode NFKC, casefold)."""
    return alike(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


class Vocabulary:
    """Finds codes by label text: as it is spelled, else by its one other spelling where that is unambiguous; `loose`
    takes texts for one that differ only in case, width and white space."""

    def __init__(self, labels: Sequence[str], first: int = 0, loose: bool = False) -> None:
        self.spelling = loosely if loose else alike
        self.exact = {text: first + index for index, text in enumerate(labels)}
        spellings: dict[str, int | None] = {}
        for text, code in self.exact.items():
            spelling = self.spelling(text)
            spellings[spelling] = None if spelling in spellings else code
        self.other = {spelling: code for spelling, code in spellings.items() if code is not None}

    def find(self, text: str) -> int | None:
        """Its code, or None."""
        code = self.exact.get(text)
        return self.other.get(self.spelling(text)) if code is None else code


def read_numbers(column: Column, name: str, nulls: Nulls, origin: Origin = MEMORY) -> Numbers:
    """A plain column as (n,) float64, NaN where missing. Raises DataError with the row and the value."""
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "fiu":
        values: Numbers = column + 0.0 if column.dtype == np.float64 else column.astype(np.float64)
        for null in nulls.numbers:
            values[values == null] = math.nan
        return values
    read: Numbers = read_values(column, name, lambda value: number(value, nulls), np.float64, origin)
    return read


def read_codes(column: Column, name: str, code: Callable[[object], int], origin: Origin = MEMORY) -> Codes:
    """A plain column as (n,) int64 codes; `code` raises Unreadable. Raises DataError with the row and the value."""
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "iub":
        values, codes = np.unique(column, return_inverse=True)
        column = Encoded(values.tolist(), codes.reshape(-1))
    read: Codes = read_values(column, name, code, np.int64, origin)
    return read


def take(column: Column, rows: Codes) -> Column:
    """Those rows of a plain column, in that order."""
    if isinstance(column, Encoded):
        return column.take(rows)
    if isinstance(column, np.ndarray):
        return column[rows]
    return [column[row] for row in rows]


def read_values(column: Column, name: str, read: Callable[[object], Any], dtype: type[Any], origin: Origin) -> Any:
    """A plain column as (n,) of `dtype`, value by value; `read` raises Unreadable. Raises DataError with the row."""
    if isinstance(column, Encoded):
        distinct: NDArray[Any] = np.array(_read(column, column.values, name, read, origin), dtype)
        return distinct[column.codes]
    return np.array(_read(column, column, name, read, origin), dtype)


def read_list(column: Column, name: str, read: Callable[[object], Read], origin: Origin) -> list[Read]:
    """Like `read_values`, for what is no number."""
    if isinstance(column, Encoded):
        distinct: list[Read] = _read(column, column.values, name, read, origin)
        return [distinct[code] for code in column.codes.tolist()]
    return _read(column, column, name, read, origin)


def _read(column: Column, values: Any, name: str, read: Callable[[object], Any], origin: Origin) -> list[Any]:
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind in "cmMV":
            shape = f"an array of {values.dtype} with {values.ndim} dimensions"
            raise DataError(_("{shape} is not a column of values").format(shape=shape), where=origin.at(column=name))
        values = values.tolist()
    try:
        return [read(value) for value in values]
    except Unreadable:
        raise _first_unreadable(column, values, name, read, origin) from None


def _first_unreadable(
    column: Column, values: Sequence[Any], name: str, read: Callable[[object], Any], origin: Origin
) -> DataError:
    problems: dict[int, str] = {}
    for index, value in enumerate(values):
        try:
            read(value)
        except Unreadable as error:
            problems[index] = str(error)
    row = next(iter(problems)) if problems else 0
    problem = problems.get(row, "")
    if isinstance(column, Encoded):
        bad = np.flatnonzero(np.isin(column.codes, list(problems)))
        if len(bad) == 0:  # a value that no row holds
            return DataError(problem, where=origin.at(column=name))
        row, problem = int(bad[0]), problems[int(column.codes[bad[0]])]
    return DataError(
        problem,
        where=origin.at(row, name),
        remedy=_("Mend the value, or state what it means: `nulls`, or another `kind`, for this field in the recipe."),
    )


def shown(value: object) -> str:
    """A value as an error message can hold it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
