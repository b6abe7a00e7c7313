"""Options of the verbs that write text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark

if TYPE_CHECKING:
    from reinforge.workflow.generate import Draft, Draws

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
DraftFolder = Annotated[
    Path | None,
    typer.Option(
        "--draft", metavar="BUNDLE", help=mark("A smaller model that proposes tokens, which the bundle judges.")
    ),
]
Proposals = Annotated[
    int | None,
    typer.Option("--proposals", metavar="N", help=mark("Tokens that it proposes at a time; 4 unless given.")),
]


def draws(
    max_tokens: int, temperature: float, top_k: int | None, top_p: float | None, min_p: float, repetition: float,
    presence: float, stop: list[str] | None, seed: int,
) -> Draws:  # fmt: skip
    """The options together, checked before a bundle is loaded. Raises RecipeError."""
    from reinforge.workflow.generate import Draws

    found = Draws(max_tokens, temperature, top_k, top_p, min_p, repetition, presence, tuple(stop or ()), seed)
    found.sampling(())
    return found


def draft(bundle: Path | None, proposals: int | None) -> Draft | None:
    """The draft that was named. Raises ReinforgeError for proposals without one."""
    if bundle is None:
        if proposals is not None:
            raise ReinforgeError(
                _("{option} is for a draft").format(option="--proposals"), remedy=_("Give --draft BUNDLE.")
            )
        return None
    from reinforge.workflow.generate import Draft

    return Draft(bundle) if proposals is None else Draft(bundle, proposals)
