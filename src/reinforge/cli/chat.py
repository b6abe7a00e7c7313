"""`reinforge chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reinforge.cli import drawing
from reinforge.cli.arguments import BundleFolder
from reinforge.cli.output import Result
from reinforge.errors import DataError
from reinforge.messages import _, mark

if TYPE_CHECKING:
    from reinforge.workflow.generate import Conversation

RESET, SYSTEM, LEAVE = "/reset", "/system", ("/exit", "/quit")


def chat(
    bundle: BundleFolder,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help=mark("What the model is told beforehand."))
    ] = None,
    max_tokens: drawing.MaxTokens = 256,
    temperature: drawing.Temperature = 0.7,
    top_k: drawing.TopK = None,
    top_p: drawing.TopP = 0.95,
    min_p: drawing.MinP = 0.0,
    repetition: drawing.Repetition = 1.0,
    presence: drawing.Presence = 0.0,
    stop: drawing.StopTexts = None,
    seed: drawing.Seed = 0,
    draft: drawing.DraftFolder = None,
    proposals: drawing.Proposals = None,
) -> Result:
    """Talk with a language model: a line is a turn, and answers appear as they are written."""
    chosen = drawing.draws(max_tokens, temperature, top_k, top_p, min_p, repetition, presence, stop, seed)
    proposer = drawing.draft(draft, proposals)
    from reinforge.workflow.generate import Conversation

    conversation = Conversation(bundle, chosen, system=system, draft=proposer)
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    if asks:
        text = _("A line is a turn. {reset} begins anew, {system} TEXT sets the system message, {leave} ends.")
        print(text.format(reset=RESET, system=SYSTEM, leave=LEAVE[0]))
    while True:
        line = _line(asks)
        if line is None or line in LEAVE:
            break
        if line:
            _turn(conversation, line, asks)
    return Result({"turns": conversation.turns}, "")


def _line(asks: bool) -> str | None:
    """The next line; None at the end."""
    if asks:
        try:
            return input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def _turn(conversation: Conversation, line: str, asks: bool) -> None:
    command, _space, rest = line.partition(" ")
    if command in (RESET, SYSTEM):
        if command == SYSTEM:
            conversation.system = rest.strip() or None
        conversation.reset()
        if asks:
            print(_("A new conversation."))
        return
    try:
        for piece in conversation.say(line):
            print(piece, end="", flush=True)
        print(flush=True)
    except KeyboardInterrupt:
        # An answer that is too long is left, as if it had not been asked for.
        if not asks:
            raise
        print()
    except DataError as error:
        if not asks:
            raise
        print(error, file=sys.stderr)
