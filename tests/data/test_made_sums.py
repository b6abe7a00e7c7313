"""The sums of the recipe arithmetic-grpo: what no stage may see, and how much imitation can be right at most."""

from __future__ import annotations

from reinforge.data import made_sums


def operands(problem: str) -> tuple[int, int]:
    first, second = problem.partition("=")[0].split("+")
    return int(first), int(second)


def test_no_stage_sees_a_number_of_the_held_out_problems() -> None:
    held = {number for row in made_sums.tests() for number in operands(row["prompt"])}
    seen = {number for row in made_sums.texts() for number in operands(row["text"])}
    for rows in (made_sums.demonstrations(), made_sums.questions()):
        seen |= {number for row in rows for number in operands(row["prompt"])}
    assert held == set(made_sums.HELD)
    assert seen == set(made_sums.KNOWN)
    assert not held & seen


def test_answers_are_right_but_for_the_carry_that_most_demonstrations_forget() -> None:
    for row in (*made_sums.questions(), *made_sums.tests()):
        assert int(row["answer"]) == sum(operands(row["prompt"]))
    for row in made_sums.texts():
        assert int(row["text"].partition("=")[2]) == sum(operands(row["text"]))
    off: dict[bool, list[int]] = {True: [], False: []}
    for row in made_sums.demonstrations():
        first, second = operands(row["prompt"])
        off[first % 10 + second % 10 >= 10].append(first + second - int(row["completion"]))
    assert set(off[False]) == {0}
    assert set(off[True]) == {0, 10}
    assert abs(off[True].count(10) / len(off[True]) - made_sums.FORGOTTEN) < 0.03


def test_who_answers_as_most_do_is_right_on_at_most_60_percent() -> None:
    carries = [sum(number % 10 for number in operands(row["prompt"])) >= 10 for row in made_sums.tests()]
    assert made_sums.FORGOTTEN > 0.5
    assert 1 - sum(carries) / len(carries) < 0.6
