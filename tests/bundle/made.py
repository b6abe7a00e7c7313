"""Small bundles of every form, made in a moment."""

import hashlib
import json

import numpy as np
import torch
from torch import nn

from reinforge.bundle.forms import TableForm
from reinforge.bundle.observation_form import ObservationForm
from reinforge.bundle.sketch import sketch
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.data.pipeline import Pipeline
from reinforge.data.readers import read
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.templates import TEMPLATES
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.models.composed import Composed, Wrapped
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.options import ComposedOptions
from reinforge.models.policy_options import QNetworkOptions, SquashedGaussianOptions
from reinforge.registry import REGISTRY
from reinforge.schema.fields import Box, Category, Continuous, Discrete, Number
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature
from reinforge.storage.manifest import FileRecord, Manifest


def rows(count=40, seed=0):
    draw = np.random.default_rng(seed)
    made = []
    for i in range(count):
        size = float(draw.normal(40, 5))
        made.append(
            {
                "size": None if i % 7 == 3 else size,
                "mass": int(draw.integers(2000, 6000)),
                "island": ["Biscoe", "Dream", "Torgersen"][i % 3],
                "species": ["Adelie", "Gentoo"][int(size > 40)],
                "price": size * 2 + 1,
            }
        )
    return made


def table_form():
    fields = [
        Number(name="size", indicator=True),
        Number(name="mass"),
        Category(name="island"),
        Category(name="species", role="target", missing="drop", unseen="error"),
        Number(name="price", role="target", missing="drop"),
    ]
    schema = Schema(fields=tuple(fields))
    table = read(rows())
    return TableForm(Pipeline.fit(table.plain(schema), schema)), table


RECIPE = {
    "data": {"kind": "table", "targets": ["species", "price"]},
    "model": {"kind": "composed"},
    "objective": {"kind": "supervised"},
}


def table_bundle(path, **keywords):
    form, table = table_form()
    torch.manual_seed(0)
    options = ComposedOptions()
    signature = form.pipeline.signature
    model = Composed(options, signature)
    inputs = [{k: v for k, v in row.items() if k not in ("species", "price")} for row in rows(8)]
    keywords = {"options": options, "model": model, "examples": inputs, **keywords}
    return write_bundle(
        path,
        signature=signature,
        form=form,
        reference=sketch(table, form.schema),
        provenance={"name": "made", "metrics": {"accuracy": 0.5}, "recipe": RECIPE},
        **keywords,
    )


def policy_bundle(path, continuous=False, **keywords):
    low, high = (-2.0, -1.0), (2.0, 1.0)
    action = Continuous(low=low, high=high) if continuous else Discrete(n=3, start=1)
    schema = Schema(fields=(Box(name="observation", shape=(4,)), action))
    output = Output(form="continuous", size=2, low=low, high=high) if continuous else Output(form="discrete", size=3)
    signature = Signature(inputs={"observation": Input(form="box", shape=(4,))}, outputs={"action": output})
    options = SquashedGaussianOptions() if continuous else QNetworkOptions()
    torch.manual_seed(0)
    model = REGISTRY.build("model", options, signature)
    examples = [{"observation": list(map(float, np.random.default_rng(i).normal(size=4)))} for i in range(4)]
    form = ObservationForm(schema, signature)
    return write_bundle(
        path, model=model, options=options, signature=signature, form=form, examples=examples, **keywords
    )


class Own(nn.Module):
    """A user's module with tied weights and a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 1)
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()))


def own_bundle(path):
    schema = Schema(fields=(*(Number(name=f"x{i}") for i in range(4)), Number(name="y", role="target", missing="drop")))
    draw = np.random.default_rng(0)
    data = {name: draw.normal(size=20) for name in ("x0", "x1", "x2", "x3", "y")}
    pipeline = Pipeline.fit(read(data).plain(schema), schema)
    torch.manual_seed(0)
    model = Wrapped(Own(), pipeline.signature)
    examples = [{f"x{i}": float(i) for i in range(4)}]
    return write_bundle(
        path,
        model=model,
        options="own-net",
        signature=pipeline.signature,
        form=TableForm(pipeline),
        examples=examples,
        modules={"own-net": Own},
    )


def rewrite(path, name, content):
    """Change a file and give the manifest right digests, as whoever wants to mislead would."""
    data = content if isinstance(content, bytes) else content.encode()
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = {n: FileRecord(f["size"], f["sha256"]) for n, f in manifest["files"].items()}
    made_again = Manifest(manifest["format"], manifest["version"], files, manifest["about"])
    (path / "manifest.json").write_text(made_again.text())


def text_bundle(path, **keywords):
    form = TextForm(TextPipeline(CharacterTokenizer("".join(sorted(set("the quick brown fox.\n"))))))
    options = DecoderOptions(layers=2, width=32, heads=2, context=48)
    torch.manual_seed(0)
    model = REGISTRY.build("model", options, form.pipeline.signature)
    examples = [{"text": "the quick"}, {"text": "fox. brown fox"}]
    return write_bundle(
        path, model=model, options=options, signature=form.pipeline.signature, form=form, examples=examples, **keywords
    )


def chat_pipeline(characters=" .,?!abcdefghijklmnopqrstuvwxyz"):
    template = TEMPLATES["chatml"]
    marks = Marks(*template.documents)
    base = CharacterTokenizer("".join(sorted({"\n", *characters})))
    return TextPipeline(SpecialTokenizer(base, (marks.pad, marks.bos, marks.eos, *template.specials)), marks, template)


def chat_bundle(path, context=96, width=32, **keywords):
    """A decoder with new weights that writes chats by the template chatml."""
    torch.manual_seed(0)
    pipeline = chat_pipeline(**keywords)
    options = DecoderOptions(layers=1, width=width, heads=2, context=context)
    model = REGISTRY.build("model", options, pipeline.signature)
    return write_bundle(
        path, model=model, options=options, signature=pipeline.signature, form=TextForm(pipeline),
        examples=[{"text": "hello"}],
    )  # fmt: skip
