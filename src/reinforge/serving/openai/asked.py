"""What clients ask for, in OpenAI's terms, and as requests to the generation engine.

Parameters that only OpenAI's own service can do anything with are passed over; those that would change an answer and
are not known here are refused by name.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reinforge.data.text import TextPipeline
from reinforge.data.values import MEMORY
from reinforge.errors import DataError, IntegrityError, MissingExtra
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.schemas import Schemas
from reinforge.inference.text import TextWriter
from reinforge.serving.limits import Limits
from reinforge.serving.openai.errors import BadParameter
from reinforge.serving.openai.tools import FORCED, Tool, ToolChoice, call_schema
from reinforge.serving.writing import Writer
from reinforge.storage import strict_json
from reinforge.workflow.generate import prompt_of, seed_of

_MOST_CHOICES = 16
_STOP = Annotated[str, Field(min_length=1, max_length=1000)]
Kind = TypeVar("Kind", bound="Asked")
Body = TypeVar("Body", bound=BaseModel)
# Below this the likeliest is taken: it would be drawn all the same, and numbers would overflow.
_COLDEST = 1e-3
# So many tokens the interface writes by default where it goes on from a text.
_BY_DEFAULT = 16


class StreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False


class JsonSchema(BaseModel):
    """A JSON Schema that an answer is to fit; `strict` is always so."""

    model_config = ConfigDict(extra="ignore", strict=True, serialize_by_alias=True)

    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    strict: bool | None = True
    content: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What shape an answer has: text, some JSON object, or JSON of a schema."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The schema; None where any text will do."""
        if self.type == "json_schema":
            return self.json_schema.content if self.json_schema else None
        return {"type": "object"} if self.type == "json_object" else None


class Asked(BaseModel):
    """What both kinds of requests have. `top_k`, `min_p` and `repetition_penalty` go beyond OpenAI's own."""

    model_config = ConfigDict(extra="forbid", strict=True)
    # Known, and without meaning here.
    PASSED: ClassVar[frozenset[str]] = frozenset({
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    })  # fmt: skip
    # Known, and not done unless the value says that it shall not be.
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {"logit_bias": ({},), "frequency_penalty": (0,)}

    model: Annotated[str, Field(description="The bundle's name.")]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = 1
    stop: _STOP | Annotated[list[_STOP], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = 1.0

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """Without what is passed over. Raises BadParameter for what would be done otherwise than asked."""
        if not isinstance(value, dict):
            raise BadParameter("the body must be a JSON object")
        kept = {}
        for name, given in value.items():
            if name in cls.NEUTRAL:
                if given is not None and given not in cls.NEUTRAL[name]:
                    problem = f"this server does not know {name}"
                    raise BadParameter(problem, param=name, code="unsupported_parameter", remedy="Leave it out.")
            elif name not in cls.PASSED:
                kept[name] = given
        return kept

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell with each; None for no log-probabilities."""
        raise NotImplementedError

    @property
    def most(self) -> int | None:
        """The most tokens of a text, where it was said."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self, pipeline: TextPipeline, most: int) -> Sampling:
        """How its tokens are drawn."""
        # A nucleus of nothing is the likeliest alone.
        top_p = None if self.top_p is None or self.top_p == 1 else max(self.top_p, 1e-9)
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            min(self.most or most, most), temperature if temperature >= _COLDEST else 0.0, self.top_k, top_p,
            pipeline.stops, self.min_p or 0.0, self.repetition_penalty or 1.0, self.presence_penalty or 0.0,
        )  # fmt: skip


class ChatAsked(Asked):
    """The body of /v1/chat/completions."""

    PASSED: ClassVar[frozenset[str]] = Asked.PASSED | {"reasoning_effort", "verbosity"}
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **Asked.NEUTRAL, "functions": ([],),
        "function_call": ("none", "auto"), "modalities": (["text"],), "audio": (), "prediction": (),
        "web_search_options": (),
    }  # fmt: skip

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = True

    @model_validator(mode="after")
    def _consistent(self) -> ChatAsked:
        if self.top_logprobs is not None and not self.logprobs:
            raise BadParameter("top_logprobs needs logprobs: true", param="top_logprobs")
        form = self.response_format
        if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
            raise BadParameter("json_schema goes with type json_schema", param="response_format")
        if self.tool_choice not in (None, "none", "auto"):
            if not self.called:
                raise BadParameter("there is no such tool to call", param="tool_choice", remedy="Name one of tools.")
            if form is not None and form.schema_wanted is not None:
                raise BadParameter("an answer can't be a call and JSON of another shape", param="response_format")
        return self

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def called(self) -> list[Tool]:
        """The tools one of which the model must call; none where it may choose."""
        match self.tool_choice:
            case "required":
                return self.offered
            case ToolChoice(function=function):
                return [tool for tool in self.offered if tool.function.name == function.name]
        return []

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell with each; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def most(self) -> int | None:
        """The most tokens of a text, where it was said."""
        return self.max_completion_tokens or self.max_tokens


class CompletionAsked(Asked):
    """The body of /v1/completions."""

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {**Asked.NEUTRAL, "suffix": ("",), "best_of": (1,)}

    prompt: str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1)]
    echo: bool | None = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CompletionAsked:
        if self.echo and self.logprobs is not None:
            raise BadParameter("log-probabilities of a prompt are not told", param="echo", remedy="Leave echo out.")
        return self

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell with each; None for no log-probabilities."""
        return self.logprobs


@dataclass(frozen=True)
class Ordered:
    """Requests to the engine in the order of the choices, what makes text of each one's tokens, and what stands before
    each text where it is echoed."""

    requests: tuple[Request, ...]
    writers: tuple[TextWriter, ...]
    before: tuple[str, ...]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once."""
        return sum({id(each.prompt): len(each.prompt) for each in self.requests}.values())


