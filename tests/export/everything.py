"""Bundles of every kind, small and untrained: what exports are tried on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.forms import TableForm
from reinforge.bundle.observation_form import ObservationForm
from reinforge.bundle.task import Reading, Task
from reinforge.bundle.writing import write_bundle
from reinforge.data.images import to_base64
from reinforge.data.options import BytePairOptions, CharacterOptions, WordOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.readers import read
from reinforge.models.classic.fitting import fit
from reinforge.models.options import ComposedOptions
from reinforge.registry import REGISTRY
from reinforge.schema.fields import (
    Box,
    Category,
    Continuous,
    Date,
    Discrete,
    Image,
    Labels,
    MultiDiscrete,
    Number,
    Span,
    Text,
    Vector,
)
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature

WORDS = ("red", "green", "blue", "Öl", "水", "it's", "no.", "well-known")
TOKENIZERS = {"word": WordOptions(), "character": CharacterOptions(), "byte-pair": BytePairOptions(size=300)}


def picture(draw: np.random.Generator) -> str:
    """A PNG of 5 by 7 pixels in base64."""
    buffer = io.BytesIO()
    Picture.fromarray(draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(buffer, "PNG")
    return to_base64(buffer.getvalue())


def rows(count: int = 24, *, image: bool = True) -> list[dict[str, Any]]:
    """Rows with everything that a table may hold, some of it missing."""
    draw = np.random.default_rng(0)
    made = []
    for i in range(count):
        text = " ".join(draw.choice(WORDS, int(draw.integers(1, 9))))
        made.append(
            {
                "size": None if i % 7 == 3 else float(draw.normal(40, 5)),
                "wide": float(10 ** draw.uniform(-1, 6)) * (-1) ** i,
                "out": 1000.0 if i % 11 == 0 else float(draw.normal()),
                "clipped": " 7e2" if i % 9 == 0 else str(float(draw.normal())),
                "when": f"2026-{i % 12 + 1:02d}-03T0{i % 9}:30:00",
                "island": [" Biscoe", "Dream", None][i % 3],
                "loose": ["New York", "NEW  york", "Rome"][i % 3],
                "hashed": f"user {i}",
                "code": [1, "1.0", 2.5][i % 3],
                "tags": [["a", "b"], [], "a,c"][i % 3],
                "yes": i % 2,
                "no": "true" if i % 3 else None,
                "note": text,
                **({"photo": picture(draw)} if image else {}),
                "species": ["Adelie", "Gentoo"][i % 2],
                "grade": str(i % 3 + 1),
                "price": float(draw.normal(100, 20)),
                "income": float(10 ** draw.uniform(2, 6)),
                "x": float(draw.normal()),
                "y": float(draw.normal()),
                "visits": int(draw.integers(0, 5)),
                "held": [["p", "q"], ["q"], []][i % 3],
                "answer": text.split()[0],
            }
        )
    return made


def fields(*, image: bool = True, text: bool = True) -> tuple[Any, ...]:
    """The schema's fields of `rows`."""
    return (
        Number(name="size", indicator=True),
        Number(name="wide", transform="log"),
        Number(name="out", outliers="missing", missing="median"),
        Number(name="clipped", outliers="clip", scale="robust"),
        Date(name="when", parts=("elapsed", "month", "hour"), indicator=True),
        Category(name="island"),
        Category(name="loose", spelling="loose"),
        Category(name="hashed", coding="hash", buckets=7),
        Category(name="code", missing="error"),
        Labels(name="tags"),
        Labels(name="both", columns=("yes", "no")),
        *([Text(name="note", length=7)] if text else []),
        *([Image(name="photo", size=(8, 8))] if image else []),
        Category(name="species", role="target", missing="drop", unseen="error"),
        Category(name="grade", role="target", missing="drop", unseen="error", ordered=True),
        Number(name="price", role="target", missing="drop"),
        Number(name="income", role="target", missing="drop", transform="log"),
        Vector(name="point", columns=("x", "y")),
        Number(name="visits", role="target", missing="drop", count=True),
        Labels(name="held", role="target", missing="empty", unseen="error"),
        *([Span(name="answer", of="note")] if text else []),
    )


