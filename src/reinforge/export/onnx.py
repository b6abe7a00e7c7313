"""A bundle's model as an ONNX graph, which onnxruntime runs anywhere, and what `reinforge-edge` needs beside it."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reinforge.bundle.bundle import Bundle
from reinforge.edge.description import GOLDEN, NAME
from reinforge.errors import ComponentError, IntegrityError, MissingExtra, RecipeError
from reinforge.export.description import describe, measured
from reinforge.export.folder import Exported, exported, new_folder
from reinforge.export.graph import ROWS, Graph
from reinforge.export.replay import eager, golden_rows, latency, parity, tolerance_of
from reinforge.export.static import WRITTEN, write_static
from reinforge.messages import _
from reinforge.models.compressed import Int8Linear, quantised, restored
from reinforge.models.static import StaticConv2d, StaticLinear

FILE, OPSET = "model.onnx", 20
# Beyond this protocol buffers end, and weights lie in a file beside.
_LARGEST = 1_500_000_000
# Rows, and tokens of a row, where nothing bounds them.
MOST = 1 << 20
# Golden rows of a language model that are gone on with, to compare: each token is a pass over all before it.
_CONTINUED = 2


def to_onnx(bundle: Bundle, folder: Path) -> Exported:
    """Write model.onnx, export.json and golden.jsonl to a new folder.

    Any number of rows, and of tokens in them, goes through the graph. Golden rows are replayed with onnxruntime at
    several sizes, through the reader of `reinforge-edge`; parity and latency stand in export.json. Raises
    IntegrityError where the two disagree, ComponentError for what no graph can say, MissingExtra, PathError.
    """
    versions = {"torch": torch.__version__, **{name: _version(name) for name in ("onnx", "onnxscript", "onnxruntime")}}
    from reinforge.edge.__main__ import alike
    from reinforge.edge.runner import Runner

    graph, notes = prepared(bundle, whole_numbers=True)
    records = golden_rows(bundle)
    told = describe(bundle, graph, "onnx", FILE)
    with new_folder(folder) as staging:
        size = sum(tensor.nbytes for tensor in graph.state_dict().values())
        program = traced(_stored_in_8_bits(graph, bundle))
        program.save(staging / FILE, external_data=size > _LARGEST)
        if not (staging / FILE).is_file():
            raise IntegrityError(_("the graph was not written"), where=str(folder))
        with (staging / FILE).open("rb") as file:
            told["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        (staging / NAME).write_text(measured(told), encoding="utf-8")
        runner = Runner(staging)
        compared = parity(bundle, graph, runner.run, runner.read, records, "onnx")
        times: dict[str, Any] = {
            "milliseconds by rows": {
                "torch": latency(lambda inputs: eager(graph, inputs), runner.read, records),
                "onnxruntime": latency(runner.run, runner.read, records),
            },
            "threads": {"torch": torch.get_num_threads(), "onnxruntime": 1},
        }
        chosen = records[:_CONTINUED] if bundle.form.kind == "text" else records
        rows = [record["row"] for record in chosen]
        greedy = bundle.form.kind != "text" or (bundle.task.text is None or bundle.task.text.temperature == 0)
        expected = _with_model(bundle, graph.model).predict(rows) if greedy else runner.predict(rows)
        tolerance = tolerance_of(bundle)
        for index, (found, stated) in enumerate(zip(runner.predict(rows), expected)):
            if not alike(found, stated, tolerance.relative, tolerance.absolute):
                raise IntegrityError(
                    _("the export predicts something else than the bundle"), where=f"golden row {index + 1}",
                    remedy=_("Nothing was written. Serve the bundle itself, or report this."),
                )  # fmt: skip
        lines = [{"row": row, "prediction": prediction} for row, prediction in zip(rows, expected)]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        (staging / GOLDEN).write_text(text, encoding="utf-8")
        (staging / NAME).write_text(
            measured(told, parity=compared, latency=times, versions=versions, notes=list(notes)), encoding="utf-8"
        )
    by = times["milliseconds by rows"]
    told_of = {
        "parity": compared["worst"], "milliseconds": by["onnxruntime"]["1"], "torch_milliseconds": by["torch"]["1"]
    }  # fmt: skip
    return exported(folder, f"onnx opset {OPSET}", notes, told_of)


def prepared(bundle: Bundle, whole_numbers: bool = False) -> tuple[Graph, tuple[str, ...]]:
    """The graph of a bundle in evaluation mode, its weights in 32 bits where they have fewer, and notes on it;
    `whole_numbers`: what runs it has kernels for layers of fixed grids.

    Raises RecipeError for a bundle that was never written.
    """
    notes: list[str] = []
    model = bundle.model
    half = [p for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    if half:
        model = copy.deepcopy(model)
        for parameter in model.parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
        notes.append(_("weights of 16 bits are written in 32, as onnxruntime computes on CPUs"))
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        model = copy.deepcopy(model)
        for module in model.modules():
            if isinstance(module, Int8Linear):
                module.__class__ = nn.Linear  # type: ignore[assignment]
        notes.append(_("layers that compute in 8 bits are written to compute in 32"))
    if not whole_numbers and any(isinstance(module, StaticLinear | StaticConv2d) for module in model.modules()):
        notes.append(_("layers of fixed grids are written to round as in 8 bits, and to compute in 32"))
    if bundle.form.kind == "text":
        notes.append(_("the graph has no cache: reinforge-edge reads all of a text again for each token, and takes the "
                       "likeliest one; chats go to the bundle itself"))  # fmt: skip
    if any(bool(getattr(tensor, "is_sparse", False)) for tensor in model.state_dict().values()):
        raise RecipeError(_("its weights are sparse"), where=str(bundle.path))
    return Graph(_with_model(bundle, model)).eval(), tuple(notes)


class _Restored(nn.Module):
    """A weight from its 8 bits: so it is stored in the graph."""

    def forward(self, units: Tensor, worth: Tensor) -> Tensor:
        return restored(units, worth)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return quantised(weight)


def _stored_in_8_bits(graph: Graph, bundle: Bundle) -> Graph:
    """The graph with the weights in 8 bits that its bundle stores so; what reads its weights in a way of its own, as
    recurrent layers do, has them in 32. onnxruntime restores them once, when it loads them."""
    if bundle.blueprint.compressed is None or not bundle.blueprint.compressed.packed:
        return graph
    changed = copy.deepcopy(graph)
    write_static(changed)
    for name in bundle.blueprint.compressed.packed:
        place, _dot, own = name.rpartition(".")
        owner = changed.model.get_submodule(place)
        if own in owner._parameters and not isinstance(owner, (nn.RNNBase, *WRITTEN)):
            owner.get_parameter(own).requires_grad_(False)
            parametrize.register_parametrization(owner, own, _Restored(), unsafe=True)
    return changed


def _with_model(bundle: Bundle, model: nn.Module) -> Bundle:
    if model is bundle.model:
        return bundle
    changed = copy.copy(bundle)
    changed.model = model
    return changed


def examples(
    graph: Graph, rows: int = MOST, tokens: int = MOST
) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Tensors to trace a graph with, and what may vary in each: the number of rows, and of tokens, up to so many."""
    # From 16 rows on torch takes another way through convolutions, and holds what it traced to its own side of that;
    # a bound from below is none for what runs it.
    sides, vary = {ROWS: 19}, {ROWS: torch.export.Dim(ROWS, min=1, max=rows)}
    for place, side in enumerate(graph.times):
        longest = graph.longest(side)
        sides[side] = min(7 + place, longest or 7 + place)
        if longest is None or longest > 2:
            vary[side] = torch.export.Dim(side, min=1, max=min(longest or tokens, tokens))
    tensors, shapes = [], []
    for port in graph.ports:
        shape = [sides[side] if isinstance(side, str) else side for side in port.shape]
        tensors.append(torch.ones(shape, dtype=getattr(torch, port.dtype)))
        named = {place: side for place, side in enumerate(port.shape) if isinstance(side, str)}
        shapes.append({place: vary[side] for place, side in named.items() if side in vary})
    return tuple(tensors), tuple(shapes)


