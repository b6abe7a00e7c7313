"""A fitted schema for new data: labels that it did not know, and new targets. What was fitted stays as it is.

Labels are added behind those that are there, so that codes, rows of embeddings and outputs of heads keep their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reinforge.data.columns import Columns
from reinforge.data.infer import target_field
from reinforge.data.operations.labels import LabelSet, found_labels
from reinforge.data.options import TableOptions
from reinforge.data.table import Table
from reinforge.data.values import Column, Nulls, Vocabulary
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.schema.fields import Category, Field, Labels, Role, sources
from reinforge.schema.schema import Schema


def check_targets(schema: Schema, options: TableOptions, extend: bool) -> None:
    """Raise RecipeError where the recipe's targets are none of the fitted schema's, and can't be added to it."""
    known = {f.name: f for f in schema.fields}
    for name, overrule in options.targets.items():
        where, field = f"data.targets.{name}", known.get(name)
        if field is None and not extend:
            raise RecipeError(
                _("the bundle has no target {name!r}").format(name=name),
                where=where,
                remedy=_("It has: {names}. To add it: start.extend=true.").format(
                    names=", ".join(f.name for f in schema.targets)
                ),
            )
        if field is not None and field.role != "target":
            raise RecipeError(
                _("{name!r} is an input of the bundle, so it can't become a target").format(name=name),
                where=where,
                remedy=_("Train anew, without the bundle."),
            )
        if field is not None and overrule.kind not in (None, field.kind):
            raise RecipeError(
                _("the bundle's target {name!r} is a {kind}").format(name=name, kind=field.kind),
                where=f"{where}.kind",
                remedy=_("Leave the kind out; or train anew, without the bundle."),
            )


def with_targets(schema: Schema, table: Table, options: TableOptions, notes: list[str]) -> Schema:
    """The schema with the recipe's targets that it lacks, still without labels; targets that the table does not have
    are masked. Notes tell of both. Raises DataError and RecipeError."""
    nulls = Nulls.of(schema.nulls)
    known = {f.name for f in schema.fields}
    fields: list[Field] = []
    for f in schema.fields:
        if f.role == "target" and any(name not in table.columns for name in sources(f)):
            notes.append(_("target {name!r} is not in these data: what it gives is not trained").format(name=f.name))
            f = f.model_copy(update={"missing": "mask"})
        fields.append(f)
    for name, overrule in options.targets.items():
        if name not in known:
            for source in overrule.columns or (name,):
                table.column(source)
            fields.append(target_field(table, name, overrule, nulls, notes))
            notes.append(_("target {name!r} is new").format(name=name))
    return schema.model_copy(update={"fields": tuple(fields)})


def filled(columns: Mapping[str, Column], schema: Schema, count: int) -> dict[str, Column]:
    """The columns, with nothing but missing values in those of masked targets that are not there."""
    masked = [f for f in schema.targets if getattr(f, "missing", None) == "mask"]
    absent = [name for f in masked for name in sources(f) if name not in columns]
    return {**columns, **{name: [None] * count for name in absent}}


def with_labels(schema: Schema, columns: Columns, role: Role, notes: list[str]) -> Schema:
    """The schema with the labels that these columns add to categories of a role, and to sets that are targets. Notes
    tell which. Sets that are inputs stay: their labels are numbers, and no layer that reads numbers can grow.

    Labels of inputs count from their field's `rare`. Raises DataError where the classes of an ordered target grow.
    """
    nulls = Nulls.of(schema.nulls)
    fields: list[Field] = []
    for f in schema.fields:
        grows = isinstance(f, Category) or (isinstance(f, Labels) and role == "target" and not f.columns)
        if grows and f.role == role and f.name in columns:
            assert isinstance(f, Category | Labels)
            new = _new(f, columns[f.name], nulls)
            if new and isinstance(f, Category) and f.ordered:
                raise DataError(
                    _("its classes stand in order, and {new!r} has no place among them").format(new=new[0]),
                    where=f"target {f.name!r}",
                    remedy=_("Train anew, with all labels declared in order."),
                )
            if new:
                notes.append(_("{name!r} has new labels: {value}").format(name=f.name, value=_listed(new)))
                f = f.model_copy(update={"labels": (*f.labels, *new)})
        fields.append(f)
    return schema.model_copy(update={"fields": tuple(fields)})


def _new(field: Category | Labels, column: Column, nulls: Nulls) -> LabelSet:
    if getattr(field, "hashed", False):
        return ()
    find = Vocabulary(field.labels).find
    try:
        found = found_labels(field, column, nulls)
    except DataError:  # nothing but missing values, or rare ones
        return ()
    return tuple(text for text in found if find(text) is None)


def _listed(labels: Iterable[str]) -> str:
    shown = [repr(label) for label in labels]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
