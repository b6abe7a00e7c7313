"""A field that holds the options of any registered component of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from reinforge.errors import ComponentError
from reinforge.registry import REGISTRY, Options


class OneOf:
    """Annotation of such a field: `body: Annotated[Options, OneOf("body")]`.

    Takes options as they are, a mapping with the component's name under "kind", or the name alone. What is wrong inside
    keeps its own place in the error. The choice stays open: what is registered later counts too.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def validate(self, value: object) -> Options:
        """The options that `value` means. Raises what pydantic reports with its place."""
        if isinstance(value, Options):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise PydanticCustomError(
                "component", "a {kind} is a name, or a mapping with its name under 'kind'", {"kind": self.kind}
            )
        try:
            component = REGISTRY.find(self.kind, value["kind"])
        except ComponentError as error:
            context = {"problem": error.problem, "remedy": error.remedy or ""}
            raise PydanticCustomError("component", "{problem}. {remedy}", context) from error
        return component.options.model_validate(dict(value))

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        components = REGISTRY.all(self.kind)
        choices: list[Any] = [handler(component.options.__pydantic_core_schema__) for component in components]
        return {"anyOf": [*choices, {"enum": [component.name for component in components]}]}


def _dump(value: Options, info: SerializationInfo) -> dict[str, Any]:
    return value.model_dump(mode=info.mode, exclude_unset=info.exclude_unset, exclude_defaults=info.exclude_defaults)