def program_of(graph: Graph, rows: int = MOST, tokens: int = MOST) -> torch.export.ExportedProgram:
    """The graph as torch.export has it, for up to so many rows and tokens. Raises ComponentError where it depends on
    its data."""
    tensors, shapes = examples(graph, rows, tokens)
    with refusals(), quiet(), torch.no_grad():
        return torch.export.export(graph, tensors, dynamic_shapes=(shapes,), strict=False)


def traced(graph: Graph) -> Any:
    """The ONNX program of a graph. Raises ComponentError where no graph can say it."""
    found = program_of(graph)
    with refusals(), quiet(), torch.no_grad():
        program = torch.onnx.export(
            found, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=False,
            input_names=[port.name for port in graph.ports], output_names=[port.name for port in graph.gives],
        )  # fmt: skip
    assert program is not None
    model: Any = program.model
    optimizer: Any = importlib.import_module("onnxscript.optimizer")
    with quiet():
        optimizer.optimize_ir(model, should_fold=_may_fold)
    _name_sides(model, graph)
    # Traces of the stack hold paths of this machine.
    parts: list[Any] = [model, model.graph, *model.functions.values(), *model.graph.initializers.values()]
    for part in parts:
        part.metadata_props.clear()
    for node in (*model.graph, *(node for function in model.functions.values() for node in function)):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    return program


def _may_fold(node: Any) -> bool | None:
    """Not what restores weights from 8 bits: they would be stored in 32."""
    eight = node.op_type == "DequantizeLinear" or any(
        value is not None and str(value.dtype) == "INT8" for value in node.inputs
    )
    return False if eight else None


def _name_sides(model: Any, graph: Graph) -> None:
    """What may vary by its name, in the inputs and outputs of an ONNX model."""
    names: dict[str, str] = {}
    for port, value in zip(graph.ports, model.graph.inputs):
        names |= {str(side): told for side, told in zip(value.shape, port.shape) if isinstance(told, str)}
    for value in (*model.graph.inputs, *model.graph.outputs, *(v for node in model.graph for v in node.outputs)):
        for place, side in enumerate(value.shape or ()):
            if str(side) in names:
                value.shape[place] = names[str(side)]


@contextmanager
def refusals() -> Iterator[None]:
    """What torch raises for a network that it can't trace, as ComponentError."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._export.verifier import SpecViolationError
    from torch.onnx.errors import OnnxExporterError

    known = (
        OnnxExporterError, TorchDynamoException, SpecViolationError, RuntimeError, ValueError, TypeError, AssertionError
    )  # fmt: skip
    try:
        yield
    except known as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise ComponentError(
            _("the network can't be written as a graph: {reason}").format(reason=reason[:300]),
            remedy=_("Shapes and steps of such a network may not depend on its data. Serve the bundle itself."),
        ) from error  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not there, and on itself."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


def _version(package: str) -> str:
    try:
        module: Any = importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, "export") from None
    return str(module.__version__)
