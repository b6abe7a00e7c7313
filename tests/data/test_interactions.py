"""What answers a model between its turns."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from reinforge.data.interaction_options import CalculatorOptions, GuessOptions
from reinforge.data.interactions import EXPRESSION, Calculator, Guess, computed
from reinforge.data.prompts import Prompt


def test_a_calculator_computes_as_fractions_do() -> None:
    """Random trees of numbers, against exact arithmetic."""
    draw = random.Random(0)

    def tree(depth: int) -> tuple[str, Fraction]:
        if depth == 0:
            value = draw.randint(0, 99)
            return str(value), Fraction(value)
        (left, a), (right, b) = tree(depth - 1), tree(draw.randint(0, depth - 1))
        sign = draw.choice("+-*/")
        if sign == "/" and b == 0:
            sign = "+"
        value = {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
        return f"({left}{sign}{right})", value

    for _trial in range(200):
        text, value = tree(3)
        assert float(computed(text)) == pytest.approx(float(value), rel=1e-9, abs=1e-9)
    assert computed("12*34") == "408"
    assert computed(" 7 / 2 ") == "3.5"
    assert computed("8/2") == "4"
    assert computed("-3 + 17 % 5 - 9 // 2") == "-5"


@pytest.mark.parametrize(
    "hostile",
    ["", "1+", "__import__('os')", "a", "[1]", "9**9**9", "'a'*9", "True", "1j", "(" * 150, "1 if 1 else 2",
     "1+" * EXPRESSION, "f(1)", "1,2", "\0", "1e999", "(lambda: 1)()"],
)  # fmt: skip
def test_it_computes_nothing_else(hostile: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        computed(hostile)


def test_an_episode_of_a_calculator() -> None:
    episode = Calculator(CalculatorOptions()).begin(Prompt("?", "1"), 0)
    assert episode.answer("so [2+3]") == "5 "
    assert episode.answer("first [1] then [2*4]") == "8 "
    assert episode.answer("5") is None
    # A single token may write more behind the mark that ended the turn.
    for merged in ("[2+3].", "so [2+3]\n", "[2+3]]", "[2+3] ["):
        assert episode.answer(merged) == "5 "
    assert episode.reward is None
    for wrong, error in (("2+3]", ValueError), ("[1/0]", ZeroDivisionError), ("[x]", ValueError)):
        with pytest.raises(error):
            episode.answer(wrong)


def test_a_game_of_guessing() -> None:
    game = Guess(GuessOptions())
    episode = game.begin(Prompt("?", "37"), 0)
    assert episode.answer("50") == "lower\n"
    assert episode.answer("is it 20?") == "higher\n"
    assert episode.reward == 0.0
    assert episode.answer("37") is None
    assert episode.reward == 1.0
    assert game.begin(Prompt("?", "37"), 0).answer("no idea") is None
    with pytest.raises(ValueError, match="invalid literal"):
        game.begin(Prompt("?", "many"), 0)
