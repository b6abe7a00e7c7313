"""Operations on labels: to codes and back. What labels there are stands in the schema, and only there."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reinforge.data.values import (
    NUMBER,
    Column,
    Encoded,
    Nulls,
    Unreadable,
    Vocabulary,
    alike,
    label,
    loosely,
    shown,
)
from reinforge.errors import DataError
from reinforge.messages import _

if TYPE_CHECKING:
    from reinforge.schema.fields import Category, Labels

VERSION = 1
LabelSet = tuple[str, ...]


def coder(field: Category, nulls: Nulls) -> Callable[[object], int]:
    """From a raw value to its code; raises Unreadable where the field's policy refuses it. A target's missing value is
    -1, for the caller to drop, mask or refuse."""
    target = field.role == "target"
    first = 0 if target else field.first_code
    unknown, missing = (None, -1) if target else (field.unknown_code, field.missing_code)
    find: Callable[[str], int | None]
    loose = field.spelling == "loose"
    find = _Buckets(first, field.buckets, loose) if field.hashed else Vocabulary(field.labels, first, loose).find
    name = field.name

    def code(value: object) -> int:
        text = label(value, nulls)
        if text is None:
            if missing is None:
                raise Unreadable(_("{name!r} must not be missing").format(name=name))
            return missing
        found = find(text)
        if found is not None:
            return found
        if unknown is None:
            raise _unknown(text, field.labels)
        return unknown

    return code


class _Buckets:
    """A label's bucket: BLAKE2b of its one spelling, modulo their number; the same in every process and release."""

    def __init__(self, first: int, count: int, loose: bool) -> None:
        self.first, self.count = first, count
        self.spelling = loosely if loose else alike

    def __call__(self, text: str) -> int:
        digest = hashlib.blake2b(self.spelling(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return self.first + int.from_bytes(digest, "little") % self.count


def label_set(value: object, nulls: Nulls, separator: str) -> LabelSet | None:
    """The labels of one value, each once, as they come: a list, a JSON list, or a text with a separator. None where the
    value means "missing". Raises Unreadable."""
    items: Iterable[Any]
    if isinstance(value, str):
        text = value.strip()
        if text in nulls.texts:
            return None
        items = _listed(text) if text.startswith("[") else text.split(separator)
    elif isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        items = value.tolist() if isinstance(value, np.ndarray) else value
    else:
        one = label(value, nulls)
        return None if one is None else (one,)
    found = (label(item, nulls) for item in items)
    return tuple(dict.fromkeys(text for text in found if text is not None))


def set_coder(field: Labels, nulls: Nulls) -> Callable[[object], tuple[int, ...] | None]:
    """From a raw value to the places of its labels; None where it is missing. Raises Unreadable where the field's
    policy refuses it."""
    vocabulary = Vocabulary(field.labels, 0, field.spelling == "loose")
    strict = field.role == "target" or field.unseen == "error"
    name = field.name

    def code(value: object) -> tuple[int, ...] | None:
        texts = label_set(value, nulls, field.separator)
        if texts is None:
            if field.role == "target":
                return () if field.missing == "empty" else None
            if field.missing == "error":
                raise Unreadable(_("{name!r} must not be missing").format(name=name))
            return ()
        places = []
        for text in texts:
            place = vocabulary.find(text)
            if place is not None:
                places.append(place)
            elif strict:
                raise _unknown(text, field.labels)
        return tuple(places)

    return code


def flag(value: object, nulls: Nulls) -> int:
    """1 or 0 of a column that is a label; -1 where missing. Raises Unreadable."""
    text = label(value, nulls)
    if text is None:
        return -1
    known = {"0": 0, "1": 1, "false": 0, "true": 1}.get(alike(text))
    if known is None:
        raise Unreadable(_("{value} is neither 0 nor 1").format(value=shown(value)))
    return known


def fit_labels(field: Category, column: Column | Counter[str], nulls: Nulls) -> Category:
    """The field with the labels that the column (or what `counted` gave) holds: numbers in their order, else texts.

    Declared labels stay as they are. Raises DataError where no label is left, a target has only one, or the labels of
    an ordered target have no order.
    """
    if field.labels or field.hashed:
        return field
    found = found_labels(field, column, nulls)
    if field.role == "target" and len(found) == 1:
        raise DataError(
            _("every row has the same class, {found!r}").format(found=found[0]),
            where=f"target {field.name!r}",
            remedy=_("A classifier needs at least two classes: add data, choose another target, or declare `labels`."),
        )
    if field.ordered and not all(NUMBER.fullmatch(text) for text in found):
        raise DataError(
            _("its labels are texts ({names}), which have no order of their own").format(names=", ".join(found[:5])),
            where=f"target {field.name!r}",
            remedy=_("Declare them from least to most: `labels: [low, middle, high]`."),
        )
    return field.model_copy(update={"labels": found})


def fit_label_sets(field: Labels, column: Column | Counter[str], nulls: Nulls) -> Labels:
    """The field with the labels that the column's sets hold, as `fit_labels` does."""
    if field.labels:
        return field
    return field.model_copy(update={"labels": found_labels(field, column, nulls)})


def found_labels(field: Category | Labels, column: Column | Counter[str], nulls: Nulls) -> LabelSet:
    """The labels that a column holds in at least `rare` rows, in order. Raises DataError where there is none."""
    try:
        counts = column if isinstance(column, Counter) else counted(field, column, nulls)
    except Unreadable as error:
        raise DataError(str(error), where=f"column {field.name!r}") from None
    if field.spelling == "loose":
        counts = _merged(counts)
    least = field.rare if field.role == "input" else 1
    found = tuple(sorted((text for text, count in counts.items() if count >= least), key=_order))
    if not found:
        raise DataError(
            _("no label is seen often enough") if counts else _("no row has a label"),
            where=f"column {field.name!r}",
            remedy=_("Drop the column, lower `rare`, or declare `labels`."),
        )
    return found


def counted(field: Category | Labels, column: Column, nulls: Nulls) -> Counter[str]:
    """How many rows hold each label. Raises Unreadable."""
    if isinstance(column, Encoded):
        times = np.bincount(column.codes, minlength=len(column.values)).tolist()
        pairs: Iterable[tuple[object, int]] = ((v, n) for v, n in zip(column.values, times) if n)
    else:
        pairs = ((value, 1) for value in column)
    counts: Counter[str] = Counter()
    for value, count in pairs:
        texts = (label(value, nulls),) if field.kind == "category" else label_set(value, nulls, field.separator) or ()
        for text in texts:
            if text is not None:
                counts[text] += count
    return counts


def _merged(counts: Counter[str]) -> Counter[str]:
    """Labels that are loosely one as the tidiest of them (no stray spaces, no full-width forms), of those the most
    frequent, of equals the first in order."""
    found: dict[str, str] = {}
    for text in sorted(counts, key=lambda text: (not _tidy(text), -counts[text], text)):
        found.setdefault(loosely(text), text)
    merged: Counter[str] = Counter()
    for text, count in counts.items():
        merged[found[loosely(text)]] += count
    return merged


def _tidy(text: str) -> bool:
    return text == " ".join(unicodedata.normalize("NFKC", text).split())


def _unknown(text: str, labels: Sequence[str]) -> Unreadable:
    known = ", ".join(repr(known) for known in labels[:8]) + (", ..." if len(labels) > 8 else "")
    return Unreadable(_("{text!r} is none of the known labels ({known})").format(text=text, known=known))


def _listed(text: str) -> list[object]:
    # Numbers keep their spelling, as a label in a file would.
    try:
        found = json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        raise Unreadable(_("{text} begins like a JSON list, and is none").format(text=shown(text))) from None
    if not isinstance(found, list):
        raise Unreadable(_("{text} is no list of labels").format(text=shown(text)))
    return found


def _order(text: str) -> tuple[int, float, str]:
    return (0, float(text), text) if NUMBER.fullmatch(text) else (1, 0.0, text)
