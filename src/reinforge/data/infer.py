"""Fields told from the data: what a column seems to hold, overruled by what the recipe says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from reinforge.data.guessing import Guess, date_options, nested, special, spelt_dates, words
from reinforge.data.options import FieldOptions, TableOptions
from reinforge.data.table import Table, as_float
from reinforge.data.values import Nulls
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.registry import Options
from reinforge.schema.fields import Category, Date, Field, Image, Labels, Number, Role, Span, Text, Vector
from reinforge.schema.schema import Schema

IDENTIFIER = re.compile(
    r"(?:.*[_\s-])?(?:id|uuid|guid|key)|(?:row|record)[_\s-]?(?:id|number|no|nr)|index"
    r"|(?-i:.*[a-z]I[Dd])|.*(?:编号|序号|行号|单号|流水号|学号|工号|主键|标识)",
    re.IGNORECASE,
)
FEW = 20  # whole numbers of a target with at most so many distinct values are classes
LEAST = 20  # fewer rows say nothing about whether a column identifies them
DIFFERENT = 0.9  # the part of an identifier's values that differ, since some rows may be copies
WORDS = 4  # so many words on average make a text; a Chinese character is one
LENGTH = 256  # tokens of a text, where the recipe says nothing
LEADING_ZERO = r"^\s*[+-]?0[0-9]"

MODELS: Mapping[str, type[Options]] = {
    model.model_fields["kind"].default: model
    for model in (Number, Category, Date, Labels, Text, Image, Vector, Span)
}  # fmt: skip
_FIELD: TypeAdapter[Field] = TypeAdapter(Field)


def infer(table: Table, options: TableOptions, helpers: tuple[str, ...] = ()) -> tuple[Schema, tuple[str, ...]]:
    """The schema of a table, and notes on every column left out or open to doubt.

    `helpers` are columns that only serve the split. Inputs come in the table's order, then the targets in the recipe's.
    Labels stay open until fitted. Raises DataError and RecipeError.
    """
    said = [*options.targets.items(), *options.fields.items()]
    made = {name: o.columns for name, o in said if o.columns}  # fields of several columns
    known = [*options.targets, *(options.inputs or ()), *options.drop, *options.fields, *helpers]
    again = {name: o.column for name, o in options.fields.items() if o.column}  # a column read another way too
    known = [name for name in known if name not in made and name not in again]
    known += [name for columns in made.values() for name in columns] + list(again.values())
    for name in known:
        if name not in table.columns:
            raise RecipeError(
                _("the data have no column {name!r}").format(name=name),
                where=f"data ({table.origin.at()})",
                remedy=_("Columns: {names}.").format(names=", ".join(table.columns)),
            )
    for name, read in again.items():
        if name != read and name in table.columns:
            raise RecipeError(
                _("the data have a column {name!r} of their own").format(name=name),
                where=f"data.fields.{name}.column",
                remedy=_("Give the field that reads {read!r} a name that no column has.").format(read=read),
            )
    nulls = Nulls.of(options.nulls)
    notes: list[str] = []
    fields: list[Field] = []
    left_out = {*options.targets, *options.drop, *helpers, *(name for columns in made.values() for name in columns)}
    chosen = options.inputs or [name for name in table.columns if name not in left_out]
    for name in [*chosen, *(name for name in (*made, *again) if name in options.fields and name not in chosen)]:
        overrule = options.fields.get(name, FieldOptions())
        kind = overrule.kind or (
            "labels" if overrule.columns else "date" if overrule.format else "text" if overrule.column else None
        )
        guess = guess_of(table, name, nulls) if kind is None else _stated(kind, overrule, table, name, nulls)
        if guess.kind == "nothing" and (options.inputs is not None or name in options.fields):
            guess = Guess("number" if _look(table.columns[name], nulls)[1] else "category", guess.why)
        if guess.note:
            notes.append(f"{name!r}: {guess.note}")
        if guess.kind == "nothing":
            notes.append(_("{name!r} is left out: {why}").format(name=name, why=guess.why))
            continue
        fields.append(_field(name, "input", guess, overrule, f"data.fields.{name}"))
    if not fields:
        raise DataError(
            _("no column is left to predict from"), where=table.origin.at(), remedy="; ".join(notes) or None
        )
    for name, overrule in options.targets.items():
        fields.append(target_field(table, name, overrule, nulls, notes))
    try:
        return Schema(fields=tuple(fields), nulls=options.nulls, absent=options.absent), tuple(notes)
    except ValidationError as error:
        raise RecipeError(error.errors()[0]["msg"].removeprefix("Value error, "), where="data") from error


def _stated(kind: str, overrule: FieldOptions, table: Table, name: str, nulls: Nulls) -> Guess:
    """A kind that the recipe states, with how its dates are written."""
    series = table.columns.get(name)
    if kind != "date" or overrule.format is not None or series is None or series.dtype != pl.String:
        return Guess(kind)
    found = spelt_dates(_look(series, nulls)[0])
    if found is not None and found.kind == "nothing":
        raise DataError(found.why, where=table.origin.at(column=name))
    return found or Guess(kind)


def target_field(table: Table, name: str, overrule: FieldOptions, nulls: Nulls, notes: list[str]) -> Field:
    """A target's field, its labels still open; notes on what is open to doubt. Raises DataError and RecipeError."""
    guess = Guess(overrule.kind) if overrule.kind else _target(table, name, overrule, nulls, notes)
    return _field(name, "target", guess, overrule, f"data.targets.{name}")


