"""8 bits by fixed grids: the rounding is ONNX's, the grids are the best there are, and onnxruntime computes in them."""

from __future__ import annotations

import collections
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reinforge.bundle.loading import load
from reinforge.bundle.writing import write_bundle
from reinforge.compress.aware import rounding
from reinforge.compress.calibration import PARTS, best, round_biases, static
from reinforge.compress.compress import EIGHT_BITS, compress
from reinforge.compress.judged import Judged
from reinforge.compress.matching import match
from reinforge.errors import BundleError, ComponentError, RecipeError
from reinforge.export.export import export
from reinforge.models.classic.options import TreeOptions
from reinforge.models.compressed import Compressed, quantised
from reinforge.models.options import CNNOptions, ComposedOptions, MLPOptions, TransformerOptions
from reinforge.models.policy_options import QNetworkOptions
from reinforge.models.static import Grid, Grids, StaticConv2d, StaticLinear, fix, fold, rounded
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Output, Signature
from reinforge.workflow.starting import transfer
from tests.bundle import made
from tests.export import everything

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
CONVOLUTIONS = ComposedOptions(
    encoders={"photo": CNNOptions(width=16, stages=2, norm="batch")}, body=MLPOptions(sizes=(32,))
)


def quantized(x: np.ndarray[Any, Any], grid: Grid) -> np.ndarray[Any, Any]:
    """What onnxruntime's own operators make of numbers."""
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["u"]),
        helper.make_node("DequantizeLinear", ["u", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, kinds.FLOAT, [None]) for name in "xy"]
    held = [
        helper.make_tensor("s", kinds.FLOAT, [], [grid.scale]),
        helper.make_tensor("z", kinds.UINT8, [], [grid.zero]),
    ]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": x})
    return np.asarray(found)


@pytest.mark.parametrize("scale", [0.5, 0.1, 2 / 255, 0.0123])
@pytest.mark.parametrize("zero", [0, 7, 128, 255])
def test_rounding_is_that_of_onnx(scale: float, zero: int) -> None:
    """Halves, what lies beside them, what is too small or too large, and anything else."""
    grid = Grid(scale=float(np.float32(scale)), zero=zero)
    halves = (np.arange(-600, 601) / 2).astype(np.float32) * np.float32(scale)
    beside = [np.nextafter(halves, np.float32(end)) for end in (-np.inf, np.inf)]
    some = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 100 * np.float32(scale)
    x = np.concatenate([halves, *beside, some, np.float32([1e30, -1e30])])
    with torch.no_grad():
        found = rounded(torch.from_numpy(x), grid).numpy()
    np.testing.assert_array_equal(found, quantized(x, grid))
    assert found.min() == -zero * np.float32(grid.scale)
    assert found.max() == (255 - zero) * np.float32(grid.scale)


def test_gradients_pass_but_where_something_is_cut_off() -> None:
    grid = Grid(scale=0.5, zero=2)
    x = torch.tensor([-3.0, -0.9, 0.2, 126.4, 200.0], requires_grad=True)
    found = rounded(x, grid)
    assert found.tolist() == [-1.0, -1.0, 0.0, 126.5, 126.5]
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("kind", ["normal", "positive", "outlier", "pixels"])
def test_a_grid_is_the_best_of_all_that_are_tried(kind: str) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=3000).astype(np.float32)
    x = {
        "normal": x, "positive": np.maximum(x, 0), "outlier": np.concatenate([x[:300], np.float32([40])]),
        "pixels": np.arange(256, dtype=np.float32) / 255 * 2 - 1,
    }[kind]  # fmt: skip

    def error(scale: float, zero: int) -> float:
        units = np.clip(np.round(x / np.float32(scale)), -zero, 255 - zero)
        return float(np.square(units.astype(np.float64) * scale - x).mean())

    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    errors = {}
    for part in PARTS:
        scale = float(np.float32((high - low) * part / 100 / 255))
        # In the middle of a range no unit is exactly 0: either beside it will do.
        errors[part] = min(error(scale, round(-low * part / 100 / scale + shift)) for shift in (-0.01, 0.01))
    found = best(torch.from_numpy(x))
    assert error(found.scale, found.zero) <= min(errors.values()) * (1 + 1e-3)
    if kind == "positive":
        assert found.zero == 0
    if kind == "pixels":
        # All of them lie between two units of the range itself.
        assert error(found.scale, found.zero) < 0.5 * errors[100]


