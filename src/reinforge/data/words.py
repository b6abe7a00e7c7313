"""What tokenizers do with a text, without tensors: cutting it into words, and a library's pieces of it."""

from __future__ import annotations

import re
from typing import Any

UNKNOWN_TEXT = "\N{REPLACEMENT CHARACTER}"
# Scripts without spaces between words: a character is a word.
_SINGLE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = re.compile(rf"[{_SINGLE}]|[^\W_{_SINGLE}]+(?:['\u2019][^\W_{_SINGLE}]+)*|[^\w\s]|_")


def split(text: str, lower: bool) -> list[str]:
    """The words of a text, in order."""
    words = WORD.findall(text)
    return [word.lower() for word in words] if lower else words


def encoding(library: Any, text: str, limit: int | None) -> Any:
    """What a tokenizer of the library `tokenizers` makes of a text; its marks stay where the text is cut off."""
    whole = library.encode(storable(text))
    if limit is None or len(whole) <= limit:
        return whole
    marks = library.num_special_tokens_to_add(False)
    cut = library.encode(storable(text), add_special_tokens=False)
    cut.truncate(max(limit - marks, 0))
    cut = library.post_process(cut)
    cut.truncate(limit)
    return cut


def storable(text: str) -> str:
    """Without halves of surrogate pairs, which UTF-8 can't say; of the same length."""
    return re.sub("[\ud800-\udfff]", UNKNOWN_TEXT, text)
