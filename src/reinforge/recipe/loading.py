"""Recipes from files, shipped names or mappings, and back to text."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.recipe import overrides as override
from reinforge.recipe import yaml_form
from reinforge.recipe.component import OneOf, default_source
from reinforge.recipe.document import Document, Path, copy
from reinforge.recipe.problems import Problem, combine, explain
from reinforge.recipe.recipe import REQUIRED, WHOLE_ONLY, Recipe
from reinforge.recipe.user_code import load_user_code
from reinforge.registry import Options

SHIPPED = FilePath(__file__).parents[1] / "recipes"
SUFFIXES = (".yaml", ".yml")
# What is given for a recipe by whoever has data and no recipe yet.
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet", ".xlsx")


@dataclass(frozen=True)
class Shipped:
    """A recipe that comes with the package; `summary` is the first line of its comment."""

    name: str
    summary: str
    path: FilePath


def load(
    source: str | FilePath | Mapping[str, object] | Recipe,
    overrides: Iterable[str] | Mapping[str, object] = (),
    *,
    use: Iterable[str | FilePath] = (),
) -> Recipe:
    """The recipe in a file, of a shipped name, or in a mapping from sections to options, with `overrides` on top.

    `overrides` are texts as on the command line ("learn.lr=3e-4"), or a mapping from dotted keys to values. `use` are
    files of the caller's own components, imported first and recorded. Raises RecipeError that tells all problems with
    their places.
    """
    files = load_user_code(use)
    document = _document(source)
    override.apply(document, overrides)
    if files:
        document.data["use"] = files
    problems = _lay_out_stages(document)
    if problems:
        raise combine(problems, document.name)
    _complete(document.data)
    try:
        return Recipe.model_validate(document.data)
    except ValidationError as error:
        failure = explain(error, document, Recipe)
    raise _with_use(failure, document.data.get("use") if not files else None)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every option resolved; `load` reads it back equal."""
    stages = {"__all__": set(WHOLE_ONLY)} if recipe.stages else True
    return yaml_form.write(recipe.model_dump(mode="json", exclude={"stages": stages}))


def shipped() -> list[Shipped]:
    """The recipes that come with the package, by name."""
    found = []
    for path in sorted(SHIPPED.glob("*.yaml")):
        first = path.read_text("utf-8").partition("\n")[0]
        found.append(Shipped(path.stem, first.removeprefix("#").strip() if first.startswith("#") else "", path))
    return found


def _document(source: str | FilePath | Mapping[str, object] | Recipe) -> Document:
    if isinstance(source, Recipe):
        return Document("recipe", source.model_dump(exclude={"stages": {"__all__": set(WHOLE_ONLY)}}))
    if isinstance(source, Mapping):
        return Document("recipe", {str(key): copy(value) for key, value in source.items()})
    path = _find(source)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(_("it is no UTF-8 text"), where=str(path)) from error
    except OSError as error:
        raise RecipeError(
            _("it can't be read: {reason}").format(reason=error.strerror or error), where=str(path)
        ) from error
    document = yaml_form.read(text, str(path))
    document.data.setdefault("name", path.stem)
    return document


def _find(source: str | FilePath) -> FilePath:
    """A recipe's file: a shipped name, or a path. Raises RecipeError where it is neither."""
    path = FilePath(source)
    names = {recipe.name: recipe.path for recipe in shipped()}
    if str(source) in names:
        return names[str(source)]
    if path.is_file() and path.suffix.lower() in TABLES:
        raise RecipeError(
            _("this is a table, not a recipe"),
            where=str(path),
            remedy=_("A recipe says what to do with it: `data: {{kind: table, path: {name}, targets: [...]}}`.").format(
                name=path.name
            ),
        )
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(_("it is a folder, not a recipe"), where=str(path))
    if "=" in str(source):
        raise RecipeError(
            _("{text!r} stands where the recipe should").format(text=str(source)),
            remedy=_("Name the recipe first, then what is to be changed in it: wine learn.lr=3e-4."),
        )
    near = difflib.get_close_matches(path.stem, names, 1, cutoff=0.75)
    known = _("Known: {names}.").format(names=", ".join(names) or _("none"))
    remedy = _("Did you mean {name!r}?").format(name=near[0]) if near else known
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        path_remedy = _("Check the path; shipped recipes go by their names alone: {names}.")
        remedy = remedy if near else path_remedy.format(names=", ".join(names) or _("none"))
        raise RecipeError(_("there is no such file"), where=str(path), remedy=remedy)
    raise RecipeError(_("there is no recipe called {name!r}, and no such file").format(name=str(source)), remedy=remedy)


def _lay_out_stages(document: Document) -> list[Problem]:
    """Lay each stage over the whole, in place; returns what is wrong with the stages as such."""
    stages = document.data.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        return []
    problems: list[Problem] = []
    names: dict[object, str] = {}
    laid_out: list[Document] = []
    for index, stage in enumerate(stages):
        path: Path = ("stages", index)
        name, place = stage.get("name"), document.place((*path, "name"))
        if name is None:
            problems.append(Problem(place, path, _("a stage needs a name")))
        elif name in names:
            first = _("It is that of the stage at {place} too.").format(place=names[name])
            problems.append(
                Problem(place, (*path, "name"), _("the name {name!r} stands twice").format(name=name), first)
            )
        names.setdefault(name, place)
        for key in WHOLE_ONLY:
            if key in stage:
                text = _("only the whole recipe can have this, not a stage")
                problems.append(Problem(document.place((*path, key)), (*path, key), text))
        laid_out.append(document.merged(path, without=WHOLE_ONLY))
    for index, whole in enumerate(laid_out):
        if "use" in document.data:
            whole.data["use"] = document.data["use"]
        _complete(whole.data)
        stages[index] = whole.data
        for inside, place in whole.places.items():
            document.places["stages", index, *inside] = place
    # What every recipe needs may stand in the stages alone.
    for key in REQUIRED:
        if stages and key not in document.data and key in stages[0]:
            document.data[key] = copy(stages[0][key])
    return problems


def _complete(data: dict[str, object]) -> None:
    """Name, in place, the model and the objective that usually go with the data, where the recipe names none; and the
    source that the objective needs, where the recipe has only its options."""
    given = data.get("data")
    component = OneOf("data").find(given)
    options = type(given) if isinstance(given, Options) else component.options if component else None
    for key, name in getattr(options, "usual", {}).items():
        part = data.get(key)
        if part is None:
            data[key] = name
        elif isinstance(part, Mapping) and "kind" not in part:
            data[key] = {"kind": name, **part}
    source = data.get("source")
    if isinstance(source, Mapping) and "kind" not in source:
        # An objective that is wrong is told when the whole is validated.
        with contextlib.suppress(ValidationError, PydanticCustomError):
            data["source"] = {"kind": default_source(OneOf("objective").validate(data.get("objective"))), **source}


def _with_use(failure: RecipeError, recorded: object) -> RecipeError:
    """The failure, with a word on the user's own files where the recipe was made with some that were not given now."""
    if not isinstance(recorded, (list, tuple)) or not recorded:
        return failure
    files = " ".join(f"--use {file}" for file in recorded)
    hint = _("The recipe was made with your own components. Give them again: {files}").format(files=files)
    return RecipeError(
        failure.problem, where=failure.where, remedy=f"{failure.remedy}\n  {hint}" if failure.remedy else hint
    )
