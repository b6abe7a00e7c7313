"""What pydantic found wrong, told as a recipe's reader needs it: file, line, key, what to do."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reinforge.errors import RecipeError
from reinforge.messages import _, ngettext
from reinforge.recipe.component import OneOf
from reinforge.recipe.document import Document, Path, dotted
from reinforge.registry import Options


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe."""

    place: str
    path: Path
    text: str
    remedy: str | None = None


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> RecipeError:
    """One RecipeError that tells every problem, each once, with its place in the document validated as `model`."""
    found = error.errors(include_url=False)
    # A list is called too short, too, where its items were wrong and so weren't counted.
    told = [d for d in found if not (d["type"] == "too_short" and any(_within(other, d) for other in found))]
    return combine([_problem(details, document, model) for details in told], document.name)


def combine(problems: Sequence[Problem], name: str) -> RecipeError:
    """One RecipeError that tells all problems; `name` is the whole document's."""
    problems = _unique(problems)
    if len(problems) == 1:
        return RecipeError(problems[0].text, where=_at(problems[0]), remedy=problems[0].remedy)
    lines = [f"  {_at(p)}: {p.text}" + (f". {p.remedy}" if p.remedy else "") for p in problems]
    count = ngettext("{count} problem", "{count} problems", len(problems)).format(count=len(problems))
    return RecipeError("\n".join([count, *lines]), where=name)


def known_keys(model: type[BaseModel], path: Path, data: object) -> list[str]:
    """The keys that the section at `path` of `data` may have."""
    annotation: object = model
    for key in path:
        annotation = _inside(annotation, key, data)
        data = _get(data, key)
    section = _section(annotation, data)
    return list(section.model_fields) if section else []


def _at(problem: Problem) -> str:
    return f"{problem.place}: {dotted(problem.path)}" if problem.path else problem.place


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    """Alternatives of one value joined by "or"; what a stage inherits told once, where it was written."""
    found: dict[tuple[str, Path], Problem] = {}
    for problem in sorted(problems, key=lambda p: p.path[:1] == ("stages",)):
        path = problem.path[2:] if problem.path[:1] == ("stages",) else problem.path
        inherited = found.get((problem.place, path))
        if inherited is None:
            found[problem.place, path] = problem
        elif inherited.path == problem.path and problem.text not in inherited.text:
            joined = _("{one}; or {other}").format(one=inherited.text, other=problem.text)
            found[problem.place, path] = replace(inherited, text=joined)
    return list(found.values())