def parsed(body: bytes, limits: Limits, kind: type[Body]) -> Body:
    """What a body asks for. Raises BadParameter that names the parameter."""
    try:
        return kind.model_validate(strict_json.parse(body, "body", limit=limits.body, depth=limits.depth))
    except IntegrityError as error:
        raise BadParameter(error.problem) from None
    except ValidationError as error:
        raise _told(error) from None


def _told(error: ValidationError) -> BadParameter:
    """The first fault, by the name of its parameter."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][:2]).lstrip(".")
    name = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        return BadParameter(
            f"this server does not know {place[:80]}", param=name, code="unknown_parameter", remedy="Leave it out."
        )
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return BadParameter(f"the parameter {place[:80]} can't be that: {first['msg']}", param=name, code=code)


def chat_ordered(asked: ChatAsked, pipeline: TextPipeline, writer: Writer) -> Ordered:
    """One prompt, by the bundle's template. Raises BadParameter."""
    if pipeline.template is None:
        raise BadParameter(
            "this model has no chat template", param="messages", code="unsupported_model",
            remedy="Go on from a text: POST /v1/completions.",
        )  # fmt: skip
    try:
        tools = [tool.model_dump(exclude_none=True) for tool in asked.offered]
        prompt = prompt_of({"messages": asked.messages, "tools": tools}, pipeline, MEMORY, 0)
    except DataError as error:
        place = "tools" if error.where == "tools" else _place(error.where) or "messages"
        raise BadParameter(error.problem, param=place, remedy=error.remedy) from None
    schema = asked.response_format.schema_wanted if asked.response_format else None
    param = "response_format"
    if asked.called:
        # The call is begun for the model, and held to what it may be.
        prompt = prompt[0], prompt[1] + tuple(map(int, pipeline.tokenizer.encode(FORCED).tolist()))
        schema, param = call_schema(asked.called), "tools"
    ordered = _ordered(asked, pipeline, [prompt], writer.context, writer.context, "messages")
    return ordered if schema is None else _held(ordered, schema, writer.schemas, param)


def _held(ordered: Ordered, schema: dict[str, Any], schemas: Schemas, param: str) -> Ordered:
    """The same, each text held to the schema. Raises BadParameter."""

    def held(request: Request, writer: TextWriter) -> Request:
        constraint = schemas.constraint(schema)
        # Both look at each token.
        return replace(request, constraint=constraint, watch=lambda token: writer(token) or constraint.complete)

    try:
        requests = [held(*each) for each in zip(ordered.requests, ordered.writers)]
    except MissingExtra as error:
        raise BadParameter(error.problem, param=param, code="unsupported_parameter", remedy=error.remedy) from None
    except DataError as error:
        raise BadParameter(error.problem, param=param, remedy=error.remedy) from None
    return replace(ordered, requests=tuple(requests))


def completion_ordered(asked: CompletionAsked, pipeline: TextPipeline, writer: Writer) -> Ordered:
    """Each prompt as often as choices are wanted. Raises BadParameter."""
    given: Sequence[Any] = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if given and isinstance(given[0], int):
        given = [given]
    if len(given) * (asked.n or 1) > 8 * _MOST_CHOICES:
        raise BadParameter(f"a request may have {8 * _MOST_CHOICES} texts at most", param="prompt")
    prompts = [tokens_of(one, pipeline, place, "prompt") for place, one in enumerate(given)]
    before = [text if asked.echo else "" for text, _ids in prompts]
    return _ordered(asked, pipeline, prompts, writer.context, _BY_DEFAULT, "prompt", before)


def tokens_of(one: Any, pipeline: TextPipeline, place: int, param: str) -> tuple[str, tuple[int, ...]]:
    """A text or tokens, both as text and as tokens. Raises BadParameter."""
    if isinstance(one, str):
        try:
            return prompt_of({"text": one}, pipeline, MEMORY, place)
        except DataError as error:
            raise BadParameter(error.problem, param=param, remedy=error.remedy) from None
    size = pipeline.tokenizer.size
    if not one or not all(0 <= token < size for token in one):
        raise BadParameter(f"tokens must lie in [0, {size}), and there must be one at least", param=param)
    return pipeline.tokenizer.decode(one), tuple(one)


def _ordered(
    asked: Asked, pipeline: TextPipeline, prompts: Sequence[tuple[str, tuple[int, ...]]], context: int, default: int,
    param: str, before: Sequence[str] = ("",),
) -> Ordered:  # fmt: skip
    seed = secrets.randbits(63) if asked.seed is None else asked.seed
    requests, writers, echoed = [], [], []
    for (text, ids), ahead in zip(prompts, before, strict=True):
        if len(ids) > context:
            raise BadParameter(
                f"the prompt has {len(ids):,} tokens, and the model's context {context:,}", param=param,
                code="context_length_exceeded", remedy="Shorten it.",
            )  # fmt: skip
        sampling = asked.sampling(pipeline, context if asked.most else default)
        for choice in range(asked.n or 1):
            writer = TextWriter(pipeline.tokenizer.decode, asked.stops)
            own = seed_of(seed, text, choice)
            requests.append(Request(ids, sampling, own, watch=writer, likeliest=asked.likeliest))
            writers.append(writer)
            echoed.append(ahead)
    return Ordered(tuple(requests), tuple(writers), tuple(echoed))


def _place(where: str | None) -> str | None:
    """What stands between quotes in the place of an error."""
    parts = (where or "").split("'")
    return parts[-2] if len(parts) >= 3 else None
