"""A run: the folder of one training, and what can be read from it."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reinforge import recipe as recipes
from reinforge.errors import PathError
from reinforge.messages import _
from reinforge.recipe.recipe import Recipe
from reinforge.storage import strict_json
from reinforge.storage.files import storage_errors, write_atomic

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle

_MANY = 12


@dataclass(frozen=True)
class Run:
    """The folder of one training.

    recipe.yaml (resolved), run.json (how it stands), log.jsonl, checkpoints/, bundle/, report.html; child runs (seeds,
    stages, folds) under stages/. Made by `train`; `Run.open` reads one back.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in that folder. Raises StorageError where there is none."""
        path = Path(folder)
        if not (path / "recipe.yaml").is_file():
            raise PathError(
                _("this is no run: it has no recipe.yaml") if path.is_dir() else _("there is no such folder"),
                where=str(path),
                remedy=_("Give the folder that `train -o` made."),
            )
        return cls(path)

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, *, in_memory: bool = False) -> Run:
        """A run that has not begun, its folder made. `in_memory`: data or module were given in Python. Raises
        StorageError."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "recipe.yaml", recipes.dump(recipe))
        run = cls(folder)
        run.write_status(state="created", in_memory=in_memory)
        return run

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return recipes.load(self.folder / "recipe.yaml")

    @property
    def status(self) -> dict[str, Any]:
        """run.json: state ("running", "interrupted", "finished"), reason, clock, metrics by split, versions, notes."""
        path = self.folder / "run.json"
        if not path.is_file():
            return {}
        found = strict_json.read(path)
        return found if isinstance(found, dict) else {}

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics, by "split/name"."""
        metrics: dict[str, float] = self.status.get("metrics", {})
        return metrics

    @property
    def finished(self) -> bool:
        """Whether it ran to its end and has a bundle."""
        return self.status.get("state") == "finished"

    @property
    def bundle_path(self) -> Path:
        """Where the bundle lies once the run is finished."""
        return self.folder / "bundle"

    @property
    def bundle(self) -> Bundle:
        """The run's bundle, verified."""
        from reinforge.bundle import load

        return load(self.bundle_path)

    @property
    def stages(self) -> list[Run]:
        """Child runs in order; empty for a run without stages."""
        return [Run(path) for path in sorted((self.folder / "stages").glob("*/")) if (path / "recipe.yaml").is_file()]

    def summary(self) -> dict[str, Any]:
        """The facts worth telling at the end: of many metrics those of the test, or of validation. `resume` is the
        command that goes on with an interrupted run."""
        status = self.status
        told: dict[str, Any] = {"run": str(self.folder), "state": status.get("state"), "reason": status.get("reason")}
        told |= {name: status[name] for name in ("clock", "metrics", "warnings", "notes") if status.get(name)}
        if "metrics" in told:
            told["metrics"] = _few(told["metrics"])
        if self.bundle_path.is_dir():
            told["bundle"] = str(self.bundle_path)
        if (self.folder / "report.html").is_file():
            told["report"] = str(self.folder / "report.html")
        if status.get("state") == "interrupted":
            told["resume"] = f"reinforge train --resume {shlex.quote(str(self.folder))}"
        return told

    def log(self) -> Iterator[dict[str, Any]]:
        """The logged rows, oldest first; a torn line is left out."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return
        with path.open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def write_status(self, **changes: Any) -> None:
        """Replace run.json by itself with these changes."""
        write_atomic(self.folder / "run.json", strict_json.pretty({**self.status, **changes}))


def forget(run: Run) -> None:
    """Remove the folder of a run that ended before anything was learned: what stopped it can be mended, and the command
    given again."""
    if not run.folder.is_dir():
        return
    there = {path.name for path in run.folder.iterdir()}
    if there <= {"recipe.yaml", "run.json", "log.jsonl", "checkpoints", "stages"} and not any(_learned(run)):
        shutil.rmtree(run.folder, ignore_errors=True)


def _learned(run: Run) -> Iterator[object]:
    yield from run.log()
    for name in ("checkpoints", "stages"):
        yield from (run.folder / name).glob("*")


def _few(metrics: dict[str, Any]) -> dict[str, Any]:
    """Of many metrics, those of the side that counts most; all of them are in metrics.json."""
    told = [f"{what}/final/return" for what in ("iqm", "low", "high", "mean", "deviation")]
    if told[0] in metrics:
        return {name: metrics[name] for name in told if name in metrics}
    seeds, folds = ("iqm/test/", "low/test/", "high/test/"), ("mean/test/", "deviation/test/")
    for sides in (seeds, folds, ("test/",), ("validation/",)):
        chosen = {name: value for name, value in metrics.items() if name.startswith(sides)}
        if len(metrics) > _MANY and chosen:
            return chosen
    return metrics
