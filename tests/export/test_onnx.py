"""ONNX exports: golden rows through onnxruntime at several sizes, and `reinforge-edge` predicts as the bundle does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.compress.shrinking import in_8_bits
from reinforge.data.operations.numbers import Blank, Clip, Impute, Indicate, Log, Scale
from reinforge.edge.__main__ import alike
from reinforge.edge.runner import Runner
from reinforge.errors import ComponentError, IntegrityError, PathError
from reinforge.export.export import export
from reinforge.export.graph import Preparation
from reinforge.export.replay import golden_rows
from reinforge.models.classic.options import BoostingOptions, ForestOptions, LinearOptions, TreeOptions
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.options import (
    AttentionOptions,
    BagOptions,
    CNNOptions,
    ComposedOptions,
    EmbeddingOptions,
    GateOptions,
    MLPOptions,
    OneHotOptions,
    PeriodicOptions,
    PiecewiseOptions,
    ResidualMLPOptions,
    RNNOptions,
    TransformerOptions,
    WeightedSumOptions,
)
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    DistributionOptions,
    MemoryOptions,
    QNetworkOptions,
    SquashedGaussianOptions,
)
from reinforge.registry import REGISTRY
from reinforge.workflow.train import train
from tests.bundle import made
from tests.contract.examples import OPTIONS
from tests.export import everything

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

Make = Callable[[Path], Bundle]
RNN2 = RNNOptions(embedding=6, size=5, cell="lstm", layers=2, bidirectional=True, ngrams=2, buckets=16)
BERT: Any = OPTIONS["encoder", "pretrained"]
SMALL = CNNOptions(width=4, stages=2)
KINDS: dict[str, Make] = {
    "everything": lambda path: everything.table(path),
    "gate": lambda path: everything.table(
        path,
        ComposedOptions(
            encoders={"note": RNN2, "numbers": PiecewiseOptions(bins=4, size=3), "photo": SMALL},
            fusion=GateOptions(size=12), body=ResidualMLPOptions(width=12, blocks=1),
        ),
    ),
    "attention": lambda path: everything.table(
        path,
        ComposedOptions(
            encoders={
                "note": TransformerOptions(width=8, heads=2, layers=1, ngrams=3, buckets=32),
                "numbers": PeriodicOptions(frequencies=3, size=2), "categories": OneHotOptions(),
                "photo": SMALL,
            },
            fusion=AttentionOptions(size=8, heads=2),
        ),
        tokenizer="character",
    ),
    "weighted-sum": lambda path: everything.table(
        path,
        ComposedOptions(
            encoders={
                "note": BagOptions(size=6, ngrams=3, buckets=32, pool="root"), "categories": EmbeddingOptions(size=3),
            },
            fusion=WeightedSumOptions(size=12),
        ),
        tokenizer="byte-pair",
    ),
    "tree": lambda path: everything.table(path, TreeOptions(), text=False),
    "forest": lambda path: everything.table(path, ForestOptions(trees=5), text=False),
    "boosting": lambda path: everything.table(path, BoostingOptions(rounds=5), text=False),
    "linear": lambda path: everything.table(path, LinearOptions(), text=False),
    "language": made.text_bundle,
    "chats": made.chat_bundle,
    "memory": lambda path: everything.policy(
        path, ActorCriticOptions(sizes=(8,), memory=MemoryOptions(kind="lstm", size=6), normalise=True),
        action="multi-discrete",
    ),
    "frames": lambda path: everything.policy(path, SquashedGaussianOptions(sizes=(8,), frames=3), action="continuous"),
    "deterministic": lambda path: everything.policy(path, DeterministicOptions(sizes=(8,)), action="continuous"),
    "rainbow": lambda path: everything.policy(
        path,
        QNetworkOptions(
            sizes=(8, 8), duelling=True, noisy=0.5,
            distribution=DistributionOptions(kind="categorical", atoms=5, low=0, high=9),
        ),
    ),
    "pixels": lambda path: everything.policy(path, QNetworkOptions(sizes=(8,), frames=2), image=True),
}  # fmt: skip
SOME = pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])


@SOME
def test_every_kind_of_bundle_predicts_as_itself(kind: str, tmp_path: Path) -> None:
    bundle = KINDS[kind](tmp_path / "bundle")
    told = export(tmp_path / "bundle", "onnx", tmp_path / "out")
    description = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told.measured["parity"] == description["parity"]["worst"] < 1e-4
    assert len(description["parity"]["by rows"]) >= 3
    runner = Runner(tmp_path / "out")
    # Rows that no export has seen, at sizes that it has not seen either.
    if bundle.form.kind == "table":
        given = everything.rows(19, image="photo" in [f.name for f in bundle.schema.inputs])
    elif bundle.form.kind == "observation":
        given = everything.observations(11, image=kind == "pixels")
    else:
        given = [
            record["row"] for record in map(json.loads, (tmp_path / "out" / "golden.jsonl").read_text().splitlines())
        ]
    expected, found = bundle.predict(given), runner.predict(given)
    assert all(alike(mine, theirs, 1e-4, 1e-5) for mine, theirs in zip(found, expected, strict=True)), (found, expected)
    if kind in ("memory", "frames", "pixels"):
        # An episode goes on, some rows with a memory and others without.
        for _step in range(3):
            for row, mine in zip(given[1::2], expected[1::2], strict=True):
                row["memory"] = mine["action"]["memory"]
            expected, found = bundle.predict(given), runner.predict(given)
            assert all(alike(mine, theirs, 1e-4, 1e-5) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.slow
def test_a_network_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    vocabulary = 12
    config = {**BERT.config, "vocab_size": vocabulary}
    options = ComposedOptions(encoders={"note": BERT.model_copy(update={"config": config})})
    bundle = everything.table(tmp_path / "bundle", options, image=False)
    export(tmp_path / "bundle", "onnx", tmp_path / "out")
    given = everything.rows(9, image=False)
    found = Runner(tmp_path / "out").predict(given)
    assert all(alike(mine, theirs, 1e-4, 1e-5) for mine, theirs in zip(found, bundle.predict(given), strict=True))


def test_operations_on_numbers_are_the_pipelines_bit_for_bit() -> None:
    draw = np.random.default_rng(0)
    block = draw.normal(size=(200, 4)) * 10.0 ** draw.integers(-3, 6, (200, 4))
    block[draw.random((200, 4)) < 0.2] = np.nan
    low, high = np.array([-1.0, -np.inf, -5.0, 0.0]), np.array([1.0, 3.0, np.inf, 0.5])
    steps = [
        Blank(low, np.array([1e3, 3.0, np.inf, 7.0])), Clip(low, high), Indicate(np.array([0, 3])),
        Impute(np.array([0.5, 1.0, 2.0, 3.0, np.nan, np.nan])), Log(np.array([1, 2])),
        Scale(np.arange(6.0), np.array([1.0, 2.0, 0.3, 7.0, 1.0, 1.0])),
    ]  # fmt: skip
    expected = block
    for step in steps:
        expected = step.apply(expected)
    found = Preparation(steps)(torch.from_numpy(block)).numpy()
    np.testing.assert_allclose(found, expected.astype(np.float32), rtol=2e-7, atol=1e-12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    made.table_bundle(folder / "bundle")
    export(folder / "bundle", "onnx", folder / "out")
    return folder


def test_the_graph_holds_no_path_of_this_machine(exported: Path) -> None:
    content = (exported / "out" / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_an_export_says_where_its_preprocessing_is(exported: Path) -> None:
    told = json.loads((exported / "out" / "export.json").read_text())["preprocessing"]
    assert any(line.startswith("numbers: ") and "scaling" in line for line in told["inside the graph"])
    assert any(line.startswith("categories: labels as codes") for line in told["before the graph"])


def test_a_changed_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("export.json", "golden.jsonl"):
        (tmp_path / name).write_bytes((exported / "out" / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes((exported / "out" / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match="not the one that was exported"):
        Runner(tmp_path)


def test_a_folder_that_holds_something_is_left_alone(exported: Path) -> None:
    with pytest.raises(PathError, match="not empty"):
        export(exported / "bundle", "onnx", exported / "out")


def test_an_export_that_disagrees_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner.run

    def wrong(self: Runner, inputs: Any) -> Any:
        outputs = run(self, inputs)
        return {name: value + (0.01 if len(value) == 7 else 0.0) for name, value in outputs.items()}

    monkeypatch.setattr(Runner, "run", wrong)
    with pytest.raises(IntegrityError, match="differs from the bundle"):
        export(exported / "bundle", "onnx", exported / "other")
    assert not (exported / "other").exists()
    assert not list(exported.glob(".other*"))


def test_a_network_that_depends_on_its_data_is_refused(tmp_path: Path) -> None:
    class Loop(made.Own):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while float(x.abs().max()) > 1:
                x = x / 2
            return super().forward(x)

    from reinforge.bundle.writing import write_bundle
    from reinforge.models.composed import Wrapped

    bundle = made.own_bundle(tmp_path / "plain")
    model = Wrapped(Loop(), bundle.signature)
    write_bundle(
        tmp_path / "bundle", model=model, options="loop", signature=bundle.signature, form=bundle.form,
        examples=[{f"x{i}": float(i) for i in range(4)}], modules={"loop": Loop},
    )  # fmt: skip
    with pytest.raises(ComponentError, match="can't be written as a graph"):
        export(tmp_path / "bundle", "onnx", tmp_path / "out", modules={"loop": Loop})


@pytest.mark.parametrize("kind", ["table", "chat"])
def test_weights_in_8_bits_stay_so(kind: str, tmp_path: Path) -> None:
    """In a fraction of the bytes the graph gives what the bundle gives that is stored in 8 bits."""
    if kind == "table":
        form, _table = made.table_form()
        options = ComposedOptions(body=MLPOptions(sizes=(160, 160)))
        torch.manual_seed(0)
        model = REGISTRY.build("model", options, form.pipeline.signature)
        made.table_bundle(tmp_path / "whole", options=options, model=model)
    else:
        # Its head is its embedding.
        made.chat_bundle(tmp_path / "whole", context=32)
    parent = load(tmp_path / "whole")
    rounded, change = in_8_bits(parent.model, computing=False)
    write_bundle(
        tmp_path / "small", model=rounded, options=parent.blueprint.options, signature=parent.signature,
        form=parent.form, examples=[record["row"] for record in golden_rows(parent)], task=parent.task,
        reference=parent.reference, compressed=change,
    )  # fmt: skip
    whole = export(tmp_path / "whole", "onnx", tmp_path / "whole-onnx")
    small = export(tmp_path / "small", "onnx", tmp_path / "small-onnx")
    sizes = [(each.folder / "model.onnx").stat().st_size for each in (whole, small)]
    stored = onnx.load(small.folder / "model.onnx").graph.initializer
    eight = sum(math.prod(each.dims) for each in stored if each.data_type == onnx.TensorProto.INT8)
    assert eight == sum(load(tmp_path / "small").model.state_dict()[name].numel() for name in change.packed)
    assert sizes[0] - sizes[1] > 2.5 * eight
    assert small.measured["parity"] < 1e-4


def test_a_model_whose_golden_rows_are_chats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline = made.chat_pipeline()
    options = DecoderOptions(layers=1, width=32, heads=2, context=64)
    model = REGISTRY.build("model", options, pipeline.signature)
    for name, said in (("chats", "what is it?"), ("silent", "")):
        chat: Any = {"messages": [{"role": "user", "content": said}]}
        write_bundle(
            tmp_path / name, model=model, options=options, signature=pipeline.signature, form=TextForm(pipeline),
            examples=[chat],
        )  # fmt: skip
    told = export(tmp_path / "chats", "onnx", tmp_path / "out")
    assert 0 < told.measured["parity"] < 1e-4
    (line,) = (tmp_path / "out" / "golden.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == {"text": "what is it?"}
    with pytest.raises(IntegrityError, match="no golden rows"):
        export(tmp_path / "silent", "onnx", tmp_path / "nothing")


def test_two_texts_of_a_row_have_lengths_of_their_own(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lines = ["short,long,label"]
    for i in range(60):
        words = [" ".join(draw.choice(everything.WORDS, int(draw.integers(1, most)))) for most in (3, 12)]
        lines.append(f"{words[0]},{words[1]},{'ab'[i % 2]}")
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "data": {
            "kind": "table", "path": str(tmp_path / "rows.csv"), "targets": ["label"],
            "fields": {"short": {"kind": "text", "tokenizer": {"kind": "word"}},
                       "long": {"kind": "text", "tokenizer": {"kind": "character"}}},
        },
        "model": {"kind": "composed", "encoders": {
            "short": {"kind": "bag", "size": 8},
            "long": {"kind": "transformer", "layers": 1, "width": 16, "heads": 2}}},
        "objective": "supervised", "learn": {"stop": {"updates": 3}, "compile": "off"},
    }  # fmt: skip
    run = train(recipe, output=tmp_path / "run")
    for target in ("onnx", "torch-export"):
        found = export(run.folder, target, tmp_path / target)
        assert found.measured["parity"] < 1e-4
    graph = onnx.load(tmp_path / "onnx" / "model.onnx").graph
    sides = {
        each.name: each.type.tensor_type.shape.dim[1].dim_param for each in graph.input if "lengths" not in each.name
    }
    assert sides["short"] != sides["long"]
