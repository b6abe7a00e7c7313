"""Fields told from the data: what a column seems to hold, overruled by what the recipe says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from reinforge.data.options import FieldOptions, TableOptions
from reinforge.data.table import Table, as_float
from reinforge.data.values import Nulls
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.schema.fields import Category, Field, Number, Role
from reinforge.schema.schema import Schema

IDENTIFIER = re.compile(
    r"(?:.*[_\s-])?(?:id|uuid|guid|key)|(?:row|record)[_\s-]?(?:id|number|no|nr)|index", re.IGNORECASE
)
FEW = 20  # whole numbers of a target with at most so many distinct values are classes
LEAST = 20  # fewer rows say nothing about whether a column identifies them
LEADING_ZERO = r"^\s*[+-]?0[0-9]"

_FIELD: TypeAdapter[Field] = TypeAdapter(Field)


@dataclass(frozen=True)
class Guess:
    """What a column seems to be: a number, a category, or something to leave out and why."""

    kind: str
    why: str = ""


def infer(table: Table, options: TableOptions, helpers: tuple[str, ...] = ()) -> tuple[Schema, tuple[str, ...]]:
    """The schema of a table, and notes on every column left out or open to doubt.

    `helpers` are columns that only serve the split. Inputs come in the table's order, then the targets in the recipe's.
    Labels stay open until fitted. Raises DataError and RecipeError.
    """
    known = [*options.targets, *(options.inputs or ()), *options.drop, *options.fields, *helpers]
    for name in known:
        if name not in table.columns:
            raise RecipeError(
                _("the data have no column {name!r}").format(name=name),
                where=f"data ({table.origin.at()})",
                remedy=_("Columns: {names}.").format(names=", ".join(table.columns)),
            )
    nulls = Nulls.of(options.nulls)
    notes: list[str] = []
    fields: list[Field] = []
    left_out = {*options.targets, *options.drop, *helpers}
    for name in options.inputs or [name for name in table.columns if name not in left_out]:
        overrule = options.fields.get(name, FieldOptions())
        guess = _guess(table, name, nulls) if overrule.kind is None else Guess(overrule.kind)
        if guess.kind == "nothing" and (options.inputs is not None or name in options.fields):
            guess = Guess("number" if _look(table.columns[name], nulls)[1] else "category")
        if guess.kind == "nothing":
            notes.append(f"{name!r} is left out: {guess.why}")
            continue
        fields.append(_field(name, "input", guess.kind, overrule, f"data.fields.{name}"))
    if not fields:
        raise DataError("no column is left to predict from", where=table.origin.at(), remedy="; ".join(notes) or None)
    for name, overrule in options.targets.items():
        kind = overrule.kind or _target(table, name, nulls, notes)
        fields.append(_field(name, "target", kind, overrule, f"data.targets.{name}"))
    return Schema(fields=tuple(fields), nulls=options.nulls, absent=options.absent), tuple(notes)


def _guess(table: Table, name: str, nulls: Nulls) -> Guess:
    series = table.columns[name]
    if series.dtype.is_temporal():
        return Guess("nothing", "dates and times are no inputs yet")
    if series.dtype.is_nested() or series.dtype == pl.Object:
        return Guess("nothing", "it holds nested values")
    there, numeric = _look(series, nulls)
    if len(there) == 0:
        return Guess("nothing", "all values are missing")
    if len(there) == len(series) and bool((there == there[0]).all()):
        return Guess("nothing", "it has the same value in every row")
    if numeric:
        if len(there) == len(series) and _identifies(name, there):
            return Guess("nothing", "it numbers the rows")
        return Guess("number")
    distinct = there.n_unique()
    if series.dtype == pl.String:
        _refuse_mixture(table, name, there, f"data.fields.{name}")
        if distinct == len(series) >= LEAST:
            return Guess("nothing", "its text is different in every row, so it identifies rows")
        if len(there) >= LEAST and distinct > 0.5 * len(there):
            return Guess("nothing", f"it looks like free text ({distinct} different values in {len(there)} rows)")
    return Guess("category")


def _target(table: Table, name: str, nulls: Nulls, notes: list[str]) -> str:
    series = table.columns[name]
    there, numeric = _look(series, nulls)
    if len(there) == 0:
        raise DataError("all values are missing", where=table.origin.at(column=name))
    if not numeric:
        if series.dtype == pl.String:
            _refuse_mixture(table, name, there, f"data.targets.{name}")
            distinct = there.n_unique()
            if len(there) >= LEAST and distinct > 0.5 * len(there):
                raise DataError(
                    f"it has {distinct} different texts in {len(there)} rows, too many to be classes",
                    where=table.origin.at(column=name),
                    remedy=f"If they are classes, say so: data.targets.{name}.kind: category.",
                )
        return "category"
    distinct = there.n_unique()
    if bool((there == there.round()).all()) and distinct <= min(FEW, max(2, len(there) // 5)):
        notes.append(
            f"target {name!r} has {distinct} different whole numbers, taken as classes "
            f"(data.targets.{name}.kind: number for a quantity)"
        )
        return "category"
    return "number"


def _look(series: pl.Series, nulls: Nulls) -> tuple[pl.Series, bool]:
    """The values that are not missing, and whether all of them are numbers: Float64 then, else trimmed where texts.

    Texts such as 007 are no numbers: their zeros would be lost.
    """
    if series.dtype.is_numeric():
        return series.cast(pl.Float64).drop_nulls().drop_nans(), True
    if series.dtype != pl.String:
        return series.drop_nulls(), False
    values = as_float(series, nulls)
    if values is not None and not series.str.contains(LEADING_ZERO).any():
        return values.drop_nans(), True
    trimmed = series.str.strip_chars()
    return trimmed.filter(trimmed.is_not_null() & ~trimmed.is_in(list(nulls.texts))), False


def _identifies(name: str, values: pl.Series) -> bool:
    """Whether numbers (n,), none missing, only tell rows apart."""
    numbers = values.to_numpy()
    if len(numbers) >= LEAST and bool((np.diff(numbers) == 1).all()):
        return True
    return (
        IDENTIFIER.fullmatch(name) is not None
        and bool((numbers == np.floor(numbers)).all())
        and values.n_unique() == len(values)
    )


def _refuse_mixture(table: Table, name: str, there: pl.Series, key: str) -> None:
    """Mostly numbers with a few words between them is a slip in the data, not a category."""
    numbers = there.cast(pl.Float64, strict=False)
    if there.str.contains(LEADING_ZERO).any() or numbers.is_not_null().sum() <= 0.5 * len(there):
        return
    word = there.filter(numbers.is_null())[0]
    row = int((table.columns[name].str.strip_chars() == word).arg_true()[0])
    raise DataError(
        f"{word!r} is not a number, but most values of this column are",
        where=table.origin.at(row, name),
        remedy=f"Mend the value, add it to data.nulls if it means missing, or say that the column is a category: "
        f"{key}.kind: category.",
    )


def _field(name: str, role: Role, kind: str, overrule: FieldOptions, where: str) -> Field:
    values: dict[str, Any] = {"kind": kind, "name": name, "role": role}
    if role == "target":
        values["missing"] = "drop"
        values |= {"unseen": "error"} if kind == "category" else {}
    said = {key: value for key, value in overrule.model_dump(exclude_unset=True).items() if value is not None}
    model = Number if kind == "number" else Category
    foreign = sorted(set(said) - set(model.model_fields))
    if foreign:
        raise RecipeError(f"a {kind} has no option {foreign[0]!r}", where=f"{where}.{foreign[0]}")
    try:
        return _FIELD.validate_python(values | said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != kind)
        raise RecipeError(first["msg"], where=f"{where}.{key}" if key else where) from error
