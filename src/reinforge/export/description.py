"""export.json: how rows become a graph's inputs and its outputs predictions, for readers without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reinforge import __version__
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.folders import name_of
from reinforge.bundle.forms import TableForm
from reinforge.bundle.network import dtype_name
from reinforge.bundle.observation_form import ObservationForm
from reinforge.bundle.task import Reading
from reinforge.bundle.tensor_form import TensorForm
from reinforge.bundle.text_form import TextForm
from reinforge.data.blocks import TokensBlock
from reinforge.data.special_tokens import LanguageTokenizer, SpecialTokenizer
from reinforge.data.targets import NumbersTarget
from reinforge.data.text import CharacterTokenizer, Tokenizer
from reinforge.data.tokenizers import BytePairTokenizer, PretrainedTokenizer, WordTokenizer
from reinforge.edge.description import FORMAT, VERSION
from reinforge.errors import ComponentError
from reinforge.export.graph import Graph
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.heads import Count
from reinforge.models.span import Span as SpanHead
from reinforge.registry import Options
from reinforge.schema.fields import (
    Category,
    Continuous,
    Discrete,
    Field,
    Labels,
    MultiDiscrete,
    Number,
    Span,
    Text,
    Vector,
    columns_read,
    sources,
)

Json = Any


def describe(bundle: Bundle, graph: Graph, target: str, file: str) -> dict[str, Json]:
    """All of export.json but what is measured. Raises ComponentError for what only the bundle can read."""
    reading, readout = _form(bundle)
    inside, outside = _where(bundle)
    return {
        "format": FORMAT, "version": VERSION, "reinforge": __version__, "target": target, "file": file,
        "bundle": {"name": name_of(bundle.path, bundle.provenance), "digest": bundle.digest},
        "form": bundle.form.kind, "weights": dtype_name(bundle.model),
        "inputs": [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in graph.ports],
        "outputs": [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in graph.gives],
        "preprocessing": {"inside the graph": inside, "before the graph": outside},
        "reading": reading, "readout": readout,
    }  # fmt: skip


def _form(bundle: Bundle) -> tuple[Json, Json]:
    match bundle.form:
        case TableForm() as form:
            return _table(bundle, form)
        case ObservationForm() as form:
            parts = [{"box": stated(part.box), "block": {"kind": "block", **_plain(part.block)}} for part in form.parts]
            return {"parts": parts}, {"action": _action(form)}
        case TensorForm() as form:
            return {"box": stated(form.box)}, {"targets": [_target(bundle, form.target, [])]}
        case TextForm() as form:
            return _text(bundle, form)
    raise ComponentError(_("there is no way to describe rows of the form {kind}").format(kind=bundle.form.kind))


def _table(bundle: Bundle, form: TableForm) -> tuple[Json, Json]:
    schema, pipeline = form.schema, form.pipeline
    others = []
    for name, block in pipeline.blocks.items():
        if name in ("numbers", "categories"):
            continue
        field = schema.field(name)
        told = stated(field)
        if isinstance(field, Text):
            assert isinstance(block, TokensBlock)
            (source,) = sources(field)
            told |= {"source": source, "tokenizer": tokenizer(block.tokenizer)}
        others.append(told)
    reading = {
        "schema": {"kind": "schema", "nulls": list(schema.nulls), "absent": schema.absent},
        "columns": columns_read(schema.inputs),
        "numbers": [stated(field) for field in schema.numeric],
        "categories": [stated(field) for field in schema.categories],
        "others": others,
    }
    steps = {}
    for name, target in pipeline.targets.items():
        operations = target.operations if isinstance(target, NumbersTarget) else ()
        steps[name] = [{"kind": s.kind, **{n: a.tolist() for n, a in s.arrays().items()}} for s in operations]
    return reading, {"targets": [_target(bundle, field, steps[field.name]) for field in schema.targets]}


def _target(bundle: Bundle, field: Field, steps: list[Json]) -> Json:
    reading = bundle.task.outputs.get(field.name, Reading())
    heads: Any = getattr(bundle.model, "heads", {})
    head = heads[field.name] if field.name in heads else None  # noqa: SIM401 - it has no `get`
    match field:
        case Category() | Labels():
            thresholds = list(reading.thresholds) if reading.thresholds else None
            read = {"temperature": reading.temperature, "threshold": reading.threshold, "thresholds": thresholds}
            return {"kind": field.kind, "name": field.name, "labels": list(field.labels), **read}
        case Number(count=True) if head is None or type(head) is Count:
            return {"kind": "count", "name": field.name}
        case Number(count=False):
            return {"kind": "number", "name": field.name, "steps": steps}
        case Vector():
            return {"kind": "vector", "name": field.name, "steps": steps, "columns": list(field.columns)}
        case Span() if type(head) is SpanHead:
            return {"kind": "span", "name": field.name, "of": field.of, "longest": head.longest}
    raise ComponentError(
        _("its head has a way of reading that an export can't say"), where=f"output {field.name!r}",
        remedy=_("Serve the bundle itself."),
    )  # fmt: skip


def _action(form: ObservationForm) -> Json:
    action = form.schema.targets[0]
    told: dict[str, Json] = {"name": action.name, "output": "action", "first": 0}
    match action:
        case Discrete():
            return {"kind": "discrete", **told, "first": form.first.tolist()}
        case MultiDiscrete():
            return {"kind": "multi-discrete", **told, "first": form.first.tolist(), "sizes": list(action.sizes)}
        case Continuous():
            return {"kind": "continuous", **told, "low": list(form.output.low), "high": list(form.output.high)}
    raise ComponentError(_("there is no way to describe the action {kind}").format(kind=action.kind))


def _text(bundle: Bundle, form: TextForm) -> tuple[Json, Json]:
    model, pipeline, chosen = bundle.model, form.pipeline, form.continuation(bundle.task)
    assert isinstance(model, Decoder)
    opening = pipeline.opened("").tolist()
    reading = {
        "field": pipeline.FIELD, "block": pipeline.BLOCK, "opening": opening, "tokenizer": tokenizer(pipeline.tokenizer)
    }  # fmt: skip
    return reading, {
        "max_tokens": chosen.max_tokens, "stop": list(chosen.stop), "context": model.options.context,
        "temperature": 0.0,
    }  # fmt: skip


def tokenizer(of: Tokenizer) -> Json:
    """A tokenizer for readers without torch. Raises ComponentError for one that they can't have."""
    match of:
        case SpecialTokenizer():
            base = tokenizer(of.base)
            return {**base, "size": of.base.size} if base["kind"] == "library" else base
        case CharacterTokenizer() | WordTokenizer():
            return of.to_json()
        case BytePairTokenizer():
            told = json.loads(of.to_tokenizer_json())
            dropped = 1 if of.alphabet == "bytes" else 0
            return {"kind": "library", "tokenizer": told, "marks": False, "dropped": dropped, "size": of.size}
        case PretrainedTokenizer():
            marks = not isinstance(of, LanguageTokenizer)
            told = of.to_json()["tokenizer"]
            return {"kind": "library", "tokenizer": told, "marks": marks, "dropped": 0, "size": of.size}
    raise ComponentError(_("there is no way to describe the tokenizer {kind}").format(kind=type(of).__name__))


