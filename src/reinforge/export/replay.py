"""Is an export what the bundle is? Golden rows through both, at several sizes of batch; and how long each takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from reinforge.bundle import golden
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.network import dtype_name
from reinforge.bundle.task import TOLERANCE, Tolerance
from reinforge.data.text import TextPipeline
from reinforge.edge.description import LENGTHS
from reinforge.edge.reading import Array, Arrays, Reader
from reinforge.errors import IntegrityError
from reinforge.export.graph import Graph
from reinforge.messages import _

Run = Callable[[Mapping[str, Array]], Arrays]
# Rows at once; golden rows come round again where there are fewer.
SIZES = (1, 2, 7, 32)
# What timing a size may take, at about.
SECONDS = 0.25


def golden_rows(bundle: Bundle) -> list[golden.Record]:
    """The golden records whose rows an export reads. It reads no chats: of each there is what was asked, and nothing
    is stated of that; loading has held the network itself to the chat."""
    folder = bundle.folder
    assert folder is not None
    found: list[golden.Record] = []
    for record in golden.read(folder.bytes(golden.NAME, golden.MAX_BYTES)):
        messages = _row(record).get("messages") if bundle.form.kind == "text" else None
        if messages is None:
            found.append(record)
        elif isinstance(messages, list) and (said := _said(messages)):
            found.append({"row": {TextPipeline.FIELD: said}, "outputs": {}})
    if not found:
        raise IntegrityError(
            _("it has no golden rows that an export could be compared by"), where=str(bundle.path),
            remedy=_("Serve the bundle itself."),
        )  # fmt: skip
    return found


def _said(messages: Sequence[object]) -> str:
    """The last message that is a text."""
    contents = (each.get("content") for each in messages if isinstance(each, Mapping))
    return next((text for text in reversed(list(contents)) if isinstance(text, str) and text), "")


def tolerance_of(bundle: Bundle) -> Tolerance:
    """What the bundle states for its own weights."""
    return bundle.task.tolerance.get(dtype_name(bundle.model), TOLERANCE["float32"])


def parity(
    bundle: Bundle, graph: Graph, run: Run, read: Reader, records: Sequence[golden.Record], where: str
) -> dict[str, Any]:
    """The largest difference from what the bundle's own network gives, by size, and from what the golden rows state.

    Raises IntegrityError where one is beyond the bundle's tolerance.
    """
    from reinforge.data.values import Origin

    tolerance, found = tolerance_of(bundle), {}
    rows = [_row(record) for record in records]
    for size in SIZES:
        chosen = [rows[index % len(rows)] for index in range(size)]
        inputs, _beside = read(chosen, Origin())
        given, own = run(inputs), eager(graph, inputs)
        worst = 0.0
        for name, expected in own.items():
            worst = max(worst, _difference(name, given[name], expected, tolerance, f"{where}, {size} rows"))
        found[str(size)] = worst
    stated = 0.0
    for index, record in enumerate(records):
        inputs, _beside = read([_row(record)], Origin())
        given = run(inputs)
        for name, value in _outputs(record).items():
            output = torch.from_numpy(given[graph.named[name]])
            if bundle.signature.outputs[name].form == "tokens":
                (tokens,) = (v for k, v in inputs.items() if not k.endswith(LENGTHS))
                logs = output[:, :-1].float().log_softmax(-1)
                output = logs.gather(-1, torch.from_numpy(tokens)[:, 1:, None]).squeeze(-1)
            expected = np.array(value, np.float64)
            place = f"{where}, golden row {index + 1}"
            stated = max(stated, _difference(name, output[0].numpy(), expected, tolerance, place))
    allowed = {"relative": tolerance.relative, "absolute": tolerance.absolute}
    return {"by rows": found, "golden": stated, "worst": max(*found.values(), stated), "tolerance": allowed}


def eager(graph: Graph, inputs: Mapping[str, Array]) -> Arrays:
    """The network itself, in torch."""
    with torch.inference_mode():
        outputs = graph(*(torch.from_numpy(inputs[port.name]) for port in graph.ports))
    return {port.name: output.numpy() for port, output in zip(graph.gives, outputs)}


def latency(
    run: Run, read: Reader, records: Sequence[golden.Record], sizes: Sequence[int] = (1, 32)
) -> dict[str, float]:
    """Milliseconds for so many rows, from the graph's inputs to its outputs: the median of repetitions."""
    from reinforge.data.values import Origin

    rows, found = [_row(record) for record in records], {}
    for size in sizes:
        inputs, _beside = read([rows[index % len(rows)] for index in range(size)], Origin())
        found[str(size)] = timed(partial(run, inputs))
    return found


def timed(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Milliseconds of a call: the median of repetitions, after two that warm up."""
    call()
    call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 5 or (time.perf_counter() < end and len(taken) < 1000):
        begin = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(taken)


def _difference(name: str, found: Array, expected: Array, tolerance: Tolerance, where: str) -> float:
    if found.shape != expected.shape:
        raise IntegrityError(
            _("the export gives {name!r} of shape {found}, the bundle {stated}").format(
                name=name, found=found.shape, stated=expected.shape
            ),
            where=where,
        )
    difference = np.abs(found.astype(np.float64) - expected)
    allowed = tolerance.absolute + tolerance.relative * np.abs(expected.astype(np.float64))
    # Written so that NaN counts as a difference.
    if not (difference <= allowed).all():
        worst = float(np.nanmax(difference, initial=0.0)) if np.isfinite(difference).any() else math.nan
        raise IntegrityError(
            _("the export differs from the bundle: {name!r} by up to {worst:.3g}").format(name=name, worst=worst),
            where=where, remedy=_("Nothing was written. Serve the bundle itself, or report this."),
        )  # fmt: skip
    return float(difference.max(initial=0.0))


def _row(record: golden.Record) -> dict[str, Any]:
    row = record["row"]
    assert isinstance(row, dict)
    return dict(row)


def _outputs(record: golden.Record) -> dict[str, Any]:
    outputs = record["outputs"]
    assert isinstance(outputs, dict)
    return dict(outputs)
