"""Which encoding a text is in, told from its bytes by one stated rule."""

from __future__ import annotations

import codecs
import difflib
import re
from collections import Counter

from reinforge.data.values import placed
from reinforge.errors import DataError
from reinforge.messages import _

AUTO = "auto"
USUAL = (AUTO, "utf-8", "utf-16", "gb18030", "big5", "shift_jis", "latin-1", "cp1252")
# The longer marks first: UTF-32's begins like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Runs of bytes beyond ASCII, which is where encodings differ.
_HIGH = re.compile(rb"[\x80-\xff]+")
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# Chinese punctuation and full-width forms (rows A1 to A3 of GB 2312), and its common characters (B0 to D7).
_COMMON_CHINESE = re.compile(rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]")


def decode(raw: bytes, name: str, encoding: str = AUTO) -> tuple[str, str]:
    """The text without byte order mark, and the encoding it was in. `auto` takes what `recognise` tells.

    Raises DataError for an empty file, an unknown encoding, or the line of the first byte that doesn't fit.
    """
    if not raw.strip(b" \t\r\n\xef\xbb\xbf"):
        raise DataError(_("the file is empty"), where=name, remedy=_("It needs a header and at least one row."))
    chosen = _told(raw, name) if encoding == AUTO else encoding
    try:
        text = raw.decode(chosen)
    except UnicodeDecodeError as error:
        raise _misfit(raw, name, chosen, error.start) from error
    except LookupError as error:
        near = difflib.get_close_matches(encoding.lower(), USUAL, 1)
        remedy = _("Did you mean {name!r}?").format(name=near[0]) if near else None
        raise DataError(
            _("there is no encoding {encoding!r}").format(encoding=encoding),
            where=name,
            remedy=remedy or _("Usual ones: {names}; or any that Python knows.").format(names=", ".join(USUAL)),
        ) from error
    return text.removeprefix("\ufeff"), chosen


def recognise(raw: bytes) -> str | None:
    """The encoding of these bytes; None where they are none that is recognised.

    In this order: what a byte order mark says (UTF-8, UTF-16, UTF-32); nothing where zero bytes stand in it; UTF-8
    where all of it is; GB18030 where all of it is, and at least half of its characters beyond ASCII are common Chinese
    ones of GB 2312; nothing where most of what is beyond ASCII is UTF-8 (a damaged file); Windows-1252 where bytes 80
    to 9F stand in it and mean something there; else Latin-1.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return encoding
    if b"\0" in raw:
        return None
    if _decodes(raw, "utf-8"):
        return "utf-8"
    if _decodes(raw, "gb18030") and _chinese(raw.decode("gb18030")):
        return "gb18030"
    high = b"\n".join(_HIGH.findall(raw))
    if 2 * sum(map(len, _UTF8.findall(high))) > len(high):
        return None
    if re.search(rb"[\x80-\x9f]", high) and _decodes(raw, "cp1252"):
        return "cp1252"
    return "latin-1"


def noted(name: str, encoding: str, asked: str) -> tuple[str, ...]:
    """What to tell of a recognised encoding: nothing for UTF-8, or where the recipe named it."""
    if asked != AUTO or encoding == "utf-8":
        return ()
    text = _("{name} is read as {encoding}, told from its bytes; `encoding` in the recipe overrules it")
    return (text.format(name=name, encoding=encoding),)


def _chinese(text: str) -> bool:
    counts = Counter(text)
    beyond = {character: count for character, count in counts.items() if character > "\x7f"}
    common = sum(n for character, n in beyond.items() if _COMMON_CHINESE.fullmatch(character.encode("gb18030")))
    return 2 * common >= sum(beyond.values())


def _told(raw: bytes, name: str) -> str:
    found = recognise(raw)
    if found is not None:
        return found
    place = raw.find(b"\0")
    if place < 0:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            place = error.start
    raise _misfit(raw, name, "utf-8", place)


def _misfit(raw: bytes, name: str, encoding: str, place: int) -> DataError:
    line = raw.count(b"\n", 0, place) + 1
    return DataError(
        _("byte {byte:#04x} is not {encoding}").format(byte=raw[place], encoding=encoding),
        where=f"{name}, {placed('line', line)}",
        remedy=_("Save the file as UTF-8, or name its encoding in the recipe, for example {example}.").format(
            example="`encoding: latin-1`"
        ),
    )


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
