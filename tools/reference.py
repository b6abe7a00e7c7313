"""docs/recipes.md, written from the JSON Schema of recipes, so that it can't say what the code doesn't.

`python tools/reference.py` (or `make reference`) writes it; `--check` ends with status 1 where it is not current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reinforge.recipe import json_schema, shipped
from reinforge.registry import REGISTRY

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
Schema = Mapping[str, Any]

INTRODUCTION = """\
# Recipes

A recipe says what to do, as typed data: a YAML file, or the same in Python. This page is written from the schema itself
(`make reference`); your editor can have that schema too: `reinforge recipes --schema > recipe.schema.json`.

    name: my-penguins
    data: {kind: table, path: penguins.csv, targets: [species]}
    model: composed                                   # a component's name alone: all its defaults
    objective: supervised
    learn: {batch: 32, lr: 1e-3, stop: {epochs: 50}}

- Only `data` is required of a table or a text; an environment needs `model` and `objective` too.
- Unknown keys are errors that name file, line and key.
- Any key can be set on the command line by its path: `reinforge train my.yaml learn.lr=3e-4 learn.stop.epochs=10`.
- Naming another `kind` on the command line drops the options of the one before.
- Recipes never load code. Components of your own come by `--use FILE.py` or by an entry point: see
  [extend.md](extend.md).
- The resolved recipe, with every option written out, is kept in the run's folder as `recipe.yaml`.
"""
# In the order in which a recipe is written; other kinds follow by name.
KINDS = {
    "data": "What to learn from.",
    "model": "The network.",
    "encoder": "One input block to features, in a composed model.",
    "fusion": "The features of several inputs to one row, in a composed model.",
    "body": "Features to features, in a composed model.",
    "head": "Features to one output, in a composed model.",
    "loss": "Output and target to one number a row.",
    "objective": "What is optimised.",
    "source": "Where batches come from.",
    "optimizer": "How gradients move weights.",
    "schedule": "The learning rate's course.",
    "metric": "One number from outputs and targets.",
    "tokenizer": "Text to tokens.",
    "task": "Prompts whose completions a program can score.",
}


def page() -> str:
    """The whole page."""
    schema = json_schema()
    return "\n".join(_lines(schema)).rstrip("\n") + "\n"


def _lines(schema: Schema) -> Iterator[str]:
    yield INTRODUCTION
    yield from ("## Shipped recipes", "", "| recipe | what it shows |", "| --- | --- |")
    yield from (f"| `{recipe.name}` | {_cell(recipe.summary)} |" for recipe in shipped())
    yield from ("", "`reinforge recipes NAME` shows one; `reinforge train NAME` trains it.", "")
    yield from ("## The recipe itself", "", *_table(schema, schema), "")
    for name, section in schema["$defs"].items():
        if name[0].isupper():
            yield from (f"### {name}", "", section["description"], "", *_table(section, schema), "")
    yield from ("# Components", "")
    for kind in [*KINDS, *(kind for kind in REGISTRY.kinds() if kind not in KINDS)]:
        own = [c for c in REGISTRY.all(kind) if c.options.__module__.startswith("reinforge.")]
        if not own:
            continue
        yield from (f"## {kind}", "", *((KINDS[kind], "") if kind in KINDS else ()))
        for component in own:
            name = f"{kind}.{component.name}"
            yield from _component(f"{kind}: {component.name}", schema["$defs"][name], schema)


def _component(title: str, part: Schema, schema: Schema) -> Iterator[str]:
    yield from (f"### {title}", "", _one_line(part.get("description", "")), "")
    if set(part["properties"]) - {"kind"}:
        yield from (*_table(part, schema), "")
    for name, inner in part.get("$defs", {}).items():
        if "properties" not in inner:
            continue
        kind = inner["properties"].get("kind", {}).get("const")
        shown = f"`kind: {kind}`" if kind else f"*{_readable(name)}*"
        yield from (f"{shown}: {_one_line(inner.get('description', ''))}", "")
        if set(inner["properties"]) - ({"kind"} if kind else set()):
            yield from (*_table(inner, schema), "")


def _table(part: Schema, schema: Schema) -> Iterator[str]:
    required = part.get("required", [])
    yield from ("| key | value | default | |", "| --- | --- | --- | --- |")
    for name, value in part["properties"].items():
        # A component's own kind is its title; the field `kind` of FieldOptions is an option like others.
        if name == "kind" and "const" in value:
            continue
        default = "required" if name in required else _default(value)
        yield f"| `{name}` | {_cell(_type(value))} | {_cell(default)} | {_cell(_description(value, schema))} |"


def _description(value: Schema, schema: Schema) -> str:
    if "description" in value:
        return _one_line(value["description"])
    referred: Any = schema
    for step in value.get("$ref", "#/").split("/")[1:]:
        referred = referred.get(step, {})
    return _one_line(referred.get("description", ""))


def _default(value: Schema) -> str:
    if "default" not in value:
        return ""
    default = value["default"]
    if isinstance(default, dict):
        kind = default.get("kind")
        # The options of a default stand in its own table.
        return f"`{kind}`" if kind else "its defaults" if default else "`{}`"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _type(value: Schema) -> str:
    """A value's type in words."""
    if "$ref" in value:
        return _reference(value["$ref"])
    for key in ("anyOf", "oneOf"):
        if key in value:
            # Without its kind it is what stands there by default, which the next column tells.
            options = [option for option in value[key] if not str(option.get("$ref", "")).endswith(".default")]
            return " or ".join(dict.fromkeys(_type(option) for option in options))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    kind = value.get("type")
    if kind == "array":
        parts = value.get("prefixItems")
        if parts:
            return "[" + ", ".join(_type(item) for item in parts) + "]"
        return f"list of {_type(value.get('items', {}))}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"name: {_type(inner)}" if isinstance(inner, dict) else "mapping"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
    return names.get(str(kind), "anything") + _bounds(value)


def _bounds(value: Schema) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    return " " + ", ".join(bounds) if bounds else ""


def _reference(reference: str) -> str:
    steps = reference.removeprefix("#/$defs/").split("/")
    last = steps[-1]
    if last == "JsonValue":
        return "any"
    if last[0].isupper():
        return f"[{last}](#{last.lower()})" if len(steps) == 1 else f"*{_readable(last)}*"
    if "." in last:
        kind, _, name = last.partition(".")
        return f"[`{name}`](#{kind}-{name})"
    return f"[{last}](#{last})" if last != "stage" else "part of a recipe"


def _readable(name: str) -> str:
    """EpsilonOptions: epsilon."""
    short = name.removesuffix("Options")
    return "".join(f" {c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(short))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check that it is current."""
    text = page()
    if "--check" in arguments:
        current = PAGE.is_file() and PAGE.read_text("utf-8") == text
        if not current:
            print(f"{PAGE.relative_to(ROOT)} is not current; run: make reference", file=sys.stderr)
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