def test_grids_fit_what_goes_in_and_comes_out_and_sums_are_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    x = torch.randn(64, 3, 6, 6)
    # Its inputs are a batch by name.
    named = Named(model)
    changed, change = static(named, lambda: {"x": x})
    assert set(change.static) == {"model.0", "model.3"}
    first, last = change.static["model.0"], change.static["model.3"]
    with torch.no_grad():
        maps = model[0](x)
    assert first.output is not None
    assert last.output is None
    for found, numbers in ((first.input, x), (first.output, maps), (last.input, maps.relu())):
        # Of neighbours the order of a sum decides.
        assert found.scale == pytest.approx(best(numbers).scale, rel=0.03)
        assert found.zero == pytest.approx(best(numbers).zero, abs=1)
    round_biases(changed)
    layer, units = changed.model[0], lambda x, grid: (x / grid.scale).round().clamp(-grid.zero, 255 - grid.zero)
    weight, worth = quantised(layer.weight.detach())
    bias = (layer.bias.detach() / (worth * first.input.scale)).round()
    sums = nn.functional.conv2d(units(x, first.input).double(), weight.double(), None, 2, 1) + bias.view(-1, 1, 1)
    exact = sums * (worth.double() * first.input.scale).view(-1, 1, 1)
    expected = units(exact, first.output) * first.output.scale
    with torch.no_grad():
        apart = (layer(x).double() - expected).abs() / first.output.scale
    # A sum of 32 bits may fall to the other side of a half.
    assert float((apart > 0.5).double().mean()) < 1e-3
    assert float(apart.max()) < 1.01


def test_a_bias_stays_where_weights_are_next_to_nothing(tmp_path: Path) -> None:
    """Outputs without weights, or nearly, are their biases: in torch and in onnxruntime."""
    parent = everything.table(tmp_path / "whole", CONVOLUTIONS, text=False)
    layers = [layer for layer in parent.model.modules() if type(layer) is nn.Linear and layer.weight.numel() >= 64]
    with torch.no_grad():
        for layer in layers:
            layer.weight[0], layer.bias[0] = 0, 1.5
            layer.weight[1] *= 1e-20
            layer.bias[1] = -0.75
    inputs = parent.form.inputs(everything.rows(24))
    changed, change = static(parent.model, lambda: inputs)
    round_biases(changed)
    fixed = [layer for layer in changed.modules() if isinstance(layer, StaticLinear)]
    assert fixed
    with torch.no_grad():
        for layer in fixed:
            found = layer(torch.randn(5, layer.in_features))
            torch.testing.assert_close(found[:, :2], torch.tensor([1.5, -0.75]).expand(5, 2))
    compressed(parent, inputs, tmp_path / "small")
    export(tmp_path / "small", "onnx", tmp_path / "onnx")
    from reinforge.edge.runner import Runner

    small, runner, given = load(tmp_path / "small"), Runner(tmp_path / "onnx"), everything.rows(40)[24:]
    run, outputs = runner.run(runner.inputs(given)[0]), small.forward(small.form.inputs(given))
    for name, output in outputs.items():
        assert np.median(np.abs(run[name] - output.numpy()).reshape(len(given), -1).max(1)) < 1e-4, name
    assert set(change.static)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e32])
def test_numbers_that_no_grid_holds_are_refused(number: float) -> None:
    x = torch.randn(64, 32)
    x[3, 4] = number
    with pytest.raises(RecipeError, match=r"model.0 meets numbers that are not finite"):
        static(Named(nn.Sequential(nn.Linear(32, 8))), lambda: {"x": x})


