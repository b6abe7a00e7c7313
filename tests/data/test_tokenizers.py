"""Tokenizers: there and back, against scikit-learn and brute force, stored, and refused."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from reinforge.data.options import BytePairOptions, CharacterOptions, WordOptions
from reinforge.data.text import STORED
from reinforge.data.tokenizers import BytePairTokenizer, split
from reinforge.errors import DataError, IntegrityError
from reinforge.registry import REGISTRY

TEXTS = [
    "The cat sat on the mat.",
    "the dog's bed; the CAT'S mat, and the cat",
    "酒店很好，早餐也很好！ very good",
    "a_b 12 12.5 naïve ΣΑΣ",
]
CHARACTERS = BytePairOptions(size=300, least=1, alphabet="characters")
DIGITS = BytePairOptions(size=300, digits="single")
KINDS = [CharacterOptions(), WordOptions(least=1), BytePairOptions(size=300), CHARACTERS, DIGITS]


def name_of(options):
    return {id(CHARACTERS): "byte-pair-characters", id(DIGITS): "byte-pair-digits"}.get(id(options), options.kind)


@pytest.fixture(params=KINDS, ids=lambda options: name_of(options))
def tokenizer(request):
    return REGISTRY.build("tokenizer", request.param, TEXTS)


def test_words_against_scikit_learn():
    """Where words are letters between spaces, both count the same."""
    texts = ["the cat sat on the mat", "the dog sat", "a cat"]
    vectorizer = CountVectorizer(token_pattern=r"\S+")
    expected = vectorizer.fit_transform(texts).toarray()
    tokenizer = REGISTRY.build("tokenizer", WordOptions(least=1), texts)
    assert set(tokenizer.words) == set(vectorizer.get_feature_names_out())
    order = [tokenizer.words.index(word) + 1 for word in vectorizer.get_feature_names_out()]
    for text, row in zip(texts, expected):
        assert np.array_equal(np.bincount(tokenizer.encode(text), minlength=tokenizer.size)[order], row)


def test_what_a_word_is():
    assert split("The dog's 早餐 isn’t_12.5!", True) == ["the", "dog's", "早", "餐", "isn’t", "_", "12", ".", "5", "!"]
    assert split("ABC好", False) == ["ABC", "好"]


def test_frequent_words_come_first_and_rare_ones_are_unknown():
    tokenizer = REGISTRY.build("tokenizer", WordOptions(size=3), ["b b a a a c c d", "d e"])
    assert tokenizer.words == ("a", "b")
    assert tokenizer.encode("A b c e").tolist() == [1, 2, 0, 0]


def test_pairs_against_brute_force():
    """The first merges are the most frequent pairs, counted anew after each."""
    texts = ["low low low lower lower newest newest newest newest widest"]
    tokenizer = REGISTRY.build("tokenizer", BytePairOptions(size=257 + 6, least=1), texts)
    words = Counter(["low", "Ġlow", "Ġlow", "Ġlower", "Ġlower", *["Ġnewest"] * 4, "Ġwidest"])
    pieces = {word: list(word) for word in words}
    for first, second in tokenizer.merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(pieces[word], pieces[word][1:]):
                pairs[pair] += count
        assert pairs[first, second] == max(pairs.values())
        for word in words:
            merged, rest = [], pieces[word]
            while rest:
                hit = tuple(rest[:2]) == (first, second)
                merged.append("".join(rest[: 1 + hit]))
                rest = rest[1 + hit :]
            pieces[word] = merged


@given(st.text(max_size=40) | st.text(st.sampled_from("a 12\u0663\u00bd+\n"), max_size=20))
@settings(max_examples=80, deadline=None)
def test_byte_pairs_give_every_text_back(text):
    for tokenizer in (PIECES, BUILT["byte-pair-digits"]):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert 0 not in ids


@pytest.mark.parametrize("alphabet", ["bytes", "characters"])
def test_single_digits_are_pieces_of_their_own(alphabet):
    texts = ["made of 12 and 1212+12=1224, x12y", "34 and 7 made of 12", "12"] * 9
    options = BytePairOptions(size=330, alphabet=alphabet)
    together = REGISTRY.build("tokenizer", options, texts)
    assert any("12" in piece for piece in together.vocabulary)
    single = REGISTRY.build("tokenizer", options.model_copy(update={"digits": "single"}), texts)
    found = [single.vocabulary[place] for place in single.encode("made of 12 and 1212+12=1224, x12y")]
    assert [piece for piece in found if any(sign.isdigit() for sign in piece)] == list("12121212122412")
    assert all(piece.isdigit() or not any(sign.isdigit() for sign in piece) for piece in single.vocabulary)
    assert any("made" in piece for piece in single.vocabulary)
    for text in ("12 of 3", "7", "12 34=1"):
        ids = single.encode(text)
        pieces = [single.vocabulary[place] for place in ids]
        assert [piece for piece in pieces if any(sign.isdigit() for sign in piece)] == [c for c in text if c.isdigit()]
        assert single.decode(ids) == text


PIECES = REGISTRY.build("tokenizer", KINDS[2], TEXTS)


@given(st.text(st.sampled_from("abc tT'’ .,_12é好早\n😀ß"), max_size=30))
@settings(max_examples=60, deadline=None)
def test_offsets_say_where_tokens_stand(text):
    for options in KINDS:
        tokenizer = BUILT[name_of(options)]
        places, ids = tokenizer.offsets(text).tolist(), tokenizer.encode(text)
        assert len(places) == len(ids)
        assert all(0 <= start <= end <= len(text) for start, end in places)
        assert places == sorted(places)
        read = {place for start, end in places for place in range(start, end)}
        assert all(place in read or character.isspace() for place, character in enumerate(text))


BUILT = {name_of(options): REGISTRY.build("tokenizer", options, TEXTS) for options in KINDS}


def test_stored_and_loaded_is_the_same(tokenizer):
    stored = json.loads(json.dumps(tokenizer.to_json()))
    loaded = STORED[stored["kind"]](stored)
    assert loaded.to_json() == tokenizer.to_json()
    for text in (*TEXTS, "unseen words", ""):
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert 0 <= min(tokenizer.encode(text).tolist(), default=0) < tokenizer.size
    with pytest.raises(DataError, match="ids must lie"):
        tokenizer.decode([tokenizer.size])


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_training_again_gives_the_same(options):
    assert REGISTRY.build("tokenizer", options, TEXTS).to_json() == BUILT[name_of(options)].to_json()


def test_pairs_of_characters_against_brute_force():
    """They span signs, and spaces only where a word begins; what was never seen is one unknown token."""
    texts = ["好，很好 好，很好 ab", "好，很坏"]
    tokenizer = REGISTRY.build("tokenizer", BytePairOptions(size=257, least=2, alphabet="characters"), texts)
    known = set("\u2581好，很坏ab")
    assert set(tokenizer.vocabulary) >= known | {"\ufffd"}
    assert any("好，很" in piece for piece in tokenizer.vocabulary)
    words = Counter({"\u2581好，很好": 2, "\u2581ab": 1, "\u2581好，很坏": 1})
    pieces = {word: list(word) for word in words}
    for first, second in tokenizer.merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(pieces[word], pieces[word][1:]):
                pairs[pair] += count
        assert pairs[first, second] == max(pairs.values()) >= 2
        for word in words:
            place = 0
            while place < len(pieces[word]) - 1:
                if tuple(pieces[word][place : place + 2]) == (first, second):
                    pieces[word][place : place + 2] = [first + second]
                place += 1
    assert [tokenizer.vocabulary[i] for i in tokenizer.encode("好，很坏")] == pieces["\u2581好，很坏"]
    assert tokenizer.encode("xyz").tolist()[1:] == [0]


@given(st.text(st.sampled_from("".join(sorted(set("".join(TEXTS)) - set(" \n")))), max_size=30))
@settings(max_examples=60, deadline=None)
def test_known_characters_come_back(text):
    tokenizer = BUILT["byte-pair-characters"]
    spaced = f"{text} {text}".strip()
    assert tokenizer.decode(tokenizer.encode(spaced)) == spaced
    assert tokenizer.decode(tokenizer.encode(spaced + "\N{SNOWMAN}")) == spaced + "\N{REPLACEMENT CHARACTER}"


def test_only_the_most_frequent_characters_have_room():
    texts = ["".join(chr(0x4E00 + place) for place in range(400)), "一" * 9 + "好好"]
    tokenizer = REGISTRY.build("tokenizer", BytePairOptions(size=257, alphabet="characters"), texts)
    assert tokenizer.size == 257
    assert 0 not in tokenizer.encode("一好")
    assert 0 in tokenizer.encode(texts[0])


def test_half_a_surrogate_pair_is_read():
    assert len(PIECES.encode("a\ud83d")) == len(PIECES.offsets("a\ud83d"))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("word", {"version": 2}),
        ("word", {"words": ["a", "a"]}),
        ("word", {"words": [1]}),
        ("word", {"lower": 1}),
        ("word", {"more": 1}),
        ("byte-pair", {"version": 2}),
        ("byte-pair", {"vocabulary": []}),
        ("byte-pair", {"vocabulary": ["a", "a"]}),
        ("byte-pair", {"merges": [["a"]]}),
        ("byte-pair", {"merges": [["none of", "them"]]}),
        ("byte-pair", {"merges": "ab"}),
        ("byte-pair", {"alphabet": "letters"}),
        ("byte-pair", {"digits": "double"}),
    ],
)
def test_altered_tokenizers_are_refused(kind, change):
    with pytest.raises(IntegrityError):
        STORED[kind](BUILT[kind].to_json() | change)


def test_pieces_are_not_special_words():
    assert isinstance(PIECES, BytePairTokenizer)
    assert 0 not in PIECES.encode("<empty>")
