"""What the OpenAPI document says of OpenAI's interface."""

from __future__ import annotations

from collections.abc import Sequence

from reinforge.serving.openai.asked import Asked, ChatAsked, CompletionAsked
from reinforge.serving.openai.embeddings import EmbeddingsAsked
from reinforge.serving.openai.errors import PATHS
from reinforge.storage.strict_json import Json

_STATUSES = ("400", "404", "408", "413", "415", "429", "503")


def paths(models: Sequence[str], readers: Sequence[str]) -> dict[str, Json]:
    """The paths, for models of these names that write, and those that make vectors."""
    body = EmbeddingsAsked.model_json_schema()
    body["properties"]["model"]["enum"] = list(readers)
    vector = {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
    one = {
        "type": "object", "properties": {"index": {"type": "integer"}, "embedding": vector},
        "required": ["index", "embedding"],
    }  # fmt: skip
    found = {
        "type": "object", "properties": {"data": {"type": "array", "items": one}, "model": {"type": "string"}},
        "required": ["data", "model"],
    }  # fmt: skip
    content = {"application/json": {"schema": found}}
    embeddings = {PATHS[2]: _post("Make vectors of texts.", body, content)}
    return (
        embeddings
        if not models
        else {
            **embeddings,
            PATHS[0]: _path("Answer a chat.", ChatAsked, models, {"message": {"type": "object"}}),
            PATHS[1]: _path("Go on from texts.", CompletionAsked, models, {"text": {"type": "string"}}),
        }
    )


def error_schema() -> Json:
    """JSON Schema of what an error is told as."""
    text = {"type": ["string", "null"]}
    told = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    inner = {"type": "object", "properties": told, "required": list(told)}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}


def _path(summary: str, kind: type[Asked], models: Sequence[str], said: Json) -> Json:
    body = kind.model_json_schema()
    body["properties"]["model"]["enum"] = list(models)
    choice = {
        "type": "object",
        "properties": {
            "index": {"type": "integer"},
            "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
            **said,
        },
        "required": ["index", "finish_reason", *said],
    }
    usage = {key: {"type": "integer"} for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    answer = {
        "type": "object",
        "properties": {
            "id": {"type": "string"}, "object": {"type": "string"}, "created": {"type": "integer"},
            "model": {"type": "string"}, "choices": {"type": "array", "items": choice},
            "usage": {"type": "object", "properties": usage, "required": list(usage)},
        },
        "required": ["id", "object", "created", "model", "choices", "usage"],
    }  # fmt: skip
    return _post(summary, body, {"application/json": {"schema": answer}, "text/event-stream": {}})


def _post(summary: str, body: Json, content: Json) -> Json:
    answered = {"description": "The answer.", "content": content}
    error = {
        "description": "What is wrong.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}},
    }
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(body)}}},
            "responses": {"200": answered, **dict.fromkeys(_STATUSES, error)},
        }
    }


def _inlined(body: Json) -> Json:
    """The schema with its few definitions where they are used."""
    definitions = body.pop("$defs", {})

    def inlined(value: Json) -> Json:
        if isinstance(value, dict):
            if "$ref" in value:
                return definitions[value["$ref"].rpartition("/")[2]]
            return {key: inlined(part) for key, part in value.items()}
        return [inlined(part) for part in value] if isinstance(value, list) else value

    return inlined(body)
