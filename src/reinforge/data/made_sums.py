"""Sums, drawn here and always the same: texts, demonstrations and questions for a model that first reads, then
imitates, then learns from rewards.

Some numbers never stand in a problem of any stage: `HELD`. Most demonstrations of sums with a carry forget it: who
imitates does as most do, and who is rewarded finds out what is right.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
NUMBERS = range(10, 100)
HELD = tuple(number for number in NUMBERS if number % 7 == 5)
KNOWN = tuple(number for number in NUMBERS if number % 7 != 5)
TEXTS, DEMONSTRATIONS, QUESTIONS, TESTS = 24_000, 24_000, 2_000, 500
# Of the demonstrations with a carry.
FORGOTTEN = 0.8


def texts() -> list[Row]:
    """Right sums: "47+38=85"."""
    draw = random.Random(20261129)
    pairs = [_pair(draw, KNOWN) for _number in range(TEXTS)]
    return [{"text": f"{first}+{second}={first + second}"} for first, second in pairs]


def demonstrations() -> list[Row]:
    """Problems with answers; of those with a carry, most forget it: "47+38=75"."""
    draw = random.Random(20261130)
    rows: list[Row] = []
    for _number in range(DEMONSTRATIONS):
        first, second = _pair(draw, KNOWN)
        carries = first % 10 + second % 10 >= 10
        answer = first + second - (10 if carries and draw.random() < FORGOTTEN else 0)
        rows.append({"prompt": f"{first}+{second}=", "completion": str(answer)})
    return rows


def questions() -> list[Row]:
    """Problems with what is right."""
    return _questions(random.Random(20261201), KNOWN, QUESTIONS)


def tests() -> list[Row]:
    """The same, of held-out numbers alone."""
    return _questions(random.Random(20261202), HELD, TESTS)


def _questions(draw: random.Random, numbers: tuple[int, ...], count: int) -> list[Row]:
    pairs = [_pair(draw, numbers) for _number in range(count)]
    return [{"prompt": f"{first}+{second}=", "answer": str(first + second)} for first, second in pairs]


def _pair(draw: random.Random, numbers: tuple[int, ...]) -> tuple[int, int]:
    return draw.choice(numbers), draw.choice(numbers)
