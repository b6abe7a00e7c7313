"""Dates and times: read as microseconds since 1970, and turned into numbers."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reinforge.data.values import (
    NUMBER,
    Column,
    Encoded,
    Nulls,
    Numbers,
    Origin,
    Unreadable,
    number,
    read_values,
    shown,
)
from reinforge.messages import _
from reinforge.schema import date_format

if TYPE_CHECKING:
    from reinforge.schema.fields import Date

VERSION = 1
MISSING = int(np.iinfo(np.int64).min)  # also numpy's own "not a time"
DAY = 86_400_000_000
MICROSECONDS = {"d": DAY, "s": 1_000_000, "ms": 1_000, "us": 1}
PERIODS = {"month": 12, "day": 31, "weekday": 7, "yearday": 366, "hour": 24, "minute": 60, "second": 60}

_EPOCH = datetime.datetime(1970, 1, 1)
_FIRST = -62_135_596_800_000_000  # the years 1 to 9999
_LAST = 253_402_300_799_999_999
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?\s?(?:(Z)|([+-])(\d\d):?(\d\d)?)?)?",
    re.ASCII,
)


def moment(value: object, nulls: Nulls, unit: str = "s", form: str | None = None) -> int:
    """Microseconds since 1970-01-01 in UTC, or `MISSING`. Raises Unreadable.

    Texts are ISO 8601 in its usual form, or of the format `form`; what is finer than a microsecond is cut off. Numbers
    count `unit`s; with a `form`, whole ones are texts of it.
    """
    if form is not None:
        value = _spelt(value)
        if isinstance(value, str) and (text := value.strip()) not in nulls.texts:
            return _formed(text, form)
    if isinstance(value, str):
        text = value.strip()
        if text in nulls.texts:
            return MISSING
        if not NUMBER.fullmatch(text):
            return _parsed(text)
    if isinstance(value, np.datetime64):
        value = None if np.isnat(value) else value.astype("datetime64[us]").item()
    if isinstance(value, datetime.date):
        return _since(value if isinstance(value, datetime.datetime) else datetime.datetime(*value.timetuple()[:3]))
    count = number(value, nulls)
    if math.isnan(count):
        return MISSING
    total = count * MICROSECONDS[unit]
    if not _FIRST <= total <= _LAST:
        raise Unreadable(_("{value} is no date from year 1 to 9999").format(value=shown(value)))
    return round(total)


def read_moments(column: Column, field: Date, nulls: Nulls, origin: Origin) -> NDArray[np.int64]:
    """(n,) microseconds since 1970, `MISSING` where missing. Raises DataError with the row and the value."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        return column.astype("datetime64[us]").astype(np.int64)
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "fiu":
        values, codes = np.unique(column, return_inverse=True)
        column = Encoded(values.tolist(), codes.reshape(-1))

    def read(value: object) -> int:
        return moment(value, nulls, field.unit, field.format)

    found: NDArray[np.int64] = read_values(column, field.name, read, np.int64, origin)
    return found


def numbers(moments: NDArray[np.int64], field: Date) -> list[Numbers]:
    """What the moments (n,) become, in the order of `field.numbers`; NaN where missing."""
    missing = moments == MISSING
    there = np.where(missing, 0, moments)
    found: list[Numbers] = []
    days = there // DAY
    for part in field.parts:
        if part == "elapsed":
            found.append(np.true_divide(there, DAY, dtype=np.float64))
        elif part == "year":
            years = days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64)
            found.append((years + 1970).astype(np.float64))
        else:
            place, sines, cosines = _place(part, there, days), *_circle(PERIODS[part])
            found += [sines[place], cosines[place]]
    if missing.any():
        for values in found:
            values[missing] = math.nan
    return found


def _place(part: str, moments: NDArray[np.int64], days: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) places in the cycle, from 0; Monday is the first day of a week."""
    second = (moments - days * DAY) // 1_000_000
    match part:
        case "hour":
            return second // 3600
        case "minute":
            return second // 60 % 60
        case "second":
            return second % 60
        case "weekday":
            return (days + 3) % 7
    dates = days.astype("datetime64[D]")
    if part == "month":
        return dates.astype("datetime64[M]").astype(np.int64) % 12
    start = dates.astype("datetime64[M]" if part == "day" else "datetime64[Y]").astype("datetime64[D]")
    place: NDArray[np.int64] = (dates - start).astype(np.int64)
    return place


@cache
def _circle(period: int) -> tuple[Numbers, Numbers]:
    """Sines and cosines of the places of a cycle. From a table, a row alone gives the bits that it gives in a batch."""
    angles = [2 * math.pi * place / period for place in range(period)]
    return np.array([math.sin(angle) for angle in angles]), np.array([math.cos(angle) for angle in angles])


def _parsed(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise Unreadable(_("{text} is no date as 2026-11-23 or 2026-11-23T20:00:00").format(text=shown(text)))
    year, month, day, hour, minute, second, fraction, _utc, sign, hours, minutes = match.groups()
    away = 0
    if sign:
        if int(hours) > 23 or int(minutes or 0) > 59:
            raise Unreadable(_("{text} has no such time zone").format(text=shown(text)))
        away = (int(hours) * 60 + int(minutes or 0)) * (-1 if sign == "-" else 1)
    micro = int((fraction or "0")[:6].ljust(6, "0"))
    parts = (int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), micro)
    return _total(text, parts, away)


def _formed(text: str, form: str) -> int:
    match = date_format.pattern(form).fullmatch(text)
    if match is None:
        if _ISO.fullmatch(text):
            return _parsed(text)
        raise Unreadable(_("{text} is no date of the format {form}").format(text=shown(text), form=form))
    try:
        *parts, away = date_format.fields_of(match)
    except ValueError as error:
        raise Unreadable(_("{text} is no date: {error}").format(text=shown(text), error=error)) from None
    return _total(text, parts, away)


def _spelt(value: object) -> object:
    """Whole numbers as texts; anything else as it is."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else value


def _total(text: str, parts: Sequence[int], away: int) -> int:
    """Microseconds since 1970 of year, month, day, hour, minute, second and microsecond, `away` minutes east of UTC."""
    try:
        year, month, day, hour, minute, second, micro = parts
        found = datetime.datetime(year, month, day, hour, minute, second, micro)
    except ValueError as error:
        raise Unreadable(_("{text} is no date: {error}").format(text=shown(text), error=error)) from None
    total = (found - _EPOCH) // datetime.timedelta(microseconds=1) - away * 60_000_000
    if not _FIRST <= total <= _LAST:
        raise Unreadable(_("{text} is no date from year 1 to 9999").format(text=shown(text)))
    return total


def _since(value: datetime.datetime) -> int:
    naive = value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
    return (naive - _EPOCH) // datetime.timedelta(microseconds=1)