def stated(field: Options) -> dict[str, Json]:
    """A field's options, and what follows from them: readers then need no schema of ours."""
    found: dict[str, Json] = _plain(field)
    for name, member in vars(type(field)).items():
        if isinstance(member, property):
            value = getattr(field, name)
            if isinstance(value, tuple):
                value = [stated(part) if isinstance(part, Options) else part for part in value]
            found[name] = value
    return found


def _plain(options: Options) -> dict[str, Json]:
    return options.model_dump(mode="json")


def _where(bundle: Bundle) -> tuple[list[str], list[str]]:
    """What of the preprocessing is in the graph, and what must be done before it, in words."""
    inside, outside = [], []
    for name, block in bundle.signature.inputs.items():
        match block.form:
            case "numbers" if name == "numbers":
                inside.append("numbers: fences, indicators of what is missing, imputing, logarithms, scaling")
                outside.append("numbers: texts read as numbers, NaN where missing; dates as the numbers they become")
            case "numbers":
                outside.append(f"{name}: labels as 0 and 1, in their order")
            case "categories":
                inside.append(f"{name}: codes looked up in tables")
                outside.append(f"{name}: labels as codes, by the order of the field's labels")
            case "tokens":
                inside.append(f"{name}: ids looked up in tables; what fills a row up has no effect")
                outside.append(f"{name}: texts as ids, by the tokenizer under `reading`, filled up with 0")
            case "image":
                inside.append(f"{name}: bytes to brightnesses, normalised")
                outside.append(f"{name}: pictures decoded and resized to {list(block.shape)} bytes, channels first")
            case _:
                inside.append(f"{name}: normalised, where the policy does so")
    return inside, outside


def measured(told: Mapping[str, Json], **more: Json) -> str:
    """export.json as text."""
    return json.dumps({**told, **more}, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
