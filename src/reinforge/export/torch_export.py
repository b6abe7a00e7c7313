"""A bundle's model as a program of torch.export: what AOTInductor, ExecuTorch and torch without our code run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reinforge.bundle.bundle import Bundle
from reinforge.edge.description import NAME, Description, load
from reinforge.edge.reading import Array, Arrays, reader
from reinforge.export.description import describe, measured
from reinforge.export.folder import Exported, exported, new_folder
from reinforge.export.onnx import prepared, program_of
from reinforge.export.replay import eager, golden_rows, latency, parity
from reinforge.messages import _

FILE = "model.pt2"


def to_torch_export(bundle: Bundle, folder: Path) -> Exported:
    """Write model.pt2, which torch.export.load reads, and export.json to a new folder.

    Golden rows are replayed with the program as it was read back, at several sizes. Raises IntegrityError where the two
    disagree, ComponentError for what no graph can say, PathError.
    """
    graph, notes = prepared(bundle)
    told = describe(bundle, graph, "torch-export", FILE)
    records = golden_rows(bundle)
    with new_folder(folder) as staging:
        torch.export.save(program_of(graph), staging / FILE)
        with (staging / FILE).open("rb") as file:
            told["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        (staging / NAME).write_text(measured(told), encoding="utf-8")
        module = torch.export.load(staging / FILE).module()
        description: Description = load(staging)
        read = reader(description)

        def run(inputs: Mapping[str, Array]) -> Arrays:
            with torch.inference_mode():
                outputs = module(*(torch.from_numpy(inputs[port.name]) for port in graph.ports))
            return {port.name: output.numpy() for port, output in zip(graph.gives, outputs)}

        compared = parity(bundle, graph, run, read, records, "torch-export")
        times: dict[str, Any] = {
            "milliseconds by rows": {
                "torch": latency(lambda inputs: eager(graph, inputs), read, records),
                "torch-export": latency(run, read, records),
            },
            "threads": {"torch": torch.get_num_threads()},
        }
        versions = {"torch": torch.__version__}
        told_version = _("a program of torch.export is read by torch {version} or newer")
        notes = (*notes, told_version.format(version=torch.__version__))
        (staging / NAME).write_text(
            measured(told, parity=compared, latency=times, versions=versions, notes=list(notes)), encoding="utf-8"
        )
    by = times["milliseconds by rows"]
    return exported(
        folder, "torch.export", notes,
        {"parity": compared["worst"], "milliseconds": by["torch-export"]["1"], "torch_milliseconds": by["torch"]["1"]},
    )  # fmt: skip
