"""Live metrics: JSON Lines always, CSV and TensorBoard where asked for."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from reinforge.core.contracts import State
from reinforge.errors import MissingExtra
from reinforge.recipe.sections import Log
from reinforge.storage.files import storage_errors, write_atomic


class Logbook:
    """Rows of scalars by name, appended to `log.jsonl` (and `log.csv`, `tensorboard/`) in a run's folder.

    Its state is the length of the files, so that a resumed run cuts off what came after its checkpoint and
    repeats it, instead of logging it twice; TensorBoard is told to forget it.
    """

    def __init__(self, folder: Path, options: Log) -> None:
        self.folder, self.options = folder, options
        self.path = folder / "log.jsonl"
        self.csv_path = folder / "log.csv"
        self._columns: list[str] = []
        self._board: Any = None
        self._open_board: Any = None
        if options.tensorboard:
            try:
                from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
            except ImportError as error:
                raise MissingExtra("tensorboardX", "track") from error
            self._open_board = SummaryWriter

    def write(self, row: dict[str, float | int | str]) -> None:
        """Append one row; `updates` is its place on TensorBoard's axis.

        Raises StorageError where the disk refuses; a file then has the row whole or not at all.
        """
        _append(self.path, json.dumps(_plain(row)) + "\n")
        with storage_errors(self.folder):
            if self.options.csv:
                self._write_csv(row)
            if self._open_board is not None:
                self._write_board(row)

    def _write_board(self, row: dict[str, float | int | str]) -> None:
        place = int(row.get("updates", 0))
        if self._board is None:
            self._board = self._open_board(str(self.folder / "tensorboard"), purge_step=place)
        for name, value in row.items():
            if isinstance(value, int | float) and name != "updates":
                self._board.add_scalar(name, value, place)
        self._board.flush()

    def _write_csv(self, row: dict[str, float | int | str]) -> None:
        """CSV has one header: a new column rewrites the file, at the first evaluation and rarely after."""
        if not self._columns and self.csv_path.exists():
            with self.csv_path.open(encoding="utf-8", newline="") as file:
                self._columns = next(csv.reader(file), [])
        new = [name for name in row if name not in self._columns]
        if new:
            old: list[dict[str, str]] = []
            if self.csv_path.exists():
                with self.csv_path.open(encoding="utf-8", newline="") as file:
                    old = list(csv.DictReader(file))
            text = io.StringIO()
            writer = csv.DictWriter(text, [*self._columns, *new])
            writer.writeheader()
            writer.writerows(old)
            write_atomic(self.csv_path, text.getvalue())
            self._columns += new
        line = io.StringIO()
        csv.DictWriter(line, self._columns).writerow(row)
        _append(self.csv_path, line.getvalue())

    def state_dict(self) -> State:
        return {"bytes": self.path.stat().st_size if self.path.exists() else 0, "rows": self._csv_rows()}

    def load_state_dict(self, state: State) -> None:
        if self.path.exists() and self.path.stat().st_size > state["bytes"]:
            os.truncate(self.path, state["bytes"])
        if self.csv_path.exists():
            lines = self.csv_path.read_text(encoding="utf-8").splitlines(keepends=True)
            self.csv_path.write_text("".join(lines[: state["rows"]]), encoding="utf-8")
            self._columns = []

    def clear(self) -> None:
        """Begin anew: what a run wrote before its first checkpoint is repeated."""
        self.load_state_dict({"bytes": 0, "rows": 0})

    def _csv_rows(self) -> int:
        if not self.csv_path.exists():
            return 0
        return len(self.csv_path.read_text(encoding="utf-8").splitlines())

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _append(path: Path, text: str) -> None:
    """Add to a file, all of the text or none of it: half a line would spoil those after it. Raises StorageError."""
    with storage_errors(path):
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def _plain(row: dict[str, float | int | str]) -> dict[str, float | int | str | None]:
    """JSON has no NaN: what isn't finite becomes its name."""
    return {k: (str(v) if isinstance(v, float) and v - v != 0 else v) for k, v in row.items()}
