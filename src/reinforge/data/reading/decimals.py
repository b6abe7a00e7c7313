"""Decimal commas: "3,14" in delimited text that another sign separates, as spreadsheets of many countries write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from reinforge.messages import _

Decimal = Literal[".", ","]

_NUMBER = re.compile(r"\s*[+-]?(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?\s*")
_WITH_COMMA = r"^\s*([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)\s*$"
# 1,234 may be a thousand or a bit more than one.
_DOUBTFUL = re.compile(r"\s*[+-]?\d{1,3},\d{3}\s*")


def comma_columns(head: str, header: Sequence[str], delimiter: str, decimal: Decimal | None) -> tuple[str, ...]:
    """The columns whose numbers have a decimal comma, told from the first records of a file.

    In such a column every value with a digit is a number without a point, and some have a comma. Unless `decimal` says
    that it is a comma, one of them must be nothing else: 3,14 is, 1,234 isn't.
    """
    if decimal == "." or (decimal is None and delimiter == ","):
        return ()
    try:
        records = [record for record in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter) if record][1:]
    except csv.Error:
        return ()
    found = []
    for place, name in enumerate(header):
        values = [record[place] for record in records if len(record) == len(header)]
        digits = [value for value in values if re.search(r"\d", value)]
        commas = [value for value in digits if "," in value]
        certain = decimal == "," or any(not _DOUBTFUL.fullmatch(value) for value in commas)
        if commas and certain and all(_NUMBER.fullmatch(value) for value in digits):
            found.append(name)
    return tuple(found)


def with_points(columns: Mapping[str, pl.Series], chosen: Sequence[str]) -> dict[str, pl.Series]:
    """The columns, those that are chosen with a point where their numbers had a comma."""
    return {
        name: series.str.replace(_WITH_COMMA, "${1}.${2}") if name in chosen else series
        for name, series in columns.items()
    }


def note(name: str, columns: Sequence[str]) -> str:
    """What is said of a file whose decimal commas were recognised."""
    told = _("{name}: numbers of {columns} are read with a decimal comma; `decimal` overrules it")
    return told.format(name=name, columns=", ".join(columns))