def test_layers_that_meet_nothing_stay_as_they_are() -> None:
    """No rows at all, or nothing but zeros, which say nothing of what will come."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.empty, self.zeros, self.full = (nn.Linear(32, 8) for _each in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.empty(x[:0]), self.zeros(x * 0) + self.full(x)])

    changed, change = static(Named(Parts()), lambda: {"x": torch.randn(64, 32)})
    assert set(change.static) == {"model.full"}
    assert type(changed.model.zeros) is nn.Linear


class Named(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], None]:
        return {"y": self.model(batch["x"])}, None


def test_normalisations_by_batches_go_into_the_convolutions(tmp_path: Path) -> None:
    bundle = everything.table(tmp_path / "bundle", CONVOLUTIONS, text=False)
    for module in bundle.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.5, 2)
    inputs = bundle.form.inputs(everything.rows(7))
    folded = copy.deepcopy(bundle.model)
    fold(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        for name, output in bundle.model(inputs)[0].items():
            torch.testing.assert_close(folded(inputs)[0][name], output, rtol=1e-4, atol=1e-4)


def compressed(parent: Any, inputs: Any, path: Path) -> Compressed:
    """Write a bundle of grids, without judging it."""
    model, change = static(parent.model, lambda: inputs)
    round_biases(model)
    rows = [json.loads(line)["row"] for line in (parent.path / "golden.jsonl").read_text().splitlines()]
    task = parent.task.model_copy(update={"tolerance": {"float32": EIGHT_BITS}})
    write_bundle(
        path, model=model, options=parent.blueprint.options, signature=parent.signature, form=parent.form,
        examples=rows, task=task, compressed=change,
    )  # fmt: skip
    return change


def kernels(path: Path) -> collections.Counter[str]:
    """The operators that onnxruntime computes with."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(path / "optimised.onnx").graph.node)


def test_onnxruntime_computes_in_8_bits_what_the_bundle_gives(tmp_path: Path) -> None:
    from reinforge.edge.runner import Runner

    parent = everything.table(tmp_path / "whole", CONVOLUTIONS, text=False)
    change = compressed(parent, parent.form.inputs(everything.rows(24)), tmp_path / "small")
    small = load(tmp_path / "small")
    several = collections.Counter(type(small.model.get_submodule(name)) for name in change.static)
    assert several[StaticConv2d] == 6
    assert several[StaticLinear] >= 3
    export(tmp_path / "small", "onnx", tmp_path / "onnx")
    found = kernels(tmp_path / "onnx")
    assert found["QLinearConv"] == several[StaticConv2d]
    assert found["QGemm"] == several[StaticLinear]
    assert not found["Conv"]
    runner, given = Runner(tmp_path / "onnx"), everything.rows(40)[24:]
    inputs, _beside = runner.inputs(given)
    outputs = small.forward(small.form.inputs(given))
    run = runner.run(inputs)
    apart = {name: np.abs(run[name] - outputs[name].numpy()).reshape(len(given), -1).max(1) for name in outputs}
    # Where no sum falls to the other side of a half, all is the same.
    for name, each in apart.items():
        assert np.median(each) < 1e-4, name


@pytest.mark.slow
def test_tokens_and_policies_too(tmp_path: Path) -> None:
    """Layers of three sides become products of whole numbers; a policy's plain layers are called."""
    text = ComposedOptions(encoders={"note": TransformerOptions(width=16, heads=2, layers=1)})
    parent = everything.table(tmp_path / "text", text, image=False)
    compressed(parent, parent.form.inputs(everything.rows(24, image=False)), tmp_path / "small-text")
    export(tmp_path / "small-text", "onnx", tmp_path / "text-onnx")
    found = kernels(tmp_path / "text-onnx")
    assert found["MatMulIntegerToFloat"] + found["QGemm"] + found["QLinearMatMul"] >= 4, found
    policy = everything.policy(tmp_path / "policy", QNetworkOptions(sizes=(32, 32)))
    change = compressed(policy, policy.form.inputs(everything.observations(11)), tmp_path / "small-policy")
    assert change.static
    export(tmp_path / "small-policy", "onnx", tmp_path / "policy-onnx")
    assert kernels(tmp_path / "policy-onnx")["QGemm"] == len(change.static)


@pytest.mark.slow
def test_a_bundle_is_judged_by_its_onnx_graph(tmp_path: Path) -> None:
    form, _table = made.table_form()
    options = ComposedOptions(body=MLPOptions(sizes=(160, 160)))
    torch.manual_seed(0)
    model = REGISTRY.build("model", options, form.pipeline.signature)
    made.table_bundle(tmp_path / "wide", options=options, model=model)
    rows = made.rows(60, seed=5)
    found = compress(
        tmp_path / "wide", "int8-static", tmp_path / "out", data=rows, train=rows, goal="size", tolerance=0.2
    )
    told = export(tmp_path / "out", "onnx", tmp_path / "onnx")
    assert found.after.weights == (tmp_path / "onnx" / "model.onnx").stat().st_size
    assert told.notes == ()
    assert found.smaller > 2
    assert found.after.milliseconds < 5
    again = load(tmp_path / "out")
    assert again.parents == (load(tmp_path / "wide").digest,)
    told = export(tmp_path / "out", "torch-export", tmp_path / "torch")
    assert any("fixed grids" in note for note in told.notes)


