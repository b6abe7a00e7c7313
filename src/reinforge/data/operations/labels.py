"""Operations on categories: labels to codes and back. Their labels stand in the schema, and only there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from reinforge.data.values import NUMBER, Column, Encoded, Nulls, Unreadable, Vocabulary, label
from reinforge.errors import DataError
from reinforge.schema.fields import Category

VERSION = 1


def coder(field: Category, nulls: Nulls) -> Callable[[object], int]:
    """From a raw value to its code; raises Unreadable where the field's policy refuses it. A target's missing value is
    -1, for the caller to drop, mask or refuse."""
    vocabulary = Vocabulary(field.labels, field.first_code if field.role == "input" else 0)
    unknown, missing = field.unknown_code, field.missing_code
    if field.role == "target":
        unknown, missing = None, -1
    name = field.name

    def code(value: object) -> int:
        text = label(value, nulls)
        if text is None:
            if missing is None:
                raise Unreadable(f"{name!r} must not be missing")
            return missing
        found = vocabulary.find(text)
        if found is not None:
            return found
        if unknown is None:
            known = ", ".join(repr(known) for known in field.labels[:8]) + (", ..." if len(field.labels) > 8 else "")
            raise Unreadable(f"{text!r} is none of the known labels ({known})")
        return unknown

    return code


def fit_labels(field: Category, column: Column, nulls: Nulls) -> Category:
    """The field with the labels that the column holds: numbers in their order, else texts in theirs.

    Declared labels stay as they are. Raises DataError where no label is left, or a target has only one.
    """
    if field.labels:
        return field
    try:
        counts = _counted(column, nulls)
    except Unreadable as error:
        raise DataError(str(error), where=f"column {field.name!r}") from None
    least = field.rare if field.role == "input" else 1
    labels = tuple(sorted((text for text, count in counts.items() if text is not None and count >= least), key=_order))
    if not labels:
        raise DataError(
            "no label is seen often enough" if counts.keys() - {None} else "no row has a label",
            where=f"column {field.name!r}",
            remedy="Drop the column, lower `rare`, or declare `labels`.",
        )
    if field.role == "target" and len(labels) == 1:
        raise DataError(
            f"every row has the same class, {labels[0]!r}",
            where=f"target {field.name!r}",
            remedy="A classifier needs at least two classes: add data, choose another target, or declare `labels`.",
        )
    return field.model_copy(update={"labels": labels})


def _counted(column: Column, nulls: Nulls) -> Counter[str | None]:
    counts: Counter[str | None] = Counter()
    if isinstance(column, Encoded):
        for code, count in Counter(column.codes.tolist()).items():
            counts[label(column.values[code], nulls)] += count
    else:
        counts.update(label(value, nulls) for value in column)
    return counts


def _order(text: str) -> tuple[int, float, str]:
    return (0, float(text), text) if NUMBER.fullmatch(text) else (1, 0.0, text)
