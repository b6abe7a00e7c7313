"""Texts to token ids and back, as the pipeline's tokenizers do it, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reinforge.data.words import UNKNOWN_TEXT, WORD, encoding, split, storable
from reinforge.errors import IntegrityError, MissingExtra
from reinforge.messages import _


class Tokens:
    """A stored tokenizer: `encode` gives at most `limit` ids, `offsets` where each stands in the text."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.kind = str(stored.get("kind"))
        self.texts: tuple[str, ...] = ()
        self.library: Any = None
        self.lower, self.dropped = False, 0
        match self.kind:
            case "character":
                self.texts = tuple(stored["characters"])
            case "word":
                self.texts, self.lower = tuple(stored["words"]), bool(stored["lower"])
            case "library":
                self.library = _library(json.dumps(stored["tokenizer"]))
                self.library.encode_special_tokens = not stored["marks"]
                self.marks, self.dropped = bool(stored["marks"]), int(stored["dropped"])
                # Ids from `size` on stand for no text.
                self.size = int(stored["size"])
            case _:
                raise IntegrityError(_("there is no tokenizer {kind!r}").format(kind=self.kind), where="export.json")
        self.ids = {text: place for place, text in enumerate(self.texts, 1)}

    def encode(self, text: str, limit: int | None) -> list[int]:
        """The ids of a text."""
        if self.kind == "character":
            return [self.ids.get(character, 0) for character in text[:limit]]
        if self.kind == "word":
            return [self.ids.get(word, 0) for word in split(text, self.lower)[:limit]]
        return list(self._encoded(text, limit).ids)

    def offsets(self, text: str, limit: int | None) -> list[tuple[int, int]]:
        """(start, end) of each token, in characters."""
        if self.kind == "character":
            return [(place, place + 1) for place in range(len(text[:limit]))]
        if self.kind == "word":
            return [match.span() for match in WORD.finditer(text)][:limit]
        return [(int(start), int(end)) for start, end in self._encoded(text, limit).offsets]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        if self.library is not None:
            kept = [place for place in ids if self.dropped <= place < self.size]
            return str(self.library.decode(kept))
        known = [UNKNOWN_TEXT, *self.texts]
        join: Callable[[Sequence[str]], str] = ("" if self.kind == "character" else " ").join
        return join([known[place] for place in ids if place < len(known)])

    def _encoded(self, text: str, limit: int | None) -> Any:
        if self.marks:
            return encoding(self.library, text, limit)
        found = self.library.encode(storable(text), add_special_tokens=False)
        if limit is not None:
            found.truncate(limit)
        return found


def _library(description: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "edge") from None
    library = Tokenizer.from_str(description)
    library.no_padding()
    library.no_truncation()
    return library
