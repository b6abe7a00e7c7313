"""Answers inside a text: from characters to tokens and back. All ends of characters are exclusive."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from reinforge.data.text import Tokenizer
from reinforge.data.values import Nulls, Unreadable, shown
from reinforge.data.values import text as read_text
from reinforge.errors import DataError
from reinforge.messages import _

Answer = str | tuple[int, int]


def answer(value: object, nulls: Nulls) -> Answer | None:
    """An answer's own text, or where it starts and ends; None where the value means "missing". Raises Unreadable."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return read_text(value, nulls)
    if isinstance(value, list | tuple | np.ndarray):
        ends = [
            int(end) for end in value if isinstance(end, int | np.integer) or (isinstance(end, str) and end.isdigit())
        ]
        if len(value) != 2 or len(ends) != 2:
            raise Unreadable(_("{value} is not [start, end]").format(value=shown(value)))
        return ends[0], ends[1]
    return read_text(value, nulls)


def characters_of(given: Answer, text: str, where: str) -> tuple[int, int]:
    """Start and end of an answer in its text. Raises DataError where the text does not hold it."""
    if isinstance(given, str):
        start = text.find(given.strip())
        if start < 0 or not given.strip():
            raise DataError(_("the text does not hold the answer {given}").format(given=shown(given)), where=where)
        return start, start + len(given.strip())
    start, end = given
    if not 0 <= start < end <= len(text):
        raise DataError(
            _("{start} to {end} is no part of a text of {n} characters").format(start=start, end=end, n=len(text)),
            where=where,
        )
    return start, end


def offsets(tokenizer: Tokenizer, text: str, length: int | None) -> NDArray[np.int64]:
    """(n, 2) where each token that is read starts and ends."""
    found: NDArray[np.int64] = tokenizer.offsets(text, length).numpy().reshape(-1, 2)
    return found


def tokens_of(places: NDArray[np.int64], start: int, end: int) -> tuple[int, int] | None:
    """First and last token that hold a character from start to end; None unless all of it is read."""
    if len(places) == 0 or places[:, 1].max() < end:
        return None
    touched = np.flatnonzero((places[:, 0] < end) & (places[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