def _within(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    length = len(outer["loc"])
    return len(inner["loc"]) > length and inner["loc"][:length] == outer["loc"]


def _problem(details: ErrorDetails, document: Document, model: type[BaseModel]) -> Problem:
    path = _real(details, document.data)
    text, remedy = _words(details)
    if details["type"] == "extra_forbidden":
        remedy = _suggest(str(path[-1]), known_keys(model, path[:-1], document.data))
    return Problem(document.place(path), path, text, remedy)


def _real(details: ErrorDetails, data: object) -> Path:
    """The error's path without the names that pydantic puts in for the members of a union."""
    path: list[str | int] = []
    for position, key in enumerate(details["loc"]):
        inside = _get(data, key)
        last = position == len(details["loc"]) - 1
        if inside is None and not _has(data, key) and not (last and details["type"] == "missing"):
            continue
        path.append(key)
        data = inside
    if details["type"] == "union_tag_invalid":
        path.append(str(details["ctx"]["discriminator"]).strip("'"))
    return tuple(path)


def _suggest(key: str, known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(key, known, 1)
    if near:
        return _("Did you mean {name!r}?").format(name=near[0])
    return _("Known: {names}.").format(names=", ".join(known)) if known else None


def _words(details: ErrorDetails) -> tuple[str, str | None]:
    """What is wrong, and where one sentence can say it, how to mend it."""
    context, value = details.get("ctx", {}), _shown(details["input"])
    match details["type"]:
        case "missing":
            return _("it is missing"), None
        case "extra_forbidden":
            return _("there is no such key"), None
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return _("it must be a whole number, not {value}").format(value=value), None
        case "float_type" | "float_parsing":
            return _("it must be a number, not {value}").format(value=value), None
        case "finite_number":
            return _("it must be a finite number"), None
        case "bool_type" | "bool_parsing":
            return _("it must be true or false, not {value}").format(value=value), None
        case "string_type":
            quotes = _("Put it in quotes: {text}").format(text=f'"{value}"') if _scalar(details["input"]) else None
            return _("it must be text, not {value}").format(value=value), quotes
        case "string_pattern_mismatch":
            return _("{value} does not have the form {pattern}").format(value=value, **context), None
        case "greater_than":
            return _("it must be greater than {gt}, not {value}").format(value=value, **context), None
        case "greater_than_equal":
            return _("it must be at least {ge}, not {value}").format(value=value, **context), None
        case "less_than":
            return _("it must be less than {lt}, not {value}").format(value=value, **context), None
        case "less_than_equal":
            return _("it must be at most {le}, not {value}").format(value=value, **context), None
        case "union_tag_invalid":
            expected, tag = str(context["expected_tags"]), str(context["tag"])
            return _("it must be one of {expected}, not {value}").format(expected=expected, value=repr(tag)), None
        case "literal_error":
            return _("it must be one of {expected}, not {value}").format(value=value, **_expected(context)), None
        case "list_type" | "tuple_type" | "set_type" | "frozen_set_type":
            return _("it must be a list, not {value}").format(value=value), None
        case "dict_type" | "model_type" | "mapping_type" | "model_attributes_type":
            return _("it must be a section with keys, not {value}").format(value=value), None
        case "too_short":
            least = context["min_length"]
            return ngettext("it needs at least {n} item", "it needs at least {n} items", least).format(n=least), None
        case "too_long":
            most = context["max_length"]
            return ngettext("it may have at most {n} item", "it may have at most {n} items", most).format(n=most), None
        case "component_type":
            return _("it needs a {kind}, by name or with its name under 'kind'").format(**context), _names(context)
        case "component_unknown":
            near = _("Did you mean {name!r}?").format(name=context["near"]) if context["near"] else None
            return _("there is no {kind} called {name!r}").format(**context), near or _names(context)
        case "component_options":
            return _("{options} are no registered options of a {kind}").format(**context), None
        case "value_error" | "assertion_error" if "error" in context:
            return str(context["error"]), None
        case _:
            return details["msg"], None


def _names(context: Mapping[str, Any]) -> str:
    return _("Known: {names}.").format(names=context["names"] or _("none"))


def _expected(context: Mapping[str, Any]) -> dict[str, str]:
    return {"expected": str(context["expected"]).replace(" or ", ", ")}


def _scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return _("a section")
    if isinstance(value, (list, tuple)):
        return _("a list")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _has(data: object, key: str | int) -> bool:
    if isinstance(data, Mapping):
        return key in data
    return isinstance(data, (list, tuple)) and isinstance(key, int) and key < len(data)


def _get(data: object, key: str | int) -> object:
    return data[key] if _has(data, key) else None  # type: ignore[index]


def _section(annotation: object, data: object) -> type[BaseModel] | None:
    """The model that an annotation means for `data`: itself, an alternative of a union, or the component named."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        slot = next((m for m in metadata if isinstance(m, OneOf)), None)
        if slot is None:
            return _section(inner, data)
        component = slot.find(data)
        return component.options if component else None
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, (_section(choice, data) for choice in get_args(annotation))), None)
    return None


def _inside(annotation: object, key: str | int, data: object) -> object:
    """The annotation of `key` within what `annotation` describes."""
    section = _section(annotation, data)
    if section is not None:
        field = section.model_fields.get(str(key))
        if field is None:
            return None
        if issubclass(section, Options) and (default := section.by_default(str(key), _get(data, key))):
            return default
        return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, (_inside(choice, key, data) for choice in get_args(annotation))), None)
    if get_origin(annotation) is Annotated:
        return _inside(get_args(annotation)[0], key, data)
    arguments = get_args(annotation)
    return arguments[-1] if get_origin(annotation) is dict else arguments[0] if arguments else None
