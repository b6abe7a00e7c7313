"""What answers a model between its turns: tools, games, a user's own class, registered in the same way.

An interaction begins an episode for each completion. The episode is asked after each of the model's turns, and answers
with a text, or with None where it is over. What it says becomes tokens as a text does: no special token ever comes out
of it. What goes wrong in it is said to the model, which may do better.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from reinforge.data.interaction_options import CalculatorOptions, GuessOptions
from reinforge.data.prompts import Prompt

# Characters of an expression, digits of a result, and characters of what is said to a model, at most.
EXPRESSION, DIGITS, LONGEST = 200, 400, 2000


class Episode(Protocol):
    """One completion's. `reward`, once it is over: what the completion gets, a finite number; None for what the data's
    reward gives the last turn."""

    reward: float | None

    def answer(self, written: str) -> str | None:
        """What follows the turn that was written; None where the episode is over. An exception is told to the model,
        and so is an answer that is no text."""
        ...


class Interaction(Protocol):
    """`stop`: texts that end a turn, beside the model's own end of an answer; where a single token wrote more ("]."),
    that stands behind it in the turn. `role`: whose message it is that follows an ended answer, where a template writes
    chats; what follows a `stop` goes on within the model's own message."""

    stop: Sequence[str]
    role: str

    def begin(self, prompt: Prompt, seed: int) -> Episode:
        """What it raises says that the question is not one for it, and ends the run."""
        ...


class Calculator:
    """Computes what stands between its marks."""

    role = "tool"

    def __init__(self, options: CalculatorOptions) -> None:
        self.options, self.stop = options, (options.closing,)

    def begin(self, prompt: Prompt, seed: int) -> Calculation:
        """It needs nothing of either."""
        return Calculation(self.options)


class Calculation:
    """A calculator's episode: over once a turn ends without an expression."""

    reward = None

    def __init__(self, options: CalculatorOptions) -> None:
        self.options = options

    def answer(self, written: str) -> str | None:
        """The result and a space. Raises ValueError or ArithmeticError for what is no expression."""
        # A single token may have written more behind the closing mark.
        opened, found, _rest = written.rpartition(self.options.closing)
        if not found:
            return None
        _before, opening, inside = opened.rpartition(self.options.opening)
        if not opening:
            raise ValueError(f"{self.options.opening} is missing")
        return f"{computed(inside.partition(self.options.closing)[0])} "


class Guess:
    """Has the data's answer guessed."""

    stop, role = (), "user"

    def __init__(self, options: GuessOptions) -> None:
        self.options = options

    def begin(self, prompt: Prompt, seed: int) -> Guessing:
        """Raises ValueError where the answer is no whole number."""
        return Guessing(self.options, int(prompt.answer))


class Guessing:
    """A game: over once the number is found, or no number is said."""

    def __init__(self, options: GuessOptions, number: int) -> None:
        self.options, self.number = options, number
        self.reward: float | None = 0.0

    def answer(self, written: str) -> str | None:
        """higher or lower, by the last number that was written."""
        found = re.findall(r"-?\d{1,18}", written)
        if not found:
            return None
        guessed = int(found[-1])
        self.reward = float(guessed == self.number)
        if self.reward:
            return None
        return self.options.higher if self.number > guessed else self.options.lower


_Number = int | float
_BINARY: Mapping[type, Callable[[_Number, _Number], _Number]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_UNARY: Mapping[type, Callable[[_Number], _Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def computed(expression: str) -> str:
    """The value of numbers, + - * / // % and parentheses, as a text; whole numbers without a point.

    Raises ValueError for anything else, or for what is too long; ZeroDivisionError, OverflowError.
    """
    if len(expression) > EXPRESSION:
        raise ValueError(f"more than {EXPRESSION} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("this is no expression") from None
    value = _value(tree.body)
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError("the result is too large")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value.bit_length() > 3 * DIGITS:
        raise OverflowError("the result is too large")
    return str(value)


def _value(node: ast.expr) -> _Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _BINARY[type(sign)](_value(left), _value(right))
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
    raise ValueError("only numbers, + - * / // % and parentheses are understood")
