"""The JSON Schema of recipes, for editors and for the reference in the docs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reinforge.recipe.component import PLACEHOLDER
from reinforge.recipe.recipe import REQUIRED, WHOLE_ONLY, Recipe
from reinforge.registry import REGISTRY

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema (draft 2020-12) of a recipe, with all components that are registered now.

    Under `$defs` stand each kind of component ("model"), each component ("model.composed") and "stage", which requires
    nothing but a name, since a stage takes the rest from the whole recipe.
    """
    definitions: Schema = {}
    for kind in REGISTRY.kinds():
        components = REGISTRY.all(kind)
        for component in components:
            name = f"{kind}.{component.name}"
            options = component.options.model_json_schema(ref_template=f"#/$defs/{name}/$defs/{{model}}")
            definitions[name] = {**options, "required": ["kind", *options.get("required", [])]}
            # Where it stands by default, its kind may be left out.
            definitions[f"{name}.default"] = options
        references = [{"$ref": f"#/$defs/{kind}.{component.name}"} for component in components]
        by_name = {"enum": [component.name for component in components], "description": "With its defaults."}
        definitions[kind] = {"title": kind.capitalize(), "anyOf": [*references, by_name]}
    whole = Recipe.model_json_schema(ref_template="#/$defs/{model}")
    # Pydantic writes a model that contains itself as a definition and a reference to it.
    definitions |= whole.pop("$defs")
    recipe = definitions.pop("Recipe")
    definitions, recipe = _resolved(definitions), _resolved(recipe)
    usual = [getattr(component.options, "usual", {}) for component in REGISTRY.all("data")]
    for key in ("model", "objective"):
        part = {name: value for name, value in recipe["properties"][key].items() if name != "$ref"}
        recipe["properties"][key] = {**_either(key, sorted({u[key] for u in usual if key in u})), **part}
    needed = {getattr(component.options, "default_source", None) for component in REGISTRY.all("objective")}
    sources = sorted(name for name in needed if isinstance(name, str))
    of_source = recipe["properties"]["source"]
    recipe["properties"]["source"] = {**of_source, "anyOf": [_either("source", sources), {"type": "null"}]}
    definitions["stage"] = _stage(recipe, definitions)
    properties = {
        **recipe["properties"],
        "stages": {**recipe["properties"]["stages"], "items": {"$ref": "#/$defs/stage"}},
    }
    required = {"anyOf": [{"required": list(REQUIRED)}, {"required": ["stages"]}, _usual()]}
    without = {key: value for key, value in recipe.items() if key != "required"}
    return {"$schema": DIALECT, **without, "properties": properties, **required, "$defs": definitions}


def _usual() -> Schema:
    """A recipe whose data say which model and objective go with them."""
    names = [c.name for c in REGISTRY.all("data") if set(REQUIRED) <= {"data", *getattr(c.options, "usual", {})}]
    named = {"type": "object", "properties": {"kind": {"enum": names}}, "required": ["kind"]}
    return {"properties": {"data": {"anyOf": [{"enum": names}, named]}}, "required": ["data"]}


def _either(kind: str, defaults: Sequence[str]) -> Schema:
    """Any component of a kind, or without its name one of these."""
    plain = [{"$ref": f"#/$defs/{kind}.{name}.default"} for name in defaults]
    return {"anyOf": [{"$ref": f"#/$defs/{kind}"}, *plain]} if plain else {"$ref": f"#/$defs/{kind}"}


def _resolved(schema: Any) -> Any:
    """With every placeholder for a kind of component turned into a reference: to any of the kind, or without its name
    to the one that stands there by default."""
    if isinstance(schema, dict):
        found = {key: _resolved(value) for key, value in schema.items() if key != PLACEHOLDER}
        default = schema.get("default")
        stands = default.get("kind") if isinstance(default, dict) else None
        if (kind := schema.get(PLACEHOLDER)) is not None:
            return {**_either(kind, [stands] if stands else []), **found}
        if stands is not None and "oneOf" in found and "discriminator" in found:
            named = [{**choice, "required": ["kind"]} for choice in found.pop("oneOf")]
            return {"anyOf": [*named, {"$ref": found.pop("discriminator")["mapping"][stands]}], **found}
        return found
    return [_resolved(item) for item in schema] if isinstance(schema, list) else schema


def _stage(recipe: Schema, definitions: Schema) -> Schema:
    part = {key: value for key, value in recipe["properties"].items() if key not in WHOLE_ONLY}
    stage: Schema = _relaxed({**recipe, "properties": part, "$defs": definitions})
    return {**stage, "title": "Stage", "required": ["name"]}


def _relaxed(schema: Any) -> Any:
    """The schema within `$defs.stage`, nothing in it required."""
    if isinstance(schema, dict):
        # A property may itself be called "required"; its schema is no list.
        return {
            key: value.replace("#/$defs/", "#/$defs/stage/$defs/", 1) if key == "$ref" else _relaxed(value)
            for key, value in schema.items()
            if not (key == "required" and isinstance(value, list))
        }
    return [_relaxed(item) for item in schema] if isinstance(schema, list) else schema