def guess_of(table: Table, name: str, nulls: Nulls) -> Guess:
    """What a column of inputs seems to be. Raises DataError for numbers with words between them."""
    series = table.columns[name]
    if series.dtype in (pl.Date, pl.Datetime):
        if series.n_unique() < 2:
            return Guess("nothing", _("it has the same value in every row"))
        return Guess("date", options=date_options(series))
    if series.dtype.is_temporal():
        return Guess("nothing", _("times of day and durations are no inputs"))
    if isinstance(series.dtype, pl.List | pl.Array) or series.dtype == pl.Binary:
        return nested(series)
    if series.dtype.is_nested() or series.dtype == pl.Object:
        return Guess("nothing", _("it holds nested values"))
    there, numeric = _look(series, nulls)
    if len(there) == 0:
        return Guess("nothing", _("all values are missing"))
    if len(there) == len(series) and bool((there == there[0]).all()):
        return Guess("nothing", _("it has the same value in every row"))
    if numeric:
        if len(there) == len(series) and _identifies(name, there):
            return Guess("nothing", _("it numbers the rows"))
        return Guess("number")
    distinct = there.n_unique()
    if series.dtype == pl.String:
        found = special(there, table.base)
        if found is not None:
            return found
        _refuse_mixture(table, name, there, f"data.fields.{name}")
        if len(there) >= LEAST and distinct > 0.5 * len(there) and words(there) >= WORDS:
            return Guess("text", options={"length": LENGTH})
        if distinct == len(series) >= LEAST:
            return Guess("nothing", _("its text is different in every row, so it identifies rows"))
        if len(there) >= LEAST and distinct > 0.5 * len(there):
            return Guess(
                "nothing",
                _("it looks like names or free text ({distinct} different in {n} rows)").format(
                    distinct=distinct, n=len(there)
                ),
            )
    return Guess("category")


