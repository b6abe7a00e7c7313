"""Tokenizers of language models: texts without marks, special tokens beside them that no text can become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reinforge.data.tokenizers import PretrainedTokenizer
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _

_WHERE = "pipeline tokenizer"
MAX_VOCABULARY = 1 << 24


@dataclass(frozen=True)
class Marks:
    """The tokens that begin a document, end it, and fill up rows; None where there is none."""

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """JSON-able; `from_json` gives equal marks."""
        return {"bos": self.bos, "eos": self.eos, "pad": self.pad}

    @classmethod
    def from_json(cls, value: Any) -> Marks:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        if not isinstance(value, dict) or set(value) != {"bos", "eos", "pad"}:
            raise IntegrityError("its marks must be bos, eos and pad", where="pipeline")
        if not all(mark is None or (isinstance(mark, str) and mark) for mark in value.values()):
            raise IntegrityError("its marks must be texts or null", where="pipeline")
        return cls(**value)


class SpecialTokenizer:
    """A tokenizer of texts with `specials` behind its vocabulary, in their order. Texts never give one, and decoding
    leaves them out."""

    def __init__(self, base: Any, specials: Sequence[str]) -> None:
        self.base, self.specials = base, tuple(specials)
        self._ids = {text: base.size + place for place, text in enumerate(self.specials)}

    @property
    def size(self) -> int:
        """The texts' tokens, and the special ones."""
        return int(self.base.size) + len(self.specials)

    def special(self, text: str) -> int | None:
        """The id of a special token; None where there is none."""
        return self._ids.get(text)

    def encode(self, text: str, limit: int | None = None) -> Tensor:
        """(n,) int32, the first `limit`."""
        ids: Tensor = self.base.encode(text, limit)
        return ids

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of (n,) ids. Raises DataError for an id outside the vocabulary."""
        numbers: list[int] = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.size:
            raise DataError(_("ids must lie in [0, {size})").format(size=self.size), where="tokenizer")
        text: str = self.base.decode([number for number in numbers if number < self.base.size])
        return text

    def offsets(self, text: str, limit: int | None = None) -> Tensor:
        """(n, 2) int64: where each token starts and ends in the text."""
        places: Tensor = self.base.offsets(text, limit)
        return places

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `data.text` reads it again."""
        return {"kind": "special", "version": 1, "base": self.base.to_json(), "specials": list(self.specials)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], base: Any) -> SpecialTokenizer:
        """Read and check what `to_json` wrote, but for its base, which was read before. Raises IntegrityError."""
        if set(value) != {"kind", "version", "base", "specials"} or value["version"] != 1:
            raise IntegrityError("it must be version 1 of a tokenizer with special tokens", where=_WHERE)
        specials = value["specials"]
        if (
            not isinstance(specials, list)
            or not all(isinstance(text, str) and text for text in specials)
            or len(set(specials)) != len(specials)
        ):
            raise IntegrityError("its special tokens must be texts, each once", where=_WHERE)
        return cls(base, specials)


class LanguageTokenizer(PretrainedTokenizer):
    """The tokenizer of a pretrained language model: texts alone, without marks around them; the special tokens of its
    vocabulary are never read in a text. `size`: that of the model's vocabulary, where it is rounded up from the
    tokenizer's. Raises IntegrityError where it is smaller."""

    def __init__(self, description: Mapping[str, Any], size: int | None = None) -> None:
        super().__init__(description)
        if size is not None:
            if size < self.size:
                raise IntegrityError(f"it has {self.size} tokens, and the model {size}", where=_WHERE)
            self.size = size
        self._library.encode_special_tokens = True
        self._added = {token.content: place for place, token in self._library.get_added_tokens_decoder().items()}

    @property
    def specials(self) -> tuple[str, ...]:
        """Tokens that stand beside its vocabulary."""
        return tuple(self._added)

    def special(self, text: str) -> int | None:
        """The id of a special token; None where there is none."""
        return self._added.get(text)

    def marked(self, text: str) -> list[int]:
        """The ids of a text with the marks that the tokenizer itself would put around it."""
        return list(self._library.encode(_whole(text)).ids)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives an equal tokenizer."""
        return {**super().to_json(), "kind": "pretrained-language", "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LanguageTokenizer:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        stored = dict(value)
        size = stored.pop("size", None)
        if not isinstance(size, int) or isinstance(size, bool) or size > MAX_VOCABULARY:
            raise IntegrityError("its size must be a number", where=_WHERE)
        return cls(PretrainedTokenizer.from_json(stored).to_json()["tokenizer"], size)

    def _encoded(self, text: str, limit: int | None) -> Any:
        found = self._library.encode(_whole(text), add_special_tokens=False)
        if limit is not None:
            found.truncate(limit)
        return found


def special_id(tokenizer: Any, text: str, template: str) -> int:
    """The id of a special token that a template needs. Raises DataError that names a template which would fit."""
    find = getattr(tokenizer, "special", None)
    place = find(text) if find is not None else None
    if place is None:
        raise _unfit(tokenizer, text, template)
    return int(place)


def _unfit(tokenizer: Any, text: str, template: str) -> DataError:
    from reinforge.data.templates import TEMPLATES

    find = getattr(tokenizer, "special", lambda _text: None)
    fits = [
        each.name
        for each in TEMPLATES.values()
        if each.specials and all(find(special) is not None for special in each.specials)
    ]
    return DataError(
        _("template {name} needs the token {token!r}, which the tokenizer lacks").format(name=template, token=text),
        where="data.template",
        remedy=_("Set data.template to what the model was trained with; by its tokens: {names}.").format(
            names=", ".join(fits) or "plain"
        ),
    )


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which UTF-8 can't say; of the same length."""
    return "".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c for c in text)
