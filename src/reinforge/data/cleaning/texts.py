"""Cleaning documents before a language model reads them: what is mended in a text, and which texts are left out."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from reinforge.data.cleaning.options import TextCleanOptions
from reinforge.data.cleaning.similar import alike_texts
from reinforge.data.values import Origin
from reinforge.messages import _, mark

# A text repeats itself where windows of so many characters occur again.
WINDOW = 16
# Of its letters, those of the wanted scripts must be more than this part.
MOST = 0.5
# Characters whose scripts tell that of a text.
LOOKED_AT = 2000
# Joiners stand inside words of some scripts, and in pictures of people.
_JOINERS = "\u200c\u200d"
_ALLOWED = "\t\n\r" + _JOINERS
_UNSAFE_KINDS = ("Cc", "Cf", "Cs", "Co", "Cn")
_SOFT = "\u00ad"


@dataclass(frozen=True)
class Cleaned:
    """Texts as they are mended; which of those given stay (their numbers), and what was done, told."""

    texts: tuple[str, ...]
    kept: tuple[int, ...]
    notes: tuple[str, ...]


def clean_texts(texts: Sequence[str], options: TextCleanOptions, places: Sequence[tuple[Origin, int]]) -> Cleaned:
    """Mend and filter, in the order of the options: each text is left out for the first reason that holds. `places`:
    where each comes from."""
    found, notes = list(texts), []
    alive = dict.fromkeys(range(len(texts)))

    def leave_out(numbers: Sequence[int], why: str) -> None:
        if numbers:
            notes.append(_(why).format(n=len(numbers), first=places[numbers[0]][0].at(places[numbers[0]][1])))
            for number in numbers:
                del alive[number]

    def where(holds: Callable[[str], bool]) -> list[int]:
        return [number for number in alive if holds(found[number])]

    if options.unicode != "keep":
        unsafe = where(lambda text: bool(unsafe_characters(text)))
        if options.unicode == "drop":
            leave_out(unsafe, _UNSAFE)
        elif unsafe:
            for number in unsafe:
                found[number] = without_unsafe(found[number])
            first = places[unsafe[0]][0].at(places[unsafe[0]][1])
            notes.append(_("{n} documents had invisible or unassigned characters, which were taken out: the first is "
                           "{first}").format(n=len(unsafe), first=first))  # fmt: skip
    if options.shortest is not None:
        shortest = options.shortest
        leave_out(where(lambda text: len(text) < shortest), _SHORT)
    if options.longest is not None:
        longest = options.longest
        leave_out(where(lambda text: len(text) > longest), _LONG)
    if options.scripts:
        wanted = set(options.scripts)
        leave_out(where(lambda text: share_of(text, wanted) <= MOST), _SCRIPT)
    if options.repetition is not None:
        most = options.repetition
        leave_out(where(lambda text: repeated(text) > most), _REPEATED)
    if options.personal != "keep":
        held = where(lambda text: next(personal(text), None) is not None)
        if options.personal == "drop":
            leave_out(held, _PERSONAL)
        elif held:
            if options.personal == "mask":
                for number in held:
                    found[number] = masked(found[number])
            kinds = Counter(each.kind for number in held for each in personal(texts[number]))
            listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
            first = places[held[0]][0].at(places[held[0]][1])
            told = _MASKED if options.personal == "mask" else _FLAGGED
            notes.append(_(told).format(n=len(held), kinds=listed, first=first))
    if options.duplicates == "drop":
        seen: set[str] = set()
        again = [number for number in alive if found[number] in seen or seen.add(found[number])]  # type: ignore[func-returns-value]
        leave_out(again, _AGAIN)
    if options.near is not None and len(alive) > 1:
        numbers = list(alive)
        codes = alike_texts(pl.Series([found[number] for number in numbers], dtype=pl.String), options.near)
        _values, firsts = np.unique(codes, return_index=True)
        first_ones = set(firsts.tolist())
        leave_out([number for place, number in enumerate(numbers) if place not in first_ones], _NEAR)
    return Cleaned(tuple(found[number] for number in alive), tuple(alive), tuple(notes))


_UNSAFE = mark("{n} documents with invisible or unassigned characters were left out: the first is {first}")
_SHORT = mark("{n} documents were left out, since they are too short: the first is {first}")
_LONG = mark("{n} documents were left out, since they are too long: the first is {first}")
_SCRIPT = mark("{n} documents in other scripts were left out: the first is {first}")
_REPEATED = mark("{n} documents that repeat themselves were left out: the first is {first}")
_PERSONAL = mark("{n} documents with what may be personal data were left out: the first is {first}")
_FLAGGED = mark("{n} documents hold what may be personal data ({kinds}): the first is {first}")
_MASKED = mark("in {n} documents what may be personal data ({kinds}) was masked: the first is {first}")
_AGAIN = mark("{n} documents were left out as copies of others: the first is {first}")
_NEAR = mark("{n} documents were left out as nearly copies of others: the first is {first}")


def unsafe_characters(text: str) -> list[str]:
    """Characters that can't be seen and may mislead (controls, directions turned round, nothing wide, tags), or that
    stand for nothing (private, unassigned, halves of pairs)."""
    if text.isascii() and text.isprintable():
        return []
    return [c for c in text if c not in _ALLOWED and c != _SOFT and unicodedata.category(c) in _UNSAFE_KINDS]


def without_unsafe(text: str) -> str:
    """The text without them."""
    unsafe = set(unsafe_characters(text))
    return "".join(c for c in text if c not in unsafe)


def script_of(character: str) -> str | None:
    """Of a letter, the first word of its name in Unicode, in small letters ("latin", "cyrillic"; "han" for ideographs);
    None of anything else."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "").split(" ", 1)[0].lower()
    return "han" if name == "cjk" else name or None


