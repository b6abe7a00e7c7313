"""`reinforge recipes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from reinforge.cli.output import Result
from reinforge.messages import mark

if TYPE_CHECKING:
    from reinforge.workflow.recipes import ShippedRecipe


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
    from reinforge.workflow.columns import aligned
    from reinforge.workflow.recipes import recipes as run

    if name is None:
        known = run()
        rows = [(recipe.name, f"{recipe.data}, {recipe.objective}", recipe.summary) for recipe in known]
        return Result({"recipes": [_facts(recipe) for recipe in known]}, "\n".join(aligned(rows, indent="")))
    found = run(name)
    return Result({**_facts(found), "path": found.path, "recipe": found.text}, found.text.rstrip("\n"))


def _facts(recipe: ShippedRecipe) -> dict[str, str]:
    return {name: getattr(recipe, name) for name in ("name", "summary", "data", "model", "objective")}
