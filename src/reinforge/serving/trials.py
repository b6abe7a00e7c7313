"""Bundles on trial beside those that are served: a part of the requests goes to them, or a copy of each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from reinforge.storage.strict_json import Json

# What a model on trial is called after the name that it is to take.
SUFFIX = "@candidate"
# The header of an answer that says which of two bundles gave it.
SERVED_BY = "x-reinforge-model"
_WEIGHT = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%", re.ASCII)
_CLOSE = 0.01


@dataclass(frozen=True)
class Trial:
    """How a candidate is tried: the part of requests that it answers, or, with `shadow`, none: it is given what the
    other answered, and both answers are compared."""

    weight: float = 0.0
    shadow: bool = False

    def to_json(self) -> Json:
        """As one line can say it."""
        return {"weight": self.weight, "shadow": self.shadow}


@dataclass(frozen=True)
class Change:
    """What is to be served from now on: folders by name, names whose candidate goes, or whose trial begins, and digests
    that folders must have, by name."""

    folders: Mapping[str, str]
    trials: Mapping[str, Trial | None]
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        """As one line can say it."""
        trials = {name: trial and trial.to_json() for name, trial in self.trials.items()}
        return {"folders": dict(self.folders), "trials": trials, "digests": dict(self.digests)}

    @classmethod
    def from_json(cls, value: Json) -> Change:
        """What `to_json` gave."""
        trials = {name: trial and Trial(**trial) for name, trial in value["trials"].items()}
        return cls(value["folders"], trials, value["digests"])


def candidate(name: str) -> str:
    """What the model on trial for this name is called."""
    return name + SUFFIX


def is_candidate(name: str) -> bool:
    """Whether a model of this name is on trial."""
    return name.endswith(SUFFIX)


def parsed(text: str) -> Trial | None:
    """From "10%" or "shadow"; None for anything else."""
    if text == "shadow":
        return Trial(shadow=True)
    found = _WEIGHT.fullmatch(text)
    weight = float(found[1]) / 100 if found else 2.0
    return Trial(weight) if weight <= 1 else None


def agree(one: Json, other: Json) -> bool:
    """Whether two predictions say the same: labels, actions and texts equal, numbers within a hundredth. Probabilities
    and memories may differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            agree(one[key], other[key]) for key in one if key not in ("probabilities", "memory")
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-6)
    return bool(one == other)
