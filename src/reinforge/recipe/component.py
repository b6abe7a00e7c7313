"""A field that holds the options of any registered component of one kind."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from reinforge.registry import REGISTRY, Component, Options

# In a JSON Schema, stands for "any component of this kind", until `json_schema` writes them out.
PLACEHOLDER = "reinforge-component"


class OneOf:
    """Annotation of such a field: `body: Annotated[Options, OneOf("body")]`.

    Takes options as they are, a mapping with the component's name under "kind", or the name alone. What is wrong inside
    keeps its own place in the error. The choice stays open: what is registered later counts too.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def find(self, value: object) -> Component | None:
        """The component that a name or a mapping means; None where there is none of that name."""
        name = value.get("kind") if isinstance(value, Mapping) else value
        return next((component for component in REGISTRY.all(self.kind) if component.name == name), None)

    def validate(self, value: object) -> Options:
        """The options that `value` means. Raises what pydantic reports with its place."""
        components = REGISTRY.all(self.kind)
        if isinstance(value, Options):
            if not isinstance(value, tuple(component.options for component in components)):
                context = {"kind": self.kind, "options": type(value).__name__}
                raise PydanticCustomError("component_options", "{options} are no options of a {kind}", context)
            return value
        name = value.get("kind") if isinstance(value, Mapping) else value
        names = [component.name for component in components]
        if not isinstance(name, str):
            context = {"kind": self.kind, "names": ", ".join(names)}
            raise PydanticCustomError("component_type", "it needs a kind of {kind}: {names}", context)
        component = self.find(name)
        if component is None:
            near = difflib.get_close_matches(name, names, 1)
            context = {"kind": self.kind, "name": name, "near": near[0] if near else "", "names": ", ".join(names)}
            unknown = PydanticCustomError("component_unknown", "there is no {kind} called {name}", context)
            place = ("kind",) if isinstance(value, Mapping) else ()
            raise ValidationError.from_exception_data(
                self.kind, [InitErrorDetails(type=unknown, loc=place, input=name)]
            )
        return component.options.model_validate(dict(value) if isinstance(value, Mapping) else {"kind": name})

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {PLACEHOLDER: self.kind}


def default_source(objective: Options) -> str:
    """The name of the source that an objective learns from where a recipe names none."""
    name: str = getattr(objective, "default_source", "loader")
    return name


def _dump(value: Options, info: SerializationInfo) -> dict[str, Any]:
    # The kind first, and always: without it nobody knows whose options these are.
    return {"kind": value.model_dump(include={"kind"})["kind"]} | value.model_dump(
        mode=info.mode, exclude_unset=info.exclude_unset, exclude_defaults=info.exclude_defaults
    )
