"""Exports of the recipes that train in minutes: parity, and latency in torch, compiled, exported, and in 8 bits.

Each recipe is trained unless its run is there; its bundle is exported to ONNX, torch.export and, where it is installed,
ExecuTorch, which all are refused where they disagree, and compressed to 8 bits. Milliseconds are those of the network
alone for one row, each the median of repetitions, one after the other in one process with one thread; compiling is
`torch.compile` with its defaults. The table goes into docs/deploy/exports.md.

    python -m benchmarks.exports [--recipes NAME ...] [--runs FOLDER] [--no-compile] [--write]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import reinforge
from reinforge.bundle.loading import load
from reinforge.compress.shrinking import in_8_bits
from reinforge.data.values import Origin
from reinforge.edge.runner import Runner
from reinforge.errors import ReinforgeError
from reinforge.export.export import export
from reinforge.export.graph import Graph
from reinforge.export.replay import golden_rows, timed
from reinforge.workflow.run import Run

RECIPES = (
    "penguins", "wine", "breast-cancer", "diabetes", "linear-regression", "multi-label", "digits", "image-and-table",
    "reviews", "frozenlake-q", "cartpole-ppo", "zero-to-chat",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "deploy" / "exports.md"
BEGIN, END = "<!-- python -m benchmarks.exports --write -->", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """Of one recipe: the largest differences, and milliseconds for one row; None where it was not asked for."""

    name: str
    form: str
    onnx: float
    torch_export: float
    executorch: float | None
    eager: float
    compiled: float | None
    onnxruntime: float
    exported: float
    on_device: float | None
    int8: float


def measure(name: str, folder: Path, compiling: bool) -> Row:
    """One recipe's row, from its run's folder."""
    bundle = load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        first = export(folder, "onnx", Path(scratch) / "onnx").measured
        second = export(folder, "torch-export", Path(scratch) / "pt2").measured
        third: Mapping[str, float | None] = {"parity": None, "milliseconds": None}
        if importlib.util.find_spec("executorch") is not None:
            third = export(folder, "executorch", Path(scratch) / "pte").measured
        runner = Runner(Path(scratch) / "onnx")
        record = golden_rows(bundle)[0]["row"]
        inputs, _beside = runner.read([record], Origin())  # type: ignore[list-item]
        given = tuple(torch.from_numpy(inputs[port.name]) for port in Graph(bundle).ports)
        ours = _timed(Graph(bundle).eval(), given)
        compiled = _timed(torch.compile(Graph(bundle).eval()), given) if compiling else None
        small, _change = in_8_bits(bundle.model, computing=True)
        return Row(
            name, bundle.form.kind, first["parity"], second["parity"], third["parity"], ours, compiled,
            timed(lambda: runner.run(inputs)), second["milliseconds"], third["milliseconds"],
            _timed(Graph(replace(bundle, model=small.eval())).eval(), given),
        )  # fmt: skip


def _timed(network: Any, given: tuple[torch.Tensor, ...]) -> float:
    with torch.inference_mode():
        return timed(lambda: network(*given))


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = [
        "| recipe | parity: onnx | torch-export | executorch | ms: torch | compiled | onnxruntime | torch-export "
        "| executorch | int8 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        apart = [row.onnx, row.torch_export, row.executorch]
        times = [row.eager, row.compiled, row.onnxruntime, row.exported, row.on_device, row.int8]
        told = ["" if value is None else f"{value:.1e}" for value in apart]
        told += ["" if value is None else f"{value:.3f}" for value in times]
        lines.append(f"| {row.name} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), metavar="NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs/exports"), metavar="FOLDER")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into docs/deploy/exports.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Row] = []
    for name in given.recipes:
        folder = given.runs / name
        try:
            run = Run(folder) if (folder / "run.json").exists() else reinforge.train(name, output=folder)
            # Of a recipe with stages the last one's.
            last = run.stages[-1].folder if run.stages else folder
            found.append(measure(name, last, not given.no_compile))
        except ReinforgeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(table(found[-1:]).splitlines()[-1], flush=True)
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}"
    text = table(found)
    print(f"\n{text}\n\n{versions}: {' '.join(sys.argv)}")
    if given.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _begin, rest = page.partition(BEGIN)
        _old, _end, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{versions}.\n\n{END}{after}", encoding="utf-8")
    lines = [
        {
            "name": row.name,
            "ratio": row.eager / row.onnxruntime,
            "ours": row.onnxruntime,
            "peer": row.eager,
            "unit": "ms",
        }
        for row in found
    ]
    print(json.dumps({"name": "exports", "rows": lines}))
    return 0 if len(found) == len(given.recipes) else 1


if __name__ == "__main__":
    sys.exit(main())
