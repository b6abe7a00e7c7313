"""Programs of ExecuTorch: its own runtime gives what the bundle gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforge.bundle.bundle import Bundle
from reinforge.data.values import Origin
from reinforge.edge.description import load
from reinforge.edge.reading import reader
from reinforge.errors import ComponentError, IntegrityError
from reinforge.export import executorch
from reinforge.export.export import export
from reinforge.export.graph import Graph
from reinforge.export.replay import golden_rows
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions, SquashedGaussianOptions
from tests.bundle import made
from tests.export import everything
from tests.export.test_gguf import decoder

pytest.importorskip("executorch")

KINDS: dict[str, Callable[[Path], Bundle]] = {
    "table": made.table_bundle,
    "policy": lambda path: everything.policy(path, ActorCriticOptions(sizes=(8,))),
    "continuous": lambda path: everything.policy(path, SquashedGaussianOptions(sizes=(8,)), action="continuous"),
    "memory": lambda path: everything.policy(path, ActorCriticOptions(sizes=(8,), memory=MemoryOptions(size=4))),
    "pictures": lambda path: everything.policy(path, ActorCriticOptions(sizes=(8,)), image=True),
    "decoder": decoder,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_gives_what_the_network_gives(tmp_path: Path, kind: str) -> None:
    bundle = KINDS[kind](tmp_path / "bundle")
    told = export(tmp_path / "bundle", "executorch", tmp_path / "out")
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    assert described["target"] == "executorch"
    assert told.family == "executorch xnnpack"
    assert set(described["parity"]["by rows"]) == {"1", "2", "7", "32"}
    assert told.measured["parity"] == described["parity"]["worst"] < 1e-4
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(tmp_path / "out" / "model.pte")).load_method("forward")
    graph, draw = Graph(bundle), np.random.default_rng(3)
    for rows in (1, 5, 32):
        given = tuple(_drawn(port, rows, draw) for port in graph.ports)
        with torch.no_grad():
            expected = graph(*given)
        for found, wanted in zip(method.execute(list(given)), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def _drawn(port: Any, rows: int, draw: np.random.Generator) -> torch.Tensor:
    shape = [rows if side == "rows" else 9 if str(side).startswith("time") else side for side in port.shape]
    if port.dtype == "bool":
        return torch.from_numpy(draw.random(shape) < 0.5)
    if port.dtype in ("int64", "uint8"):
        return torch.from_numpy(draw.integers(0, 2, shape)).to(getattr(torch, port.dtype))
    return torch.from_numpy(draw.normal(size=shape)).to(getattr(torch, port.dtype))


@pytest.mark.slow
def test_memory_is_planned_for_golden_rows_that_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = decoder(tmp_path / "bundle")
    (record,) = golden_rows(bundle)
    # Its context is 64.
    record["row"]["text"] *= 3
    record["outputs"] = {}
    monkeypatch.setattr(executorch, "golden_rows", lambda _bundle: [record])
    monkeypatch.setattr(executorch, "TOKENS", 8)
    told = export(tmp_path / "bundle", "executorch", tmp_path / "out")
    inputs, _beside = reader(load(tmp_path / "out"))([record["row"]], Origin())
    tokens = max(array.shape[-1] for array in inputs.values())
    assert tokens > 8
    assert [note for note in told.notes if "tokens" in note] == [f"a text has at most {2 * tokens} tokens"]
    assert told.measured["parity"] < 1e-4


def test_what_disagrees_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.table_bundle(tmp_path / "bundle")
    lowered = executorch._lowered

    def wrong(program: torch.export.ExportedProgram, quick: bool) -> bytes:
        for name, tensor in program.state_dict.items():
            if name.endswith("bias"):
                tensor.data += 0.01
        return lowered(program, quick)

    monkeypatch.setattr(executorch, "_lowered", wrong)
    with pytest.raises(IntegrityError, match="differs from the bundle"):
        export(tmp_path / "bundle", "executorch", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_program_that_the_runtime_does_not_load_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.table_bundle(tmp_path / "bundle")
    lowered = executorch._lowered
    broken = {True}

    def torn(program: torch.export.ExportedProgram, quick: bool) -> bytes:
        return b"no program" if quick in broken else lowered(program, quick)

    monkeypatch.setattr(executorch, "_lowered", torn)
    assert export(tmp_path / "bundle", "executorch", tmp_path / "portable").family == "executorch portable"
    broken.add(False)
    with pytest.raises(ComponentError, match="can't run its program"):
        export(tmp_path / "bundle", "executorch", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_everything_that_a_table_may_hold(tmp_path: Path) -> None:
    everything.table(tmp_path / "bundle")
    told = export(tmp_path / "bundle", "executorch", tmp_path / "out")
    assert told.measured["parity"] < 1e-4
    # Convolutions too.
    assert told.family == "executorch xnnpack"


def test_what_the_runtime_has_no_operation_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.table_bundle(tmp_path / "bundle")

    def strange(graph: Graph, **_most: int) -> torch.export.ExportedProgram:
        class Strange(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.linalg.svdvals(x)

        return torch.export.export(Strange(), (torch.ones(3, 3),))

    monkeypatch.setattr(executorch, "program_of", strange)
    with pytest.raises(ComponentError, match="can't be written"):
        export(tmp_path / "bundle", "executorch", tmp_path / "out")
    assert not (tmp_path / "out").exists()
