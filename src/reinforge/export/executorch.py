"""A bundle's model as a program of ExecuTorch: for phones and small devices, computed by XNNPACK where it can."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reinforge.bundle import golden
from reinforge.bundle.bundle import Bundle
from reinforge.data.values import Origin
from reinforge.edge.description import NAME, load
from reinforge.edge.reading import Array, Arrays, Reader, reader
from reinforge.errors import ComponentError, MissingExtra
from reinforge.export.description import describe, measured
from reinforge.export.folder import Exported, exported, new_folder
from reinforge.export.graph import Graph
from reinforge.export.onnx import prepared, program_of, quiet, refusals
from reinforge.export.replay import SIZES, Run, eager, golden_rows, latency, parity
from reinforge.messages import _

FILE = "model.pte"
# Memory is planned for the most that goes through at once.
ROWS, TOKENS = max(SIZES), 512


def to_executorch(bundle: Bundle, folder: Path) -> Exported:
    """Write model.pte, for ExecuTorch's runtime, and export.json to a new folder.

    Up to 32 rows go through at once, and up to 512 tokens, or twice those of the longest golden row, or what the
    network's context is. XNNPACK computes what it can, unless its program can't take another number of rows. Golden
    rows are replayed with the runtime, at several sizes. Raises IntegrityError where the two disagree, ComponentError
    for what it can't say, or the runtime not run, MissingExtra, PathError.
    """
    graph, notes = prepared(bundle)
    told = describe(bundle, graph, "executorch", FILE)
    records = golden_rows(bundle)
    with new_folder(folder) as staging:
        run, read, backend, tokens = _tried(staging, told, graph, records, TOKENS)
        compared = parity(bundle, graph, run, read, records, "executorch")
        times: dict[str, Any] = {
            "milliseconds by rows": {
                "torch": latency(lambda inputs: eager(graph, inputs), read, records),
                "executorch": latency(run, read, records),
            },
            "threads": {"torch": torch.get_num_threads()},
        }
        versions = {"torch": torch.__version__, "executorch": importlib.metadata.version("executorch")}
        notes = (*notes, _("at most {rows} rows go through at once").format(rows=ROWS))
        if graph.times:
            most = min([tokens, *(longest for side in graph.times if (longest := graph.longest(side)))])
            notes = (*notes, _("a text has at most {tokens} tokens").format(tokens=f"{most:,}"))
        if backend == "portable":
            notes = (*notes, _("XNNPACK's program takes one number of rows alone: it is computed without, and slowly"))
        (staging / NAME).write_text(
            measured(told, parity=compared, latency=times, versions=versions, notes=list(notes)), encoding="utf-8"
        )
    by = times["milliseconds by rows"]
    return exported(
        folder, f"executorch {backend}", notes,
        {"parity": compared["worst"], "milliseconds": by["executorch"]["1"], "torch_milliseconds": by["torch"]["1"]},
    )  # fmt: skip


def _tried(
    staging: Path, told: dict[str, Any], graph: Graph, records: Sequence[golden.Record], tokens: int
) -> tuple[Run, Reader, str, int]:
    """Write the program, by XNNPACK or without, whichever runs at every size; how it is run and read, and for how many
    tokens."""
    for backend in ("xnnpack", "portable"):
        # Lowering changes what it is given.
        program = program_of(graph, rows=ROWS, tokens=tokens)
        (staging / FILE).write_bytes(_lowered(program, backend == "xnnpack"))
        with (staging / FILE).open("rb") as file:
            told["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        (staging / NAME).write_text(measured(told), encoding="utf-8")
        read = reader(load(staging))
        if (longest := _longest(graph, read, records)) > tokens:
            return _tried(staging, told, graph, records, 2 * longest)
        try:
            run = _runner(staging / FILE, graph)
            with _silent():
                for size in SIZES:
                    run(read(_rows(records, size), Origin())[0])
        except RuntimeError as error:
            failed = error
            continue
        return run, read, backend, tokens
    raise ComponentError(
        _("ExecuTorch's runtime can't run its program: {reason}").format(reason=str(failed)[:300]),
        remedy=_("Export it to ONNX, or serve the bundle itself."),
    ) from failed  # fmt: skip


def _rows(records: Sequence[golden.Record], size: int) -> list[Any]:
    return [records[index % len(records)]["row"] for index in range(size)]


def _longest(graph: Graph, read: Reader, records: Sequence[golden.Record]) -> int:
    """Tokens of the longest text of the golden rows."""
    inputs, _beside = read(_rows(records, len(records)), Origin())
    sides = [
        inputs[port.name].shape[port.shape.index(side)]
        for side in graph.times
        for port in graph.ports
        if side in port.shape
    ]
    return max(sides, default=0)


def _runner(path: Path, graph: Graph) -> Run:
    with _silent():
        runtime: Any = importlib.import_module("executorch.runtime")
        method = runtime.Runtime.get().load_program(str(path)).load_method("forward")

    def run(inputs: Mapping[str, Array]) -> Arrays:
        outputs = method.execute([torch.from_numpy(inputs[port.name]) for port in graph.ports])
        # The program's own memory, which the next rows overwrite.
        return {port.name: output.numpy().copy() for port, output in zip(graph.gives, outputs)}

    return run


def _lowered(program: torch.export.ExportedProgram, quick: bool) -> bytes:
    """The file of a program, by XNNPACK where `quick`. Raises ComponentError for operations that the runtime doesn't
    have, MissingExtra."""
    try:
        with quiet(), _silent():
            exir: Any = importlib.import_module("executorch.exir")
            xnnpack: Any = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    except ImportError:
        raise MissingExtra("executorch", "executorch") from None
    with refusals(), quiet(), _silent(), torch.no_grad():
        lowered = exir.to_edge_transform_and_lower(
            program.run_decompositions(_one_by_one()), partitioner=[xnnpack.XnnpackPartitioner()] if quick else None
        )
        found: bytes = lowered.to_executorch().buffer
    return found


aten = torch.ops.aten


def _by_sizes(x: Tensor, sizes: Sequence[int], side: int = 0) -> list[Tensor]:
    ends = list(accumulate(sizes))
    return [aten.slice.Tensor(x, side, end - size, end) for size, end in zip(sizes, ends)]


def _by_size(x: Tensor, size: int, side: int = 0) -> list[Tensor]:
    whole = x.shape[side]
    return _by_sizes(x, [min(size, whole - begin) for begin in range(0, whole, size)], side)


def _in_parts(x: Tensor, parts: int, side: int = 0) -> list[Tensor]:
    return _by_size(x, -(-x.shape[side] // parts), side)


def _apart(x: Tensor, side: int = 0) -> list[Tensor]:
    return [aten.select.int(x, side, place) for place in range(x.shape[side])]


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, epsilon: float = 1e-5,
    _cudnn: bool = False,
) -> Tensor:  # fmt: skip
    found = _normal(x, list(range(x.ndim - len(shape), x.ndim)), epsilon)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, epsilon: float = 1e-5,
    _cudnn: bool = False,
) -> Tensor:  # fmt: skip
    channels, sides = x.shape[1], [1] * (x.ndim - 2)
    grouped = x.reshape(-1, groups, channels // groups, *x.shape[2:])
    found = _normal(grouped, list(range(2, grouped.ndim)), epsilon).reshape(-1, *x.shape[1:])
    found = found if weight is None else found * weight.reshape(channels, *sides)
    return found if bias is None else found + bias.reshape(channels, *sides)


def _normal(x: Tensor, sides: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(sides, keepdim=True)
    return centred * (centred.square().mean(sides, keepdim=True) + epsilon).rsqrt()


def _one_by_one() -> Any:
    """How operations are said by others: what gives several tensors by what gives one, since those lose the bounds of
    what varies when executorch 1.5 plans memory."""
    table: Any = torch.export.default_decompositions()
    # XNNPACK knows it.
    table.pop(aten.linear.default, None)
    table.update({aten.layer_norm.default: _layer_norm, aten.group_norm.default: _group_norm})
    by_sizes = (aten.split_with_sizes.default,)
    by_size = (aten.split.Tensor, aten.unsafe_split.Tensor)
    in_parts = (aten.chunk.default, aten.unsafe_chunk.default)
    for operations, told in ((by_sizes, _by_sizes), (by_size, _by_size), (in_parts, _in_parts)):
        table.update(dict.fromkeys(operations, told))
    table.update({aten.unbind.int: _apart})
    return table


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the runtime's own code writes to the error stream about processors that it doesn't know."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
