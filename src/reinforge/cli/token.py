"""`reinforge token`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from reinforge.cli.output import Result
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark


def token(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=mark("Where hashes of tokens are kept."))],
    name: Annotated[str, typer.Argument(metavar="NAME", help=mark("Whose it is; a token of this name is replaced."))],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help=mark("What it opens: predict (by default), metrics, admin.")),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="R", help=mark("Requests a second; any number by default."))
    ] = None,
) -> Result:
    """Make a token for `serve --tokens FILE`; it is shown once."""
    from reinforge.serving.tokens import Scope, add_token

    known = get_args(Scope)
    chosen: list[Scope] = []
    for text in scope or ["predict"]:
        if text not in known:
            problem = _("there is no scope {text!r}").format(text=text)
            raise ReinforgeError(problem, remedy=_("Known: {known}.").format(known=", ".join(known)))
        chosen.append(text)  # type: ignore[arg-type]
    if rate is not None and rate <= 0:
        raise ReinforgeError(_("{name} must be above 0, not {value}").format(name="--rate", value=rate))
    secret = add_token(file, name, chosen, rate)
    told = _("{secret}\nOnly its hash is kept. Send it as: Authorization: Bearer TOKEN").format(secret=secret)
    return Result({"token": secret, "name": name, "scopes": chosen, "file": str(file)}, told)