def table(path: Path, options: Any = None, *, tokenizer: str = "word", image: bool = True, text: bool = True) -> Bundle:
    """A bundle of everything that a table may hold; `options` of the composed model, or of a classic one."""
    data = rows(image=image)
    schema = Schema(fields=fields(image=image, text=text))
    columns = read(data).plain(schema)
    pipeline = Pipeline.fit(columns, schema, tokenizers={"note": TOKENIZERS[tokenizer]})
    torch.manual_seed(0)
    options = options or ComposedOptions()
    batch = pipeline.transform(columns)
    if options.kind in ("composed",):
        model = REGISTRY.build("model", options, pipeline.signature)
        model.observe(batch["inputs"])
    else:
        model = REGISTRY.build("model", options, pipeline.signature)
        fit(model, batch, seed=0)
        options = model.described
    for parameter in model.parameters():
        # Far from what a new network says: differences would hide in small numbers.
        parameter.data *= 1.5
    targets = {f.name for f in schema.targets} | {"x", "y"}
    examples = [{k: v for k, v in row.items() if k not in targets} for row in data[:7]]
    outputs = {
        "species": Reading(temperature=1.7, threshold=0.4),
        "held": Reading(temperature=0.8, thresholds=(0.3, 0.6)),
    }
    return write_bundle(
        path, model=model, options=options, signature=pipeline.signature, form=TableForm(pipeline), examples=examples,
        task=Task(outputs=outputs), provenance={"name": "everything"},
    )  # fmt: skip


def policy(path: Path, options: Any, *, action: str = "discrete", image: bool = False) -> Bundle:
    """A policy over a box and choices, or over a picture."""
    boxes: list[Box]
    if image:
        boxes = [Box(name="observation", shape=(20, 24, 3), dtype="uint8", low=0, high=255)]
        inputs = {"observation": Input(form="image", shape=(1, 12, 12))}
    else:
        boxes = [Box(name="place", shape=(3,)), Box(name="turn", shape=(2,), dtype="int64", low=(1.0, 0.0))]
        inputs = {"place": Input(form="box", shape=(3,)), "turn": Input(form="categories", sizes=(3, 2))}
    actions: dict[str, tuple[Any, Output]] = {
        "discrete": (Discrete(n=4, start=-1), Output(form="discrete", size=4)),
        "multi-discrete": (
            MultiDiscrete(sizes=(2, 3), starts=(1, 0)), Output(form="multi-discrete", size=5, sizes=(2, 3)),
        ),
        "continuous": (
            Continuous(low=(-2.0, -1.0), high=(2.0, 1.0)),
            Output(form="continuous", size=2, low=(-2.0, -1.0), high=(2.0, 1.0)),
        ),
    }  # fmt: skip
    field, output = actions[action]
    schema, signature = Schema(fields=(*boxes, field)), Signature(inputs=inputs, outputs={"action": output})
    torch.manual_seed(0)
    model = REGISTRY.build("model", options, signature)
    return write_bundle(
        path, model=model, options=options, signature=signature, form=ObservationForm(schema, signature),
        examples=observations(image=image),
    )  # fmt: skip


def observations(count: int = 5, *, image: bool = False) -> list[dict[str, Any]]:
    """Rows that `policy` takes."""
    draw = np.random.default_rng(1)
    if image:
        return [{"observation": draw.integers(0, 256, (20, 24, 3)).tolist()} for _row in range(count)]
    return [
        {"place": draw.normal(size=3).tolist(), "turn": [int(draw.integers(1, 4)), int(draw.integers(0, 2))]}
        for _row in range(count)
    ]
