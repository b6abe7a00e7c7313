"""Texts that are JSON of a given schema: which tokens may come next, by the library llguidance."""

from __future__ import annotations

import importlib
import importlib.util
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reinforge.errors import DataError, MissingExtra
from reinforge.inference.text import UNFINISHED
from reinforge.messages import _

# No white space between values: a model that is unsure would fill its limit with it.
_OPTIONS = {"whitespace_flexible": False, "lenient": False}


class Schemas:
    """A tokenizer, made ready for schemas when the first one comes. `decode`: token ids to text; `size`: how many
    tokens there are; `stops`: those that end a text.

    A token that is no whole characters by itself is never written: JSON has an escape for every character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], size: int, stops: Sequence[int]) -> None:
        self.decode, self.size, self.stops = decode, size, tuple(stops)
        self._tokenizer: Any = None

    def constraint(self, schema: Any) -> SchemaConstraint:
        """What holds one text to a JSON Schema. Raises DataError for a schema that is none, or says what can't be held
        to; MissingExtra without llguidance."""
        if importlib.util.find_spec("llguidance") is None:
            raise MissingExtra("llguidance", "schema")
        library: Any = importlib.import_module("llguidance")
        tokenizer, matcher = self._ready(library), library.LLMatcher
        try:
            grammar = matcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
        except ValueError as error:
            raise DataError(_("this is no JSON Schema: {reason}").format(reason=error)) from None
        if told := matcher.validate_grammar(grammar, tokenizer):
            raise DataError(_("this is no JSON Schema: {reason}").format(reason=told.splitlines()[0][:200]))
        found = SchemaConstraint(matcher(tokenizer, grammar, log_level=0), self.size, self.stops)
        found.allowed()
        if found.failed:
            raise DataError(_("no text that this model can write fits the schema"))
        return found

    def _ready(self, library: Any) -> Any:
        if self._tokenizer is None:
            self._tokenizer = library.LLTokenizer(_Words(self.decode, self.size, self.stops))
        return self._tokenizer


class SchemaConstraint:
    """One text's state. `complete`: nothing more can come. `failed`: nothing can, though it is not complete."""

    def __init__(self, matcher: Any, size: int, stops: Sequence[int]) -> None:
        self._matcher, self._size, self._stops = matcher, size, tuple(stops)
        self.complete = self.failed = False

    def allowed(self) -> Tensor:
        """(vocabulary,) bool: what may come next; a text that is whole may end by a stop token."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        mask = torch.from_numpy(bits[: self._size].astype(bool))
        # One more than there are tokens stands for the end.
        mask[list(self._stops)] = bool(bits[self._size])
        if not bool(mask.any()):
            # Then anything ends it: its text is cut.
            self.failed = True
            mask[list(self._stops) or slice(None)] = True
        return mask

    def advance(self, token: int) -> None:
        """A token was written."""
        if self.failed or token in self._stops:
            self.complete = True
            return
        self._matcher.consume_token(token)
        # Without a token that ends texts, the first moment at which it may end is the end.
        self.complete = self._matcher.is_stopped() or (not self._stops and self._matcher.is_accepting())


class _Words:
    """The vocabulary as llguidance reads it: the bytes of each token, and one more token that stands for the end."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, decode: Callable[[Sequence[int]], str], size: int, stops: Sequence[int]) -> None:
        self.tokens, self.special_token_ids = [], [*stops, size]
        self.eos_token_id = size
        ahead = _ahead(decode, size)
        before = decode(ahead)
        single: dict[str, int] = {}
        for token in range(size):
            text = decode([*ahead, token]).removeprefix(before)
            if not text or UNFINISHED in text or token in stops:
                self.special_token_ids.append(token)
                text = ""
            # Special tokens begin with a byte that no text has.
            self.tokens.append(text.encode() or b"\xff" + str(token).encode())
            if len(text) == 1:
                single.setdefault(text, token)
        self.tokens.append(b"\xffend")
        self._single = single
        lacking = [each for each in string.printable[:95] if each not in single]
        if lacking:
            raise DataError(
                _("its tokenizer lacks characters that JSON needs: {characters}").format(
                    characters="".join(lacking)[:40]
                )
            )

    def __call__(self, text: str | bytes) -> list[int]:
        whole = text.decode(errors="ignore") if isinstance(text, bytes) else text
        return [self._single[each] for each in whole if each in self._single]


def _ahead(decode: Callable[[Sequence[int]], str], size: int) -> list[int]:
    """A token to decode others behind: some decoders write a first token without the space in front of it."""
    for token in range(size):
        text = decode([token])
        if len(text) == 1 and text.isalpha() and UNFINISHED not in text:
            return [token]
    return []
