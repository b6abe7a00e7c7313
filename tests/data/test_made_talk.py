"""The talk of the recipe zero-to-chat: what no stage may learn, and how much imitation can be right at most."""

from __future__ import annotations

import re

from reinforge import recipe as recipes
from reinforge.data import made_talk
from reinforge.data.made_rows import made_rows
from reinforge.data.tokenizers import fit_byte_pairs

SUM = re.compile(r"(\d+)\+(\d+)(?:=(\d+))?")
LEARNED = (made_talk.texts, made_talk.demonstrations, made_talk.questions)
CHOSEN_BY = (made_talk.held_texts, made_talk.held_chats)
HELD = (*CHOSEN_BY, made_talk.tests)


def sums(row: dict[str, str]) -> list[tuple[int, ...]]:
    """(first, second[, result]) of each sum in a row."""
    return [tuple(int(part) for part in found if part) for text in row.values() for found in SUM.findall(text)]


def test_no_stage_learns_a_sum_that_it_is_examined_in_or_that_weights_are_chosen_by() -> None:
    """In neither order; its numbers it has seen. Weights are chosen by others than it is examined in."""
    learned, chosen_by, examined = (
        {tuple(sorted(found[:2])) for rows in some for row in rows() for found in sums(row)}
        for some in (LEARNED, CHOSEN_BY, (made_talk.tests,))
    )
    assert not learned & (chosen_by | examined)
    assert not chosen_by & examined
    assert chosen_by | examined <= made_talk.HELD
    for held in (chosen_by, examined):
        assert len(held) > 200
        assert {number for pair in held for number in pair} <= {number for pair in learned for number in pair}
    # The question that the road ends with.
    assert (47, 68) in made_talk.EXAMINED
    assert len({sums(row)[0][:2] for row in made_talk.tests()}) == made_talk.TESTS


def test_answers_are_right_but_for_the_carry_that_most_demonstrations_forget() -> None:
    for rows in (made_talk.texts, made_talk.questions, *HELD):
        for row in rows():
            assert all(found[2] == found[0] + found[1] for found in sums(row) if len(found) == 3)
    off: dict[bool, list[int]] = {True: [], False: []}
    for row in made_talk.demonstrations():
        for found in sums({"completion": row["completion"]}):
            off[found[0] % 10 + found[1] % 10 >= 10].append(found[0] + found[1] - found[2])
    assert set(off[False]) == {0}
    assert set(off[True]) == {0, 10}
    assert abs(off[True].count(10) / len(off[True]) - made_talk.FORGOTTEN) < 0.03


def test_facts_have_one_answer_each_wherever_they_are_told() -> None:
    answers: dict[str, set[str]] = {}
    for row in made_talk.demonstrations():
        if not sums(row):
            answers.setdefault(row["prompt"], set()).add(row["completion"])
    assert all(len(found) == 1 for found in answers.values())
    told = {row["text"] for row in made_talk.texts() if not sums(row)}
    assert all(any(text.endswith(f" {answer}") for text in told) for (answer,) in answers.values())
    assert made_rows("talk-asked") == made_talk.questions()


def test_pieces_of_the_recipes_tokenizer_are_words_and_single_digits() -> None:
    """What is added up must be seen digit by digit."""
    options = recipes.load("zero-to-chat").data.tokenizer  # type: ignore[attr-defined]
    found = fit_byte_pairs(options, [row["text"] for row in made_talk.texts()])
    assert all(len(piece) == 1 for piece in found.vocabulary if any(sign.isdigit() for sign in piece))
    assert {"user", "assistant", "\u0120opposite", "\u0120capital", "\u0120Monday"} <= set(found.vocabulary)
