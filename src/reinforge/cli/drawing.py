"""Options of the verbs that write text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reinforge.messages import mark

if TYPE_CHECKING:
    from reinforge.workflow.generate import Draws

MaxTokens = Annotated[int, typer.Option("--max-tokens", metavar="N", help=mark("Tokens of a text, at most."))]
Temperature = Annotated[
    float, typer.Option("--temperature", metavar="T", help=mark("0 takes the likeliest; more is bolder."))
]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="K", help=mark("Draw from the K likeliest tokens."))]
TopP = Annotated[
    float | None, typer.Option("--top-p", metavar="P", help=mark("Draw from the likeliest that together reach P."))
]
MinP = Annotated[
    float, typer.Option("--min-p", metavar="P", help=mark("Only tokens at least P times as likely as the likeliest."))
]
Repetition = Annotated[
    float, typer.Option("--repetition", metavar="R", help=mark("Above 1, what was there before is less likely."))
]
Presence = Annotated[
    float, typer.Option("--presence", metavar="R", help=mark("Above 0, what was written already is less likely."))
]
StopTexts = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help=mark("End before this text."))]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help=mark("Seed of the draws."))]


def draws(
    max_tokens: int, temperature: float, top_k: int | None, top_p: float | None, min_p: float, repetition: float,
    presence: float, stop: list[str] | None, seed: int,
) -> Draws:  # fmt: skip
    """The options together, checked before a bundle is loaded. Raises RecipeError."""
    from reinforge.workflow.generate import Draws

    found = Draws(max_tokens, temperature, top_k, top_p, min_p, repetition, presence, tuple(stop or ()), seed)
    found.sampling(())
    return found
