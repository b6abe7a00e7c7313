"""Tokens to text as they come: whole characters, stop strings across token borders."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data.options import BytePairOptions, CharacterOptions
from reinforge.data.text import Tokenizer, fit_characters
from reinforge.data.tokenizers import fit_byte_pairs
from reinforge.inference.text import TextWriter

TEXTS = ["the quick brown fox, naïve café 你好，世界 👩‍🚀 the the brown", "12 + 34 = 46\n\n好好好"]
TOKENIZERS: list[Tokenizer] = [
    fit_byte_pairs(BytePairOptions(size=300), TEXTS),
    fit_byte_pairs(BytePairOptions(size=300, alphabet="characters"), TEXTS),
    fit_characters(CharacterOptions(), TEXTS),
]


@given(st.integers(0, 2), st.data())
@settings(deadline=None, max_examples=150)
def test_pieces_are_the_whole_text(which: int, data: st.DataObject) -> None:
    """Any tokens, bytes that are no UTF-8 among them: the pieces joined are what decoding all at once gives."""
    tokenizer = TOKENIZERS[which]
    ids = data.draw(st.lists(st.integers(1, tokenizer.size - 1), max_size=30))
    writer = TextWriter(tokenizer.decode)
    pieces = []
    for token in ids:
        assert not writer(token)
        pieces.append(writer.take())
    writer.finish()
    pieces.append(writer.take())
    assert "".join(pieces) == tokenizer.decode(ids) == writer.text


@given(st.text(alphabet="ab好", max_size=25), st.lists(st.text(alphabet="ab好", min_size=1, max_size=4), max_size=3))
@settings(deadline=None, max_examples=200)
def test_stop_strings_wherever_tokens_cut_them(text: str, stops: list[str]) -> None:
    tokenizer = fit_byte_pairs(BytePairOptions(size=270), ["abab好好ab"])
    ids = tokenizer.encode(text).tolist()
    writer = TextWriter(tokenizer.decode, stops)
    shown, used = "", 0
    for token in ids:
        used += 1
        ended = writer(token)
        shown += writer.take()
        assert not any(stop in shown for stop in stops)
        if ended:
            break
    whole = writer.finish()
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if places:
        # The stop that is complete first ends it; of those complete with one token, the first to begin.
        first = min(range(len(text) + 1), key=lambda end: (not any(text[:end].endswith(stop) for stop in stops), end))
        assert writer.stopped
        assert whole == text[: len(whole)]
        assert len(whole) < first
        assert any(text[len(whole) :].startswith(stop) for stop in stops)
    else:
        assert whole == text
        assert used == len(ids)


def test_a_character_of_several_tokens_is_never_shown_in_parts() -> None:
    tokenizer = fit_byte_pairs(BytePairOptions(size=257), ["a"])
    writer = TextWriter(tokenizer.decode)
    shown = []
    for token in tokenizer.encode("a👍").tolist():
        writer(token)
        shown.append(writer.take())
    assert shown == ["a", "", "", "", "👍"]
