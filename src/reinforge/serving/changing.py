"""Other bundles while requests are answered: at once, on trial beside the present one, and back again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from reinforge.bundle.bundle import Bundle
from reinforge.errors import ReinforgeError
from reinforge.models.policy import Policy
from reinforge.serving.bodies import Rows
from reinforge.serving.description import describe
from reinforge.serving.models import Model, Models, writes
from reinforge.serving.refusals import Refused
from reinforge.serving.trials import Change, Trial, agree, candidate
from reinforge.serving.trust import trusted
from reinforge.storage.strict_json import Json

_REMEDY = (
    'Send {"bundle": FOLDER}, with "weight": 0.1 or "shadow": true beside it for a trial; '
    'or {"promote": true}, or {"rollback": true}.'
)


def change_of(models: Models, name: str, given: dict[str, Any]) -> Change:
    """What an administrator asks for: a bundle at once (and a trial of another ends), a bundle on trial, the one on
    trial for good, or the one before. Raises Refused (400, 409)."""
    tried = models.get(candidate(name))
    match given:
        case {"bundle": str(folder), "weight": int() | float() as weight, **rest} if (
            not rest and not isinstance(weight, bool) and 0 <= weight <= 1
        ):
            return Change({candidate(name): folder}, {name: Trial(float(weight))})
        case {"bundle": str(folder), "shadow": True, **rest} if not rest:
            return Change({candidate(name): folder}, {name: Trial(shadow=True)})
        case {"bundle": str(folder), **rest} if not rest:
            return Change({name: folder}, {name: None})
        case {"promote": True, **rest} if not rest:
            if tried is None:
                raise Refused(409, f"no bundle is on trial for {name!r}")
            return Change({name: str(tried.bundle.path)}, {name: None}, {name: tried.bundle.digest})
        case {"rollback": True, **rest} if not rest:
            if tried is not None:
                return Change({}, {name: None})
            if name not in models.previous:
                raise Refused(409, f"there is no bundle before that of {name!r}")
            return Change({name: models.previous[name]}, {})
    raise Refused(400, "this is no change of a bundle", where="body", remedy=_REMEDY)


async def loaded(models: Models, change: Change, keys: Sequence[str]) -> dict[str, Bundle]:
    """The bundles that a change asks for, by name. Raises BundleError, and Refused (409) where a folder is not what was
    tried, or a trial would lie."""
    found = {name: await asyncio.to_thread(trusted, folder, keys) for name, folder in change.folders.items()}
    for name, digest in change.digests.items():
        if found[name].digest != digest:
            problem = "the folder holds another bundle than the one that was tried"
            raise Refused(409, problem, where=change.folders[name], remedy="Begin the trial anew.")
    for name, trial in {**models.trials, **change.trials}.items():
        if trial is not None:
            present, tried = (found.get(one) or models[one].bundle for one in (name, candidate(name)))
            check_trial(name, present, tried, trial)
    return found


def check_trial(name: str, present: Bundle, tried: Bundle, trial: Trial) -> None:
    """Raise Refused (409) for a trial that would lie: of a bundle that is asked or answers otherwise, of episodes that
    change hands, of texts that are drawn."""
    one, other = describe(name, present), describe(name, tried)
    for what in ("kind", "inputs", "outputs"):
        if one[what] != other[what]:
            problem = f"its {what} are {_listed(other[what])}, and those of {name!r} are {_listed(one[what])}"
            problem = problem if what != "kind" else f"it is a {other[what]}, and {name!r} is a {one[what]}"
            raise Refused(409, problem, where=str(tried.path), remedy="Serve it under a name of its own.")
    if any(isinstance(each.model, Policy) and each.model.initial_state(1) is not None for each in (present, tried)):
        problem = "a policy with a memory can't be tried, since an episode must not change hands"
        raise Refused(409, problem, where=name, remedy="Serve it under a name of its own.")
    if trial.shadow and writes(tried):
        problem = "a language model's texts are drawn, and can't be compared"
        raise Refused(409, problem, where=name, remedy="Give it a weight.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)[:200]


class Shadows:
    """Shows candidates what others answered, and counts how often they say the same. Nobody waits for it: where a
    candidate is still busy, rows are left out."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def show(self, models: Models, name: str, rows: Rows, found: Sequence[Json]) -> None:
        """Rows with their answers, where a shadow is tried for this name."""
        trial = models.trial(name)
        if trial is None or not trial.shadow or not rows.rows:
            return
        shadow = models[candidate(name)]
        counted = models.metrics.shadowed.labels
        if shadow.batcher.rows_waiting > models.limits.batch:
            counted(name, "left out").inc(len(rows.rows))
            return
        task = asyncio.ensure_future(self._compare(models, name, shadow, rows, found))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, models: Models, name: str, shadow: Model, rows: Rows, found: Sequence[Json]) -> None:
        counted = models.metrics.shadowed.labels
        try:
            others = await shadow.batcher.submit(rows.rows, rows.partial)
        except ReinforgeError:
            counted(name, "refused").inc(len(rows.rows))
            return
        except Exception:  # noqa: BLE001 (a candidate's fault is what its trial is to find)
            counted(name, "failed").inc(len(rows.rows))
            return
        for one, other in zip(found, others):
            counted(name, "same" if agree(one, other) else "other").inc()
