"""When a run ends, and which weights were the best."""

from __future__ import annotations

import math

from reinforge.core.contracts import Clock, State
from reinforge.errors import RecipeError
from reinforge.recipe.sections import Evaluate, Stop

_UNITS = ("updates", "epochs", "samples", "tokens", "steps", "seconds")


class Stopper:
    """Watches the clock, the loss and the evaluations of a run."""

    def __init__(self, stop: Stop, evaluate: Evaluate) -> None:
        self.stop, self.evaluate = stop, evaluate
        limits = [(unit, getattr(stop, unit)) for unit in _UNITS]
        self.limits = [(unit, float(value)) for unit, value in limits if value is not None]
        if stop.patience and not evaluate.monitor:
            raise RecipeError(
                "patience needs a metric to watch",
                where="learn.stop.patience",
                remedy="Set evaluate.monitor to a metric's name.",
            )
        # Of the weights that are kept; and what must be beaten by `delta` for patience.
        self.best = math.inf
        self.standard = math.inf
        self.without_improvement = 0
        self.reason: str | None = None

    def clock(self, clock: Clock) -> str | None:
        """Why the run should end now, by the clock or by what was seen before; None to go on."""
        if self.reason is None:
            for unit, limit in self.limits:
                if getattr(clock, unit) >= limit:
                    self.reason = unit
        return self.reason

    def fraction(self, clock: Clock) -> float:
        """How much of the run is done, 0 to 1, by the limit that is nearest."""
        return max((min(getattr(clock, unit) / limit, 1.0) for unit, limit in self.limits), default=0.0)

    def loss(self, value: float) -> None:
        """Take note of a logged loss."""
        if self.stop.loss_below is not None and value < self.stop.loss_below:
            self.reason = "loss"

    def evaluated(self, metrics: dict[str, float]) -> bool:
        """Take note of an evaluation; True where the monitored metric is the best so far."""
        goal = self.stop.goal
        if goal is not None:
            value = _metric(metrics, goal.metric, "learn.stop.goal.metric")
            low = goal.at_least is None or value >= goal.at_least
            high = goal.at_most is None or value <= goal.at_most
            if low and high:
                self.reason = "goal"
        if self.evaluate.monitor is None:
            return False
        signed = self.signed(metrics)
        patience = self.stop.patience
        if _beats(signed, self.standard, patience.delta if patience else 0.0):
            self.standard, self.without_improvement = signed, 0
        else:
            self.without_improvement += 1
            if patience and self.without_improvement >= patience.evaluations:
                self.reason = "patience"
        better = _beats(signed, self.best, 0.0)
        if better:
            self.best = signed
        return better

    def signed(self, metrics: dict[str, float]) -> float:
        """The monitored metric, with the sign by which smaller is better."""
        value = _metric(metrics, self.evaluate.monitor or "", "evaluate.monitor")
        return value if self.evaluate.mode == "min" else -value

    def state_dict(self) -> State:
        return {
            "best": self.best,
            "standard": self.standard,
            "without_improvement": self.without_improvement,
            "reason": self.reason,
        }

    def load_state_dict(self, state: State) -> None:
        self.best, self.standard = state["best"], state["standard"]
        self.without_improvement = state["without_improvement"]
        # A limit may have been raised since; what was decided by loss, goal or patience stands.
        self.reason = state["reason"] if state["reason"] in ("loss", "goal", "patience") else None


def _beats(value: float, best: float, margin: float) -> bool:
    return value < best - margin if math.isfinite(best) else not math.isnan(value)


def _metric(metrics: dict[str, float], name: str, where: str) -> float:
    if name not in metrics:
        raise RecipeError(
            f"the evaluation has no metric {name!r}", where=where, remedy=f"It has: {', '.join(sorted(metrics))}."
        )
    return metrics[name]
