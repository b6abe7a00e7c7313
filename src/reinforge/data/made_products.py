"""Products, drawn here and always the same: demonstrations and questions for a model that learns when to use a tool.

Some demonstrations ask the calculator first, most guess: who imitates guesses, and asks now and then; rewards find out
that asking pays. No factor of the held-out problems stands in a problem of any stage.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
NUMBERS = range(11, 100)
HELD = tuple(number for number in NUMBERS if number % 7 == 5)
KNOWN = tuple(number for number in NUMBERS if number % 7 != 5)
DEMONSTRATIONS, QUESTIONS, TESTS = 12_000, 2_000, 300
# Of the demonstrations.
ASKING = 0.2


def demonstrations() -> list[Row]:
    """Problems with answers: "[47*38]1786 1786" where the calculator is asked, else a guess from 1000 to 1999."""
    draw = random.Random(20261205)
    rows: list[Row] = []
    for _number in range(DEMONSTRATIONS):
        first, second = draw.choice(KNOWN), draw.choice(KNOWN)
        product = first * second
        guess = str(draw.randint(1000, 1999))
        asked = f"[{first}*{second}]{product} {product}"
        rows.append({"prompt": f"{first}*{second}=", "completion": asked if draw.random() < ASKING else guess})
    return rows


def questions() -> list[Row]:
    """Problems with what is right."""
    return _questions(random.Random(20261206), KNOWN, QUESTIONS)


def tests() -> list[Row]:
    """The same, of held-out numbers alone."""
    return _questions(random.Random(20261207), HELD, TESTS)


def _questions(draw: random.Random, numbers: tuple[int, ...], count: int) -> list[Row]:
    pairs = [(draw.choice(numbers), draw.choice(numbers)) for _number in range(count)]
    return [{"prompt": f"{first}*{second}=", "answer": str(first * second)} for first, second in pairs]
