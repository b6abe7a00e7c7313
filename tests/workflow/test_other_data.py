"""Resuming goes on with the data that the run began with, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reinforge.engine.loop import Engine
from reinforge.errors import DataError
from reinforge.workflow.train import train


def _table(path: Path, factor: float) -> None:
    path.write_text("x,y\n" + "".join(f"{i * i % 41 / 7},{i * i % 41 * factor}\n" for i in range(40)))


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as before, but other ones: the weights would be nobody's."""
    path = tmp_path / "data.csv"
    _table(path, 2.0)
    recipe: dict[str, Any] = {
        "name": "line", "data": {"kind": "table", "path": str(path), "targets": ["y"]},
        "model": {"kind": "composed"}, "objective": {"kind": "supervised"},
        "learn": {"stop": {"updates": 20}}, "checkpoint": {"seconds": None, "updates": 5},
    }  # fmt: skip
    save = Engine.save

    def interrupted(self: Engine) -> None:
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "save", interrupted)
        # With something to go on from, even a second Ctrl-C ends in a run.
        assert train(recipe, output=tmp_path / "run").status["state"] == "interrupted"
    _table(path, 3.0)
    with pytest.raises(DataError, match="not those that the run began with"):
        train(resume=tmp_path / "run")
    _table(path, 2.0)
    assert train(resume=tmp_path / "run").finished