@pytest.mark.parametrize(
    ("goal", "changed", "message"),
    [("latency", {"milliseconds": 2.0}, "no faster"), ("size", {"weights": 300}, "no smaller"),
     (None, {"quality": 0.5}, "may be lost")],
)  # fmt: skip
def test_what_misses_its_goal_is_refused(
    goal: str | None, changed: dict[str, float], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.table_bundle(tmp_path / "wide")
    said = iter([{}, changed])

    def judged(_bundle: object, _data: object, _episodes: object, as_onnx: bool) -> Judged:
        assert as_onnx
        return replace(Judged("accuracy", 0.9, 200, 300, 1.0, 2.0), **next(said))

    monkeypatch.setattr("reinforge.compress.compress.judged", judged)
    with pytest.raises(RecipeError, match=message):
        compress(tmp_path / "wide", "int8-static", tmp_path / "out", goal=goal, train=made.rows(60))
    assert not (tmp_path / "out").exists()


def test_a_training_begins_with_the_bundle_before(tmp_path: Path) -> None:
    parent = everything.table(tmp_path / "whole", CONVOLUTIONS, text=False)
    compressed(parent, parent.form.inputs(everything.rows(24)), tmp_path / "small")
    with pytest.raises(ComponentError, match="fixed grids"):
        transfer(load(tmp_path / "small"), parent.model, ())


def test_what_has_no_such_layers_is_refused(tmp_path: Path) -> None:
    for bundle in (made.text_bundle(tmp_path / "text"), everything.table(tmp_path / "tree", TreeOptions(), text=False)):
        with pytest.raises(RecipeError, match=r"fixed grids|no linear layer"):
            compress(bundle.path, "int8-static", tmp_path / "out", train=[])
    assert not (tmp_path / "out").exists()


def test_hostile_grids_are_refused(tmp_path: Path) -> None:
    parent = everything.table(tmp_path / "whole", CONVOLUTIONS, text=False)
    compressed(parent, parent.form.inputs(everything.rows(24)), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    grids = told["compressed"]["static"]
    name = next(iter(grids))
    for change in ({"heads": grids[name]}, {name: {"input": {"scale": 0, "zero": 0}}},
                   {name: {"input": {"scale": 1, "zero": 256}}}):  # fmt: skip
        made.rewrite(
            tmp_path / "out", "model.json",
            json.dumps({**told, "compressed": {**told["compressed"], "static": {**grids, **change}}}),
        )  # fmt: skip
        with pytest.raises(BundleError):
            load(tmp_path / "out")


def test_what_learns_with_the_rounding_is_nearer_to_the_original() -> None:
    """A network that 8 bits hurt: each row has one weight that is much larger than the others."""
    torch.manual_seed(0)
    teacher = Named(nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)))
    with torch.no_grad():
        for layer in (teacher.model[0], teacher.model[2]):
            layer.weight[:, 0] *= 30
    inputs = {"x": torch.randn(400, 32)}
    signature = Signature(inputs={}, outputs={"y": Output(form="number", size=3)})
    student, change = static(teacher, lambda: inputs)
    with torch.no_grad():
        wanted = teacher(inputs)[0]["y"]
        before = float((student(inputs)[0]["y"] - wanted).square().mean())
        with rounding(student, change):
            torch.testing.assert_close(float((student(inputs)[0]["y"] - wanted).square().mean()), before)
    with rounding(student, change):
        match(student, teacher, inputs, signature, 300, 0, rate=1e-4)
    assert type(student.model[0]) is StaticLinear
    with torch.no_grad():
        assert float((student(inputs)[0]["y"] - wanted).square().mean()) < 0.7 * before


def test_other_layers_can_not_be_fixed() -> None:
    with pytest.raises(KeyError):
        fix(nn.Conv1d(1, 1, 1), Grids(input=Grid(scale=1.0, zero=0)))
