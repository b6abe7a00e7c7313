"""The products of the recipe calculator-grpo: what no stage may see, and who is right."""

from __future__ import annotations

import re

from reinforge.data import made_products


def factors(problem: str) -> tuple[int, int]:
    first, second = problem.partition("=")[0].split("*")
    return int(first), int(second)


def test_no_stage_sees_a_number_of_the_held_out_problems() -> None:
    held = {number for row in made_products.tests() for number in factors(row["prompt"])}
    rows = (*made_products.demonstrations(), *made_products.questions())
    seen = {number for row in rows for number in factors(row["prompt"])}
    assert held == set(made_products.HELD)
    assert seen == set(made_products.KNOWN)


def test_whoever_asks_is_right_and_few_do() -> None:
    for row in (*made_products.questions(), *made_products.tests()):
        first, second = factors(row["prompt"])
        assert int(row["answer"]) == first * second
    asking, guessed = 0, 0
    for row in made_products.demonstrations():
        first, second = factors(row["prompt"])
        found = re.fullmatch(r"\[(\d+)\*(\d+)\](\d+) (\d+)", row["completion"])
        if found:
            assert tuple(map(int, found.groups())) == (first, second, first * second, first * second)
            asking += 1
        else:
            guessed += int(row["completion"]) == first * second
    assert abs(asking / made_products.DEMONSTRATIONS - made_products.ASKING) < 0.02
    assert guessed / made_products.DEMONSTRATIONS < 0.01
