"""`reinforge generate`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli import drawing
from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result, json_line
from reinforge.cli.progress import progress
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark, ngettext


def generate(
    bundle: BundleFolder,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help=mark("Go on from this."))] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help=mark("Rows with text, prompt or messages."))
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help=mark("Write JSON Lines here."))
    ] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="N", help=mark("Texts for each prompt."))] = 1,
    max_tokens: drawing.MaxTokens = 256,
    temperature: drawing.Temperature = 1.0,
    top_k: drawing.TopK = None,
    top_p: drawing.TopP = None,
    min_p: drawing.MinP = 0.0,
    repetition: drawing.Repetition = 1.0,
    presence: drawing.Presence = 0.0,
    stop: drawing.StopTexts = None,
    seed: drawing.Seed = 0,
    draft: drawing.DraftFolder = None,
    proposals: drawing.Proposals = None,
    use: Use = None,
) -> Result:
    """Let a language model go on from prompts."""
    if samples < 1:
        raise ReinforgeError(_("--samples must be at least 1, not {n}").format(n=samples))
    if bool(prompt) == (data is not None):
        raise ReinforgeError(_("one of --prompt and --data is needed"), remedy=_("Give --prompt TEXT, or --data FILE."))
    chosen = drawing.draws(max_tokens, temperature, top_k, top_p, min_p, repetition, presence, stop, seed)
    proposer = drawing.draft(draft, proposals)
    from reinforge.storage.files import write_atomic
    from reinforge.workflow.generate import generate as run

    with progress() as shown:
        found = run(
            bundle, data if data is not None else prompt, chosen, samples=samples, draft=proposer, use=use or (),
            progress=shown,
        )  # fmt: skip
    rows = [asdict(each) for each in found]
    if proposer is not None:
        accepted, proposed = sum(each.accepted for each in found), sum(each.proposed for each in found)
        told = _("{accepted} of {proposed} proposed tokens were accepted")
        print(told.format(accepted=accepted, proposed=proposed), file=sys.stderr)
    if output is not None:
        write_atomic(output, "".join(json_line(row) + "\n" for row in rows))
        count = ngettext("{n} text", "{n} texts", len(rows)).format(n=len(rows))
        return Result(
            {"texts": len(rows), "output": output},
            _("{texts} written to {path}").format(texts=count, path=output),
        )
    if len(rows) == 1:
        return Result(rows[0], found[0].text)
    return Result({"texts": rows}, "\n".join(json_line(row) for row in rows))
