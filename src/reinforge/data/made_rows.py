"""Rows that are drawn here, always the same, for what no package ships: `made:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reinforge.data import made_chats, made_products, made_sums, made_talk
from reinforge.errors import DataError
from reinforge.messages import _

Row = Mapping[str, Any]

MADE: Mapping[str, Callable[[], list[Row]]] = {
    "chats": made_chats.chats, "shouting": made_chats.shouting, "preferences": made_chats.preferences,
    "sums": made_sums.texts, "sums-answered": made_sums.demonstrations, "sums-asked": made_sums.questions,
    "sums-held": made_sums.tests,
    "products-answered": made_products.demonstrations, "products-asked": made_products.questions,
    "products-held": made_products.tests, "talk": made_talk.texts, "talk-answered": made_talk.demonstrations,
    "talk-asked": made_talk.questions, "talk-held": made_talk.tests, "talk-held-texts": made_talk.held_texts,
    "talk-held-chats": made_talk.held_chats,
}  # fmt: skip


def made_rows(name: str) -> list[Row]:
    """The rows of made:NAME. Raises DataError."""
    if name not in MADE:
        known = ", ".join(f"made:{each}" for each in MADE)
        raise DataError(
            _("there are no rows {name}").format(name=f"made:{name}"), remedy=_("Known: {names}.").format(names=known)
        )
    return MADE[name]()
