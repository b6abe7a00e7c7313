"""Small talk, drawn here and always the same: what the recipe zero-to-chat reads, imitates and is asked: sums, and a
few plain facts.

Some pairs of numbers are added up in no stage: half of them in what weights are chosen by (`held_texts`,
`held_chats`), the others in what it is examined in (`tests`). Most demonstrations of sums with a carry forget it:
rewards find out what is right.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

Row = Mapping[str, Any]
READ, CHATS, QUESTIONS, TESTS = 32_000, 16_000, 2_000, 400
# Of texts.
SUMS_READ = 0.8
# Of the demonstrations.
SUMS_ASKED = 0.7
# Of the numbers of texts, those of one digit: who adds these learns to add longer ones sooner.
SHORT = 0.3
# Of the demonstrations with a carry.
FORGOTTEN = 0.7
PAIRS = tuple(combinations_with_replacement(range(10, 100), 2))
# An eighth of them, in either order.
HELD = frozenset({(47, 68), *random.Random(20261202).sample(PAIRS, len(PAIRS) // 8)})
# Half of these weights are chosen by; the model is examined in the others.
CHOSEN_BY = frozenset(random.Random(20261207).sample(sorted(HELD - {(47, 68)}), len(HELD) // 2))
EXAMINED = HELD - CHOSEN_BY
KNOWN = tuple(pair for pair in PAIRS if pair not in HELD)
ASKED = ("What is {p}?", "How much is {p}?")

# How a fact is told and how it is asked; the first of each pair is asked about, the second is the answer.
FACTS: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    (
        "the opposite of {a} is {b}", ("What is the opposite of {a}?", "Name the opposite of {a}."),
        (
            ("hot", "cold"), ("big", "small"), ("long", "short"), ("light", "dark"), ("open", "closed"),
            ("early", "late"), ("wet", "dry"), ("full", "empty"),
        ),
    ),
    (
        "the capital of {a} is {b}", ("What is the capital of {a}?", "Name the capital of {a}."),
        (
            ("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome"), ("China", "Beijing"), ("Egypt", "Cairo"),
            ("Spain", "Madrid"), ("Cuba", "Havana"), ("Peru", "Lima"),
        ),
    ),
    (
        "the day after {a} is {b}", ("Which day comes after {a}?",),
        (("Monday", "Tuesday"), ("Wednesday", "Thursday"), ("Friday", "Saturday")),
    ),
    # The roles of a chat: their names are pieces of the tokenizer's by the time that chats come.
    ("{a}: one who {b}", ("What does the {a} do?",), (("user", "asks"), ("assistant", "answers"))),
)  # fmt: skip


def texts() -> list[Row]:
    """Right sums, "7+8=15" and "47+38=85", and facts, "the opposite of hot is cold"."""
    draw = random.Random(20261203)
    rows: list[Row] = []
    for _number in range(READ):
        if draw.random() < SUMS_READ:
            first, second = _pair(draw, KNOWN)
            if draw.random() < SHORT:
                second = draw.randrange(10)
            if draw.random() < SHORT:
                first = draw.randrange(10)
            rows.append({"text": f"{first}+{second}={first + second}"})
        else:
            told, _ways, pairs = draw.choice(FACTS)
            first_word, second_word = draw.choice(pairs)
            rows.append({"text": told.format(a=first_word, b=second_word)})
    return rows


def demonstrations() -> list[Row]:
    """Questions with answers; of sums with a carry, most forget it."""
    draw = random.Random(20261204)
    rows: list[Row] = []
    for _number in range(CHATS):
        if draw.random() < SUMS_ASKED:
            first, second = _pair(draw, KNOWN)
            forgets = first % 10 + second % 10 >= 10 and draw.random() < FORGOTTEN
            rows.append(_sum(draw.choice(ASKED), first, second, "completion", 10 * forgets))
        else:
            rows.append(_fact(draw))
    return rows


def questions() -> list[Row]:
    """Sums with what is right."""
    draw = random.Random(20261205)
    pairs = [_pair(draw, KNOWN) for _number in range(QUESTIONS)]
    return [_sum(draw.choice(ASKED), *pair, "answer") for pair in pairs]


def tests() -> list[Row]:
    """Questions of held-out sums, each another one, with what is right."""
    return [_sum(*each, "answer") for each in _held(EXAMINED)]


def held_texts() -> list[Row]:
    """Held-out sums that it isn't examined in, as texts."""
    return [{"text": f"{first}+{second}={first + second}"} for _asked, first, second in _held(CHOSEN_BY)]


def held_chats() -> list[Row]:
    """The same as chats."""
    return [_sum(*each, "completion") for each in _held(CHOSEN_BY)]


def _held(pairs: frozenset[tuple[int, int]]) -> list[tuple[str, int, int]]:
    draw = random.Random(20261206)
    ordered = sorted({each for first, second in pairs for each in ((first, second), (second, first))})
    return [(draw.choice(ASKED), *each) for each in draw.sample(ordered, TESTS)]


def _sum(asked: str, first: int, second: int, key: str, off: int = 0) -> Row:
    problem = f"{first}+{second}"
    return {"prompt": asked.format(p=problem), key: f"{problem}={first + second - off}"}


def _fact(draw: random.Random) -> Row:
    _told, ways, pairs = draw.choice(FACTS)
    asked, answer = draw.choice(pairs)
    return {"prompt": draw.choice(ways).format(a=asked), "completion": answer}


def _pair(draw: random.Random, pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """In either order."""
    first, second = draw.choice(pairs)
    return (first, second) if draw.random() < 0.5 else (second, first)
