"""What a server says of its models: summaries, and an OpenAPI document with the schema of each model's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.observation_form import MEMORY
from reinforge.bundle.text_form import TextForm
from reinforge.models.decoder import Decoder
from reinforge.models.policy import Policy
from reinforge.schema.fields import (
    Box,
    Category,
    Continuous,
    Date,
    Discrete,
    Field,
    Image,
    Labels,
    MultiDiscrete,
    Number,
    Span,
    Text,
    Vector,
    columns_read,
    may_be_missing,
    readers_of,
)
from reinforge.serving.openai import description as openai
from reinforge.storage.strict_json import Json

_STATUSES = ("400", "404", "408", "413", "415", "422", "429", "503")
_MEMORY = "What came with the episode's action before; left out where an episode begins."


def describe(name: str, bundle: Bundle, whole: bool = False) -> Json:
    """A model in short; `whole` adds schema, parents and metrics."""
    targets = [field.name for field in bundle.schema.targets] or list(bundle.signature.outputs)
    told: dict[str, Json] = {"name": name, "digest": bundle.digest, "kind": bundle.form.kind}
    told |= {"inputs": columns_read(bundle.schema.inputs), "outputs": targets}
    if isinstance(bundle.form, TextForm):
        template = bundle.form.pipeline.template
        told["template"] = template.name if template else None
    if whole:
        stated = bundle.provenance if isinstance(bundle.provenance, dict) else {}
        told |= {"schema": bundle.schema.to_json(), "parents": list(bundle.parents)}
        told |= {"metrics": stated.get("metrics", {}), "versions": stated.get("versions", {})}
    return told


def listing(name: str) -> Json:
    """A model as OpenAI's clients list it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "reinforge"}


def openapi(bundles: Mapping[str, Bundle], most_rows: int) -> Json:
    """OpenAPI 3.1 for the whole server, with one predict path per model."""
    ok = {"description": "The answer.", "content": {"application/json": {"schema": {"type": "object"}}}}
    error = {
        "description": "What is wrong.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    plain = {"get": {"responses": {"200": ok}}}
    paths: dict[str, Json] = {"/healthz": plain, "/v1/models": plain}
    for name, bundle in bundles.items():
        rows = {"type": "array", "items": row_schema(bundle), "minItems": 1, "maxItems": most_rows}
        body = {
            "type": "object",
            "properties": {"rows": rows, "partial": {"type": "boolean", "default": False}},
            "required": ["rows"],
            "additionalProperties": False,
        }
        answer = {
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": prediction_schema(bundle)}},
        }
        predicted = {"description": "One prediction per row.", "content": {"application/json": {"schema": answer}}}
        paths[f"/v1/models/{name}"] = plain
        paths[f"/v1/models/{name}/predict"] = {
            "post": {
                "summary": f"Predict rows with {name}.",
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": {"200": predicted, **dict.fromkeys(_STATUSES, error)},
            }
        }
    readers = {name: bundle.model for name, bundle in bundles.items() if isinstance(bundle.model, Decoder)}
    if readers:
        paths |= openai.paths([name for name, model in readers.items() if model.options.causal], list(readers))
    text = {"type": ["string", "null"]}
    told = {"type": text, "problem": text, "where": text, "remedy": text, "row": {"type": "integer"}}
    schema = {"type": "object", "properties": {"error": {"type": "object", "properties": told}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Reinforge", "version": "1"},
        "paths": paths,
        "components": {"schemas": {"Error": schema, "OpenAIError": openai.error_schema()}},
    }


def row_schema(bundle: Bundle) -> Json:
    """JSON Schema of one input row."""
    inputs = bundle.schema.inputs
    optional = bundle.schema.absent == "null"
    memory = {MEMORY: {"type": ["object", "null"], "description": _MEMORY}} if _remembers(bundle) else {}
    return {
        "type": "object",
        "properties": {**{name: _column(readers) for name, readers in readers_of(inputs).items()}, **memory},
        "required": [] if optional else columns_read(inputs),
    }


def prediction_schema(bundle: Bundle) -> Json:
    """JSON Schema of one prediction."""
    properties = {field.name: _output(field) for field in bundle.schema.targets}
    if _remembers(bundle):
        properties["action"]["properties"][MEMORY] = {"type": "object"}
    return {"type": "object", "properties": properties}


def _remembers(bundle: Bundle) -> bool:
    """Whether it is a policy with a memory, which answers bring back and forth."""
    return isinstance(bundle.model, Policy) and bundle.model.initial_state(1) is not None


def _column(readers: Sequence[Field]) -> Json:
    """The strictest of the fields that read the column, so that what it allows is refused by none."""
    return _input(next((field for field in readers if not may_be_missing(field)), readers[0]))


def _input(field: Field) -> Json:
    null = ["null"] if may_be_missing(field) else []
    match field:
        case Number():
            bounds = {"minimum": field.low, "maximum": field.high}
            types = ["integer" if field.integer else "number", *null]
            return {"type": types, **{key: value for key, value in bounds.items() if value is not None}}
        case Category():
            types = ["string", "number", "boolean", *null]
            return {"type": types, **({"examples": list(field.labels[:20])} if field.labels else {})}
        case Date():
            return {"type": ["string", "number", *null], "examples": ["2026-11-23", "2026-11-23T20:00:00Z"]}
        case Labels() if field.columns:
            return {"type": ["integer", "boolean", *null]}
        case Labels():
            label = {"type": ["string", "number", "boolean"], "examples": list(field.labels[:20])}
            return {"type": ["array", "string", *null], "items": label}
        case Text():
            return {"type": ["string", *null]}
        case Image():
            return {"type": ["string", "array", *null], "contentEncoding": "base64"}
        case Box():
            value: Json = {"type": "integer" if field.dtype in ("uint8", "int64") else "number"}
            for side in reversed(field.shape):
                value = {"type": "array", "items": value, "minItems": side, "maxItems": side}
            return value
    return {"type": "string"}


def _output(field: Field) -> Json:
    match field:
        case Category():
            probabilities = {label: {"type": ["number", "null"]} for label in field.labels}
            label = {"type": ["string", "null"], "enum": [*field.labels, None]}
            parts: dict[str, Json] = {"label": label, "probabilities": {"type": "object", "properties": probabilities}}
        case Labels():
            probabilities = {label: {"type": ["number", "null"]} for label in field.labels}
            labels = {"type": "array", "items": {"type": "string", "enum": list(field.labels)}}
            parts = {"labels": labels, "probabilities": {"type": "object", "properties": probabilities}}
        case Vector():
            numbers = {name: {"type": ["number", "null"]} for name in field.columns}
            parts = {"value": {"type": "object", "properties": numbers}}
        case Span():
            ends = {"type": ["array", "null"], "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
            parts = {"span": ends, "text": {"type": ["string", "null"]}}
        case Number():
            parts = {"value": {"type": ["number", "null"]}}
        case Discrete():
            parts = {
                "action": {"type": ["integer", "null"], "minimum": field.start, "maximum": field.start + field.n - 1}
            }
        case MultiDiscrete():
            count = len(field.sizes)
            parts = {
                "action": {
                    "type": ["array", "null"],
                    "items": {"type": "integer"},
                    "minItems": count,
                    "maxItems": count,
                }
            }
        case Continuous():
            size = math.prod((len(field.low),))
            items = {"type": "number"}
            parts = {"action": {"type": ["array", "null"], "items": items, "minItems": size, "maxItems": size}}
        case _:
            parts = {}
    return {"type": "object", "properties": parts}
