"""Looks at a training's log while it is written and says what goes wrong: the symptom, its cause, and what to do.

Each sign is looked for in the latest lines, never in one alone, and is told once. Where a run was resumed the log so
far is read again, so nothing needs to be saved.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reinforge.messages import _, mark

Row = Mapping[str, Any]

WARNING, VALUE = "warning", "value"
# Lines that a sign must hold for, and those before any is looked for.
_LINES, _PATIENCE = 20, 30
# How far values may lie above what returns allow.
_EXPLODED = 10.0
# Of the greatest entropy of choices; and nats per number of a continuous action (a deviation of about 0.004).
_COLLAPSED, _COLLAPSED_DENSITY = 0.02, -4.0
_KL, _KL_LIMITS = 0.2, 4.0
_UNEXPLAINED = -0.05
_UPDATES_PER_STEP = 4.0
_LARGE_REWARD, _SMALL_RETURN = 50.0, 0.01
_SHIFT = 3.0
# After so many times the steps that exploration takes to end, something should have been learned.
_EXPLORED, _PROGRESS = 3.0, 0.1

# Symptom and cause, and remedy. What stands in braces is the number that was found.
TEXTS: dict[str, tuple[str, str]] = {
    "q-explodes": (
        mark("Q-values explode: {value} on average, far beyond any return so far: each target builds on the last."),
        mark("Lower learn.lr, move the target more slowly (objective.tau, objective.period), clip gradients "
             "(learn.clip), or set objective.double."),
    ),
    "entropy-collapsed": (
        mark("The policy hardly varies any more (entropy {value} nats), and returns don't rise: it settled too soon."),
        mark("Raise objective.entropy_weight, or lower learn.lr."),
    ),
    "kl-far": (
        mark("Updates move the policy far from the one that acted: a KL divergence of {value} nats."),
        mark("Lower learn.lr or objective.epochs, take larger minibatches, or set objective.kl_limit=0.02."),
    ),
    "values-explain-nothing": (
        mark("The values explain less than nothing of the returns (explained variance {value}), for long."),
        mark("Scale rewards, raise objective.value_weight or learn.lr, or give the policy what it needs to see "
             "(model.memory, model.normalise)."),
    ),
    "replay-ratio": (
        mark("There are {value} updates for each step in the environment: values are fitted to few transitions again "
             "and again."),
        mark("Lower source.updates_per_step, to 1 or less."),
    ),
    "rewards-large": (
        mark("Rewards are large, {value} a step on average: losses, gradients and the entropy bonus are not made for "
             "that."),
        mark("Scale rewards to about 1 a step: data.reward.scale, or data.reward.normalise=true."),
    ),
    "rewards-small": (
        mark("Returns are tiny, {value} at most: the noise of learning hides them."),
        mark("Scale rewards to about 1 a step: data.reward.scale, or data.reward.normalise=true."),
    ),
    "normaliser-unsettled": (
        mark("Observations keep leaving the range that the normaliser knows: their mean lies {value} deviations off."),
        mark("Something in them grows without end (a counter, a position): leave it out (data.inputs), give "
             "differences instead, or set model.normalise=false."),
    ),
    "nothing-learned": (
        mark("Exploration has ended long ago, and returns are what they were at the beginning ({value})."),
        mark("Explore longer (source.epsilon.steps), learn rewards over several steps (source.n_step), or raise "
             "learn.lr; where rewards are rare, shape them or use an exploration bonus."),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the signs are judged by: the discount, the greatest entropy that choices can have (None for continuous
    actions), the numbers of a continuous action, the limit of KL, the steps of exploration, and whether rewards are
    scaled on their way to the learner."""

    discount: float = 0.99
    most_entropy: float | None = None
    numbers: int = 1
    kl_limit: float | None = None
    exploration: float | None = None
    scaled: bool = False


@dataclass(frozen=True)
class Finding:
    """A sign that was found, by its name in `TEXTS`, and the number that shows it."""

    name: str
    value: float

    def row(self) -> dict[str, float | str]:
        """As the log has it."""
        return {WARNING: self.name, VALUE: self.value}

    def text(self) -> str:
        """Symptom, cause and remedy in the language to speak now."""
        return " ".join(self.parts())

    def parts(self) -> tuple[str, str]:
        """Symptom with cause, and remedy, in the language to speak now."""
        symptom, remedy = TEXTS[self.name]
        return _(symptom).format(value=f"{self.value:.3g}"), _(remedy)


def told(rows: Iterable[Row]) -> Iterator[Finding]:
    """The findings that a log tells of."""
    for row in rows:
        name, value = row.get(WARNING), row.get(VALUE)
        if name in TEXTS and isinstance(value, int | float):
            yield Finding(str(name), float(value))


