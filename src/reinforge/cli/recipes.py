"""`reinforge recipes`."""

from __future__ import annotations

import difflib
import json
from typing import Annotated

import typer

from reinforge.cli.output import Result, table
from reinforge.errors import RecipeError
from reinforge.messages import _, mark


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=mark("Show this recipe."))] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help=mark("Show the JSON Schema of recipes, for your editor."))
    ] = False,
) -> Result:
    """List the recipes that come with the package, or show one."""
    if schema:
        from reinforge.recipe import json_schema

        written = json_schema()
        return Result({"schema": written}, json.dumps(written, indent=1, ensure_ascii=False))
    from reinforge.workflow.recipes import recipes as run

    known = {recipe.name: recipe for recipe in run()}
    if name is None:
        rows = [(recipe.name, recipe.summary) for recipe in known.values()]
        return Result({"recipes": [{"name": name, "summary": summary} for name, summary in rows]}, table(rows))
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        names = _("Known: {names}.").format(names=", ".join(known) or _("none"))
        remedy = _("Did you mean {name!r}?").format(name=near[0]) if near else names
        raise RecipeError(_("there is no recipe called {name!r}").format(name=name), remedy=remedy)
    text = known[name].path.read_text("utf-8")
    return Result({"name": name, "path": known[name].path, "recipe": text}, text.rstrip("\n"))
