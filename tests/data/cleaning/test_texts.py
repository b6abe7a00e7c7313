"""Cleaning of documents: each filter alone, what is told, and that it comes before the split."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data.cleaning.options import TextCleanOptions
from reinforge.data.cleaning.texts import (
    clean_texts,
    masked,
    personal,
    repeated,
    share_of,
    unsafe_characters,
    without_unsafe,
)
from reinforge.data.language_data import prepare_documents
from reinforge.data.language_options import DocumentsOptions
from reinforge.data.options import CharacterOptions
from reinforge.data.values import Origin
from reinforge.errors import DataError

NOTHING: dict[str, Any] = {"unicode": "keep", "personal": "keep", "duplicates": "keep"}


def cleaned(texts: list[str], **options: Any) -> tuple[list[str], tuple[str, ...]]:
    places = [(Origin("texts.jsonl", "line"), number) for number in range(len(texts))]
    found = clean_texts(texts, TextCleanOptions(**{**NOTHING, **options}), places)
    assert len(found.texts) == len(found.kept)
    return list(found.texts), found.notes


def test_nothing_asked_for_nothing_done() -> None:
    texts = ["a", "a", "b\u202e", "me@example.org", ""]
    assert cleaned(texts) == (texts, ())


def test_characters_that_mislead_are_taken_out_and_those_of_writing_stay() -> None:
    assert unsafe_characters("a\u202eb\u200bc\x00d\ufeff\U000e0041\ue000") == list(
        "\u202e\u200b\x00\ufeff\U000e0041\ue000"
    )
    fine = "第一行\n\tمی\u200cخواهم 👨\u200d👩\u200d👧 naïve co\u00adoperate"
    assert unsafe_characters(fine) == []
    assert without_unsafe("pass\u202eword") == "password"
    texts, notes = cleaned(["good", "b\u200bad"], unicode="mend")
    assert texts == ["good", "bad"]
    assert "1 documents had invisible or unassigned characters" in notes[0]
    assert "line 1" in notes[0]
    assert cleaned(["good", "b\u200bad"], unicode="drop")[0] == ["good"]


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_mended_texts_are_safe_and_mended_once(text: str) -> None:
    once = without_unsafe(text)
    assert not unsafe_characters(once)
    assert without_unsafe(once) == once


def test_lengths_and_scripts() -> None:
    texts = ["短", "春眠不觉晓，处处闻啼鸟", "the quick brown fox", "съешь ещё этих булок", "123, 456"]
    assert cleaned(texts, shortest=2)[0] == texts[1:]
    assert cleaned(texts, longest=11)[0] == [texts[0], texts[1], texts[4]]
    assert cleaned(texts, scripts=("han", "latin"))[0] == [texts[0], texts[1], texts[2], texts[4]]
    assert share_of("abc 春", {"latin"}) == pytest.approx(3 / 4)
    assert share_of("123", {"latin"}) == 1.0


def test_repetition_is_the_part_of_windows_that_stood_before() -> None:
    assert repeated("no window is said twice in this sentence") == 0.0
    assert repeated("short") == 0.0
    line = "buy cheap watches now! "
    text = line * 10
    # Every window but those of the first line has an equal one before it.
    assert repeated(text) == pytest.approx(1 - len(line) / (len(text) - 15))
    assert cleaned(["a text like any other, of some length", text], repetition=0.5)[0] == [
        "a text like any other, of some length"
    ]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to me.too+x@mail.example.org today", ["email"]),
        ("call 13812345678 or +86 138 1234 5678", ["phone", "phone"]),
        ("(212) 555-0123", ["phone"]),
        ("card 4111 1111 1111 1111", ["card"]),
        ("no card 4111 1111 1111 1112", []),
        ("id 11010519491231002X", ["identity"]),
        ("id 110105194912310021", []),
        ("from 192.168.0.1", ["address"]),
        ("version 1.2.3.400", []),
        ("in 2026 there were 1,234,567 of 12345678901234567890", []),
    ],
)
def test_what_may_be_personal(text: str, kinds: list[str]) -> None:
    assert sorted(each.kind for each in personal(text)) == kinds
    for each in personal(text):
        assert f"<{each.kind.upper()}>" in masked(text)
    assert not list(personal(masked(text)))


def test_personal_data_are_flagged_masked_or_left_out() -> None:
    texts = ["nothing", "a@b.org and c@d.org", "13812345678"]
    kept, notes = cleaned(texts, personal="flag")
    assert kept == texts
    assert notes == ("2 documents hold what may be personal data (email 2, phone 1): the first is texts.jsonl, line 1",)
    assert cleaned(texts, personal="mask")[0] == ["nothing", "<EMAIL> and <EMAIL>", "<PHONE>"]
    assert cleaned(texts, personal="drop")[0] == ["nothing"]


def test_copies_and_near_copies_leave_the_first() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=5)) for _number in range(200)]
    one = " ".join(draw.choices(words, k=60))
    near, other = one.replace(words[0], "zzzzz", 1)[:-3], " ".join(draw.choices(words, k=60))
    texts = [one, other, one, near]
    assert cleaned(texts, duplicates="drop")[0] == [one, other, near]
    kept, notes = cleaned(texts, duplicates="drop", near=0.8)
    assert kept == [one, other]
    assert [note.split(" documents")[0] for note in notes] == ["1", "1"]
    # Jaccard by hand, of what was taken for near and of what was not.
    pieces = [{text[i : i + 4] for i in range(len(text) - 3)} for text in (one, near, other)]
    assert len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1]) >= 0.8
    assert len(pieces[0] & pieces[2]) / len(pieces[0] | pieces[2]) < 0.8


def test_documents_are_cleaned_before_they_are_split() -> None:
    rows = [{"text": f"document {number} of many"} for number in range(20)]
    rows += [{"text": "document 3 of many"}, {"text": "write to a@b.org"}]
    options = DocumentsOptions(tokenizer=CharacterOptions(), validation=0.2, clean=TextCleanOptions(personal="mask"))
    data = prepare_documents(options, data=rows)
    assert len(data.training) + len(data.validation) == 21
    assert any("copies of others" in note for note in data.notes)
    assert any("masked" in note for note in data.notes)
    decode = data.pipeline.tokenizer.decode
    texts = [decode(part.tokens.row(n)) for part in (data.training, data.validation) for n in range(len(part))]
    assert any("<EMAIL>" in text for text in texts)
    assert len(set(texts)) == 21
    with pytest.raises(DataError, match=r"(?s)too little for a part.*Clean less"):
        prepare_documents(options.model_copy(update={"clean": TextCleanOptions(shortest=1000)}), data=rows)