@dataclass
class Watcher:
    """Takes in the lines of a log, one after another; each gives what was found with it."""

    setting: Setting = field(default_factory=Setting)

    def __post_init__(self) -> None:
        self._signs: tuple[Callable[[], Finding | None], ...] = (
            self._q, self._entropy, self._kl, self._explained, self._replay, self._rewards, self._normaliser,
            self._learned,
        )  # fmt: skip
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.found: set[str] = set()
        self._recent: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[float]] = {}
        self._best, self._largest = -math.inf, 0.0
        self._last: dict[str, float] = {}
        self._began: tuple[float, float] | None = None

    def take(self, row: Row) -> list[Finding]:
        """What this line shows for the first time. Lines of evaluations are passed over."""
        if WARNING in row:
            self.found.add(str(row[WARNING]))
            return []
        if "loss" not in row:
            return []
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._note(_short(name), float(value))
        if self._began is None and self._last.get("steps", 0) > 0:
            self._began = (self._last.get("updates", 0.0), self._last["steps"])
        found = [finding for sign in self._signs if (finding := sign()) is not None and finding.name not in self.found]
        self.found |= {finding.name for finding in found}
        return found

    def _note(self, name: str, value: float) -> None:
        self._last[name] = value
        self._counts[name] = self._counts.get(name, 0) + 1
        self._recent.setdefault(name, deque(maxlen=_LINES)).append(value)
        first = self._first.setdefault(name, [])
        if len(first) < _LINES:
            first.append(value)
        if name == "return":
            self._best, self._largest = max(self._best, value), max(self._largest, abs(value))

    def _median(self, name: str, patience: int = _PATIENCE) -> float | None:
        """Of the latest lines; None before there are enough."""
        if self._counts.get(name, 0) < patience:
            return None
        return statistics.median(self._recent[name])

    def _reward(self) -> float | None:
        """The size of a reward, by the latest returns and lengths."""
        length = self._median("length")
        returns = self._median("return")
        return None if length is None or returns is None or length <= 0 else abs(returns) / length

    def _q(self) -> Finding | None:
        value, reward = self._median("q", _LINES), self._reward()
        if value is None or self._largest == 0 or self.setting.scaled:
            return None
        possible = max(self._largest, (reward or 0.0) / max(1e-3, 1 - self.setting.discount), 1.0)
        return Finding("q-explodes", value) if abs(value) > _EXPLODED * possible else None

    def _entropy(self) -> Finding | None:
        value = self._median("entropy")
        if value is None or self._rises():
            return None
        if self.setting.most_entropy is not None:
            low = value < _COLLAPSED * self.setting.most_entropy
        else:
            low = value < _COLLAPSED_DENSITY * self.setting.numbers
        # A policy that solved its task need not vary; one that never rose, or fell again, should.
        return Finding("entropy-collapsed", value) if low else None

    def _rises(self) -> bool:
        """Whether returns are near their best, and above those of the beginning."""
        latest, first = self._median("return"), self._first.get("return")
        if latest is None or not first:
            return True
        begun = statistics.fmean(first[: _LINES // 2])
        gained = self._best - begun
        return gained > _PROGRESS * max(abs(begun), 1e-6) and latest > begun + 0.5 * gained

    def _kl(self) -> Finding | None:
        value, limit = self._median("kl"), self.setting.kl_limit
        most = _KL if limit is None else max(_KL_LIMITS * limit, 0.05)
        return Finding("kl-far", value) if value is not None and value > most else None

    def _explained(self) -> Finding | None:
        value = self._median("explained", 3 * _PATIENCE)
        return Finding("values-explain-nothing", value) if value is not None and value < _UNEXPLAINED else None

    def _replay(self) -> Finding | None:
        # On-policy updates belong to what was just collected; there is nothing to replay.
        if self._began is None or self._counts.get("q", 0) < _PATIENCE:
            return None
        updates, steps = self._last.get("updates", 0.0) - self._began[0], self._last["steps"] - self._began[1]
        ratio = updates / max(steps, 1.0)
        return Finding("replay-ratio", ratio) if steps > 0 and ratio > _UPDATES_PER_STEP else None

    def _rewards(self) -> Finding | None:
        reward = self._reward()
        if reward is None or self.setting.scaled:
            return None
        if reward > _LARGE_REWARD:
            return Finding("rewards-large", reward)
        if 0 < self._largest < _SMALL_RETURN and self._counts["return"] >= 2 * _PATIENCE:
            return Finding("rewards-small", self._largest)
        return None

    def _normaliser(self) -> Finding | None:
        value = self._median("shift", 2 * _PATIENCE)
        return Finding("normaliser-unsettled", value) if value is not None and value > _SHIFT else None

    def _learned(self) -> Finding | None:
        steps, latest = self.setting.exploration, self._median("return", 2 * _PATIENCE)
        if (
            "epsilon" not in self._last
            or steps is None
            or latest is None
            or self._last.get("steps", 0.0) < _EXPLORED * steps
        ):
            return None
        first = statistics.fmean(self._first["return"][: _LINES // 2])
        best = max(self._best, max(self._recent["return"]))
        flat = best - first <= _PROGRESS * max(abs(first), 1e-6)
        return Finding("nothing-learned", latest) if flat else None


def _short(name: str) -> str:
    """ "ppo/entropy" and "training/return" by their last part; of evaluations nothing is meant."""
    return name if name.startswith("evaluation/") else name.rpartition("/")[2]
