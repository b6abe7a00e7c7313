"""A training is watched: what goes wrong is said at once, and kept with the run; in an environment, by its log."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

from reinforge.core.contracts import State
from reinforge.engine.logbook import Logbook
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import TrainingWarning
from reinforge.evaluation.diagnosis import Finding, Setting, Watcher, told
from reinforge.recipe.recipe import Recipe
from reinforge.schema.signature import Signature
from reinforge.sources.options import ReplayOptions
from reinforge.workflow.progress import Progress
from reinforge.workflow.run import Run

_PLACE = ("updates", "samples", "steps", "seconds")


@contextlib.contextmanager
def noticed(run: Run | None, progress: Progress) -> Iterator[list[str]]:
    """What objectives and sources warn of meanwhile: each kind once, shown, and among the run's warnings; without a
    run, of no one's."""
    found: list[str] = []
    remedies: set[str] = set()
    show = warnings.showwarning

    def keep(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, TrainingWarning):
            show(message, category, *place, **more)
            return
        text = str(message)
        # The remedy is the same whatever numbers the symptom has.
        remedy = text.rpartition(": ")[2]
        if run is None or remedy in remedies:
            return
        remedies.add(remedy)
        found.append(text)
        run.write_status(warnings=[*run.status.get("warnings", []), text])
        progress.update(0.0, None, text)

    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        warnings.showwarning = keep
        yield found


def logbook(run: Run, recipe: Recipe, signature: Signature, progress: Progress) -> Logbook:
    """The run's log; of an environment a watched one."""
    if not isinstance(recipe.data, EnvironmentOptions):
        return Logbook(run.folder, recipe.log)
    return WatchedLogbook(run, recipe, Watcher(setting(recipe, signature)), progress)


def setting(recipe: Recipe, signature: Signature) -> Setting:
    """By what a recipe's training is judged."""
    action, objective, data = signature.outputs["action"], recipe.objective, recipe.data
    assert isinstance(data, EnvironmentOptions)
    most = None
    if action.form != "continuous":
        most = sum(math.log(size) for size in (action.sizes or (action.size,)))
    reward = data.reward
    return Setting(
        discount=getattr(objective, "gamma", 0.99), most_entropy=most, numbers=action.size,
        kl_limit=getattr(objective, "kl_limit", None),
        exploration=recipe.source.epsilon.steps if isinstance(recipe.source, ReplayOptions) else None,
        scaled=reward.scale != 1 or reward.normalise or reward.clip is not None,
    )  # fmt: skip


class WatchedLogbook(Logbook):
    """A log whose lines a watcher sees; what it finds becomes a line too, and a warning of the run."""

    def __init__(self, run: Run, recipe: Recipe, watcher: Watcher, progress: Progress) -> None:
        super().__init__(run.folder, recipe.log)
        self._run, self._watcher, self._progress = run, watcher, progress

    def write(self, row: dict[str, float | int | str]) -> None:
        """Append a row, and after it what it shows."""
        super().write(row)
        for finding in self._watcher.take(row):
            super().write({**{name: row[name] for name in _PLACE if name in row}, **finding.row()})
            self._warn([finding], self._run.status.get("warnings", []))
            self._progress.update(0.0, None, finding.text())

    def load_state_dict(self, state: State) -> None:
        """Go back to a checkpoint: the watcher sees again what was logged until then."""
        super().load_state_dict(state)
        self._watcher.forget()
        rows = list(self._rows())
        for row in rows:
            self._watcher.take(row)
        self._warn(list(told(rows)), [])

    def _warn(self, findings: list[Finding], before: list[str]) -> None:
        texts = [*before, *(finding.text() for finding in findings)]
        if texts != self._run.status.get("warnings", []):
            self._run.write_status(warnings=texts)

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.path.is_file():
            with self.path.open(encoding="utf-8") as file:
                for line in file:
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)
