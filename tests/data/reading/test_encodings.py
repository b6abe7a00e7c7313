"""What bytes are told to be: chosen texts in each encoding, and every text that UTF-8 holds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforge.data.readers import read
from reinforge.data.reading.encodings import decode, recognise
from reinforge.errors import DataError


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        ("plain", "ascii", "utf-8"),
        ("café, größe, 温度", "utf-8", "utf-8"),
        ("café, größe, 温度", "utf-8-sig", "utf-8"),
        ("a,b\n1,温度\n", "utf-16", "utf-16"),
        ("a,b\n1,2\n", "utf-32", "utf-32"),
        ("商品很好，质量不错。", "gb18030", "gb18030"),
        ("id,city\n1,北京\n2,x\n", "gb18030", "gb18030"),
        ("繁體中文測試，價格便宜", "gb18030", "gb18030"),
        ("評論：很好；cost €5", "gb18030", "gb18030"),
        ("café", "latin-1", "latin-1"),
        ("größer, süßes Öl, Ärger, Straße", "latin-1", "latin-1"),
        ("el niño comió en España: señor, año", "latin-1", "latin-1"),
        ("être, français, œuvre à 5 €", "cp1252", "cp1252"),
        ("“quoted” – and long", "cp1252", "cp1252"),
    ],
)
def test_encodings_are_told(text: str, encoding: str, told: str, tmp_path: Path) -> None:
    raw = text.encode(encoding)
    assert recognise(raw) == told
    assert decode(raw, "x")[0] == text
    path = tmp_path / "t.txt"
    path.write_bytes(raw)
    table = read(path)
    assert bool(table.notes) == (told != "utf-8")
    assert table.columns["text"].to_list() == [line.strip() for line in text.splitlines()]
    if told != "utf-8":
        assert told in table.notes[0]
        assert not read(path, encoding=encoding).notes


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_utf8_is_never_mistaken(text: str) -> None:
    raw = text.encode()
    if raw.strip(b" \t\r\n\xef\xbb\xbf") and not raw.startswith((b"\xef\xbb\xbf",)):
        assert recognise(raw) == "utf-8"
        assert decode(raw, "x") == (text.removeprefix("\ufeff"), "utf-8")


COMMON = "的一是不了人我在有他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后，。！？"


@given(st.text(st.sampled_from(COMMON), min_size=1))
def test_common_chinese_is_told(text: str) -> None:
    raw = text.encode("gb18030")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        assert recognise(raw) == "gb18030"
    else:  # a few pairs of characters are UTF-8 as well; nothing but the reader can know
        assert len(set(text)) <= 3


@given(st.text(st.sampled_from("abcdefghij zéèàùâêîôûçäöüßñ,;.\n"), min_size=1))
def test_western_words_are_not_chinese(text: str) -> None:
    # An accented letter stands alone in its word, as it mostly does.
    words = " ".join(text).encode("latin-1")
    assert recognise(words) in ("utf-8", "latin-1")


@pytest.mark.parametrize(
    ("raw", "line"), [("é中\né中é".encode() + b"\xff", 2), (b"a\n\nb\0c", 3), ("a,b\n1".encode("utf-16-le"), 1)]
)
def test_what_is_no_text_is_refused(raw: bytes, line: int) -> None:
    assert recognise(raw) is None
    with pytest.raises(DataError, match="is not utf-8") as caught:
        decode(raw, "x.csv")
    assert caught.value.where == f"x.csv, line {line}"


def test_a_stated_encoding_overrules() -> None:
    raw = "北京".encode("gb18030")
    assert decode(raw, "x", "latin-1")[0] == raw.decode("latin-1")
    with pytest.raises(DataError, match="is not utf-8"):
        decode(raw, "x", "utf-8")


@pytest.mark.parametrize(
    ("name", "remedy"), [("utf9", "Did you mean 'utf-8'"), ("GB18O30", "'gb18030'"), ("x", "Usual")]
)
def test_an_encoding_that_there_is_none_of(name: str, remedy: str) -> None:
    with pytest.raises(DataError, match=f"no encoding '{name}'") as caught:
        decode(b"a,b\n1,2\n", "t.csv", name)
    assert remedy in str(caught.value)