def _target(table: Table, name: str, overrule: FieldOptions, nulls: Nulls, notes: list[str]) -> Guess:
    if overrule.of:
        return Guess("span")
    if overrule.columns:
        return Guess("vector")
    if overrule.count:
        return Guess("number")
    series = table.columns[name]
    if isinstance(series.dtype, pl.List):
        return Guess("labels")
    there, numeric = _look(series, nulls)
    if len(there) == 0:
        raise DataError(_("all values are missing"), where=table.origin.at(column=name))
    if not numeric:
        if series.dtype == pl.String:
            found = special(there, None)
            if found is not None and found.kind == "labels" and not overrule.labels:
                notes.append(f"{name!r}: {found.note}")
                return found
            _refuse_mixture(table, name, there, f"data.targets.{name}")
            distinct = there.n_unique()
            if len(there) >= LEAST and distinct > 0.5 * len(there):
                raise DataError(
                    _("it has {distinct} different texts in {n} rows, too many to be classes").format(
                        distinct=distinct, n=len(there)
                    ),
                    where=table.origin.at(column=name),
                    remedy=_("If they are classes, say so: data.targets.{name}.kind: category.").format(name=name),
                )
        return Guess("category")
    distinct = there.n_unique()
    if bool((there == there.round()).all()) and distinct <= min(FEW, max(2, len(there) // 5)):
        notes.append(
            _(
                "target {name!r} has {distinct} different whole numbers, taken as classes "
                "(data.targets.{name}.kind: number for a quantity)"
            ).format(name=name, distinct=distinct)
        )
        return Guess("category")
    return Guess("number")


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
    """Whether numbers (n,), none missing, only tell rows apart; a few rows may be copies."""
    numbers = values.to_numpy()
    first = values.unique(maintain_order=True).to_numpy()  # wherever the copies stand
    if len(first) < DIFFERENT * len(values):
        return False
    if len(numbers) >= LEAST and bool((np.diff(first) == 1).all()):
        return True
    return IDENTIFIER.fullmatch(name) is not None and bool((numbers == np.floor(numbers)).all())


def _refuse_mixture(table: Table, name: str, there: pl.Series, key: str) -> None:
    """Mostly numbers with a few words between them is a slip in the data, not a category."""
    numbers = there.cast(pl.Float64, strict=False)
    if there.str.contains(LEADING_ZERO).any() or numbers.is_not_null().sum() <= 0.5 * len(there):
        return
    word = there.filter(numbers.is_null())[0]
    row = int((table.columns[name].str.strip_chars() == word).arg_true()[0])
    raise DataError(
        _("{word!r} is not a number, but most values of this column are").format(word=word),
        where=table.origin.at(row, name),
        remedy=_(
            "Mend the value, add it to data.nulls if it means missing, or say that the column is a category: "
            "{key}.kind: category."
        ).format(key=key),
    )


def _field(name: str, role: Role, guess: Guess, overrule: FieldOptions, where: str) -> Field:
    kind = guess.kind
    model = MODELS[kind]
    known = model.model_fields
    values: dict[str, Any] = {"kind": kind, "name": name, **guess.options}
    values |= {"role": role} if get_args(known["role"].annotation) == get_args(Role) else {}
    if role == "target":
        values |= {"missing": "drop", **({"unseen": "error"} if "unseen" in known else {})}
    elif kind == "text":
        values |= {"length": LENGTH}
    if known["role"].default != role and "role" not in values:
        raise RecipeError(
            _("a {kind} can't be an {role}").format(kind=kind, role=role)
            if role == "input"
            else _("a {kind} can't be a {role}").format(kind=kind, role=role),
            where=where,
        )
    said = {
        key: value
        for key, value in overrule.model_dump(exclude_unset=True, exclude={"tokenizer"}).items()
        if value is not None
    }
    foreign = sorted(set(said) - set(known))
    if overrule.tokenizer is not None and kind != "text":
        foreign.insert(0, "tokenizer")
    if foreign:
        why = f" ({guess.why})" if guess.why else ""
        taken = _("It is taken for a {kind}{why}; state another `kind`, or mend it.").format(kind=kind, why=why)
        raise RecipeError(
            _("a {kind} has no option {name!r}").format(kind=kind, name=foreign[0]),
            where=f"{where}.{foreign[0]}",
            remedy=None if overrule.kind else taken,
        )
    try:
        return _FIELD.validate_python(values | said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != kind)
        problem = first["msg"].removeprefix("Value error, ")
        raise RecipeError(problem, where=f"{where}.{key}" if key else where) from error