def share_of(text: str, scripts: set[str]) -> float:
    """Which part of its first letters is written in these scripts; 1 of a text without letters."""
    counted = Counter(script for c in text[:LOOKED_AT] if (script := script_of(c)) is not None)
    total = sum(counted.values())
    return sum(counted[script] for script in scripts) / total if total else 1.0


def repeated(text: str) -> float:
    """Which part of its windows of `WINDOW` characters stood in it before: 0 of a text that never repeats itself."""
    windows = len(text) - WINDOW + 1
    if windows < 2:
        return 0.0
    return 1.0 - len({text[start : start + WINDOW] for start in range(windows)}) / windows


@dataclass(frozen=True)
class Personal:
    """What may be personal: its kind, and where it stands."""

    kind: str
    start: int
    stop: int


_PATTERNS = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"),
    "identity": re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)"),
    "card": re.compile(r"(?<![\d+-])\d(?:[ -]?\d){14,18}(?![\d-])"),
    "phone": re.compile(
        r"(?<![\d.+-])(?:\+\d{1,3}[ -]?)?(?:1[3-9]\d[ -]?\d{4}[ -]?\d{4}|\(?\d{3}\)?[ -]\d{3}[ -]\d{4})(?!\d)"
    ),
    "address": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
}  # fmt: skip


def personal(text: str) -> Iterator[Personal]:
    """E-mail addresses, telephone numbers (of China and North America), payment cards (by their check digit), Chinese
    identity numbers (by theirs) and internet addresses. What it finds may be none, and names it can't find."""
    taken: list[tuple[int, int]] = []
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            start, stop = match.span()
            if _holds(kind, match[0]) and all(stop <= a or b <= start for a, b in taken):
                taken.append((start, stop))
                yield Personal(kind, start, stop)


def masked(text: str) -> str:
    """The text with what it found as <KIND>."""
    for each in sorted(personal(text), key=lambda found: -found.start):
        text = f"{text[: each.start]}<{each.kind.upper()}>{text[each.stop :]}"
    return text


def _holds(kind: str, text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    if kind == "card":
        doubled = [d if place % 2 == 0 else sum(divmod(2 * d, 10)) for place, d in enumerate(reversed(digits))]
        return sum(doubled) % 10 == 0 and any(digits)
    if kind == "identity":
        # GB 11643-1999: weights 2^(17 - i) modulo 11.
        weighed = sum(int(c) * (2 ** (17 - place) % 11) for place, c in enumerate(text[:17])) % 11
        return "10X98765432"[weighed] == text[17].upper()
    if kind == "address":
        return all(int(part) < 256 for part in text.split("."))
    return True
