"""Options of what answers a model between its turns, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reinforge.registry import Options, register

Mark = Annotated[str, Field(min_length=1)]


@register("interaction", "reinforge.data.interactions:Calculator")
class CalculatorOptions(Options):
    """A calculator: what the model writes between the marks is computed, and the result stands behind it."""

    kind: Literal["calculator"] = "calculator"
    opening: Mark = Field("[", description="What stands before an expression.")
    closing: Mark = Field("]", description="What ends it, and with it the model's turn.")


@register("interaction", "reinforge.data.interactions:Guess")
class GuessOptions(Options):
    """A game: the answer is a number that the model guesses; it is told `higher` or `lower` after each guess, and gets
    1 once it has found it."""

    kind: Literal["guess"] = "guess"
    higher: Mark = Field("higher\n", description="What is said where the number is higher than the guess.")
    lower: Mark = Field("lower\n", description="What is said where it is lower.")
