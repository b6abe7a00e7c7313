"""What a task costs, measured on a few of its own updates: time, and memory by what it is for."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from reinforge.core import seeds
from reinforge.core.contracts import Clock
from reinforge.engine.logbook import Logbook
from reinforge.engine.loop import Engine
from reinforge.models.adapters import parameter_count
from reinforge.recipe.recipe import Recipe
from reinforge.recipe.sections import Log, Stop, Unit
from reinforge.workflow.tasks.task import Fit, Task

# Rows of the log between which the rate is taken: the first updates warm caches up.
_ROWS_WANTED = 3
_LOG_EVERY = 10


@dataclass(frozen=True)
class Cost:
    """Of one task on this machine. Memory in bytes; times in seconds.

    `parameters`: of the deployed model; `learning`: of all beside it (critics, targets, ...). `activations`: what an
    update keeps for its backward pass, at its peak, not compiled. `data`: tensors and arrays of the source; a replay
    buffer counts in full. `checkpoint`: tensors of one checkpoint. `seconds`: of the whole run, None where no stop
    bounds it; `bound`: the stop that ends it first.
    """

    parameters: int
    learning: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    data: int
    checkpoint: int
    updates_measured: int
    seconds_per_update: float
    seconds_per_evaluation: float
    evaluations: int
    seconds: float | None
    bound: str | None

    @property
    def memory(self) -> int:
        """Bytes of tensors that training needs at once."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.data


def measure(task: Task, recipe: Recipe, *, seconds: float = 3.0) -> Cost:
    """Train the task for about `seconds` (two updates at least), evaluate once, and tell what it cost.

    The task is used up: its model has moved. Nothing is written but a log in a temporary folder. A model that is fitted
    at once is fitted whole.
    """
    if task.fit is not None:
        return _fitted(task, task.fit)
    first = _engine(task, recipe, Stop(updates=1))
    meter = SavedForBackward(first.learner.state_dict().values())
    with meter:
        first.run()
    with tempfile.TemporaryDirectory() as folder:
        logbook = Logbook(Path(folder), Log(updates=_LOG_EVERY))
        engine = _engine(task, recipe, Stop(seconds=seconds), logbook)
        ended = engine.run()
        with logbook.path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    rates = _rates(rows, ended.clock)
    evaluation = _evaluation(task, engine)
    bound, whole = _length(recipe, rates)
    evaluations = _evaluations(recipe, rates, whole) if task.evaluator is not None else 0
    if whole is not None:
        whole += evaluations * evaluation
    model = engine.learner.get_submodule("model")
    deployed = parameter_count(model)
    arenas = [step.arena for step in engine.updater.steps]
    # Where a metric is monitored, the best weights so far are kept as well.
    best = _bytes(model.state_dict()) if recipe.evaluate.monitor else 0
    return Cost(
        parameters=deployed,
        learning=sum(p.numel() for p in engine.learner.parameters()) - sum(p.numel() for p in model.parameters()),
        weights=_bytes(engine.learner.state_dict()) + sum(a.masters.nbytes for a in arenas if a.half),
        gradients=sum(a.exchange.nbytes + (a.gradients.nbytes if a.half else 0) for a in arenas),
        optimizer=_bytes([o.state_dict() for step in engine.updater.steps for o in step.optimizers]),
        activations=meter.peak,
        data=_bytes(engine.source),
        checkpoint=_bytes(engine.state_dict()) + best,
        updates_measured=ended.clock.updates,
        seconds_per_update=1 / rates["updates"],
        seconds_per_evaluation=evaluation,
        evaluations=evaluations,
        seconds=whole,
        bound=bound,
    )


def _fitted(task: Task, fit: Fit) -> Cost:
    """Of a model that is fitted at once: what its tensors and the data take, not what scikit-learn takes meanwhile."""
    began = time.perf_counter()
    fitted = fit()
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    task.test(task.objective.build(task.model))
    testing = time.perf_counter() - began
    weights = _bytes(task.model.state_dict())
    return Cost(
        parameters=sum(tensor.numel() for tensor in task.model.state_dict().values()), learning=0, weights=weights,
        gradients=0, optimizer=0, activations=0, data=_bytes(task.source), checkpoint=weights,
        updates_measured=fitted.rounds, seconds_per_update=seconds / fitted.rounds, seconds_per_evaluation=testing,
        evaluations=1, seconds=seconds + testing, bound="fit",
    )  # fmt: skip


class SavedForBackward:
    """Inside the block, counts the bytes that autograd keeps for the backward pass; `peak` is the most at any time.

    Weights are kept too, but not counted: they are there anyway. So are `held`, frozen ones and buffers.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self.peak = 0
        self._live = 0
        self._holders: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> SavedForBackward:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: Tensor) -> _Kept:
        # A leaf that takes a gradient, or a view of one, is a weight.
        base = tensor._base if tensor._base is not None else tensor
        if base.is_leaf and base.requires_grad:
            return _Kept(tensor, None)
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._held:
            return _Kept(tensor, None)
        self._holders[key] = self._holders.get(key, 0) + 1
        if self._holders[key] == 1:
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)
        return _Kept(tensor, lambda: self._release(key, storage.nbytes()))

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if self._holders[key] == 0:
            del self._holders[key]
            self._live -= size


class _Kept:
    """A tensor that autograd keeps; tells when it lets go of it."""

    def __init__(self, tensor: Tensor, release: Callable[[], None] | None) -> None:
        # The hook must not hand the graph a tensor that holds the graph.
        self.tensor, self._release = tensor.detach() if tensor.grad_fn is not None else tensor, release

    def __del__(self) -> None:
        if self._release is not None:
            self._release()


def _engine(task: Task, recipe: Recipe, extra: Stop, logbook: Logbook | None = None) -> Engine:
    """An engine for the task that stops by `extra` too; the recipe's own stops stay, since schedules count on them."""
    limits = recipe.learn.stop.model_dump() | extra.model_dump(exclude_none=True)
    if recipe.learn.stop.seconds is not None and extra.seconds is not None:
        limits["seconds"] = min(recipe.learn.stop.seconds, extra.seconds)
    # Without a schedule: one that watches evaluations has none to watch here.
    changes = {"stop": Stop(**limits | {"goal": None, "patience": None}), "compile": "off", "schedule": None}
    learn = recipe.learn.model_copy(update=changes)
    log = logbook.options if logbook else None
    return Engine(
        task.objective, task.model, task.source, learn=learn, start=recipe.start, seed=recipe.seed, log=log,
        logbook=logbook,
    )  # fmt: skip


def _rates(rows: Sequence[Mapping[str, float]], ended: Clock) -> dict[str, float]:
    """What the clock counts, per second: between the first and the last row, or over all where there are too few."""
    last = rows[-1] if rows else {}
    first = rows[0] if len(rows) >= _ROWS_WANTED else {}
    seconds = last.get("seconds", ended.seconds) - first.get("seconds", 0.0)
    counted = {name: float(value) for name, value in vars(ended).items() if name != "seconds"}
    return {
        name: (last.get(name, value) - first.get(name, 0.0)) / max(seconds, 1e-9) for name, value in counted.items()
    }


def _length(recipe: Recipe, rates: Mapping[str, float]) -> tuple[str | None, float | None]:
    """The stop that ends the run first, and after how many seconds; goals and patience may end it sooner."""
    stop = recipe.learn.stop
    found = {"seconds": stop.seconds} if stop.seconds is not None else {}
    for unit in get_args(Unit):
        limit, rate = getattr(stop, unit), rates.get(unit, 0.0)
        if limit is not None and rate > 0:
            found[unit] = limit / rate
    if not found:
        return None, None
    bound = min(found, key=lambda unit: found[unit])
    return bound, found[bound]


def _evaluation(task: Task, engine: Engine) -> float:
    """Seconds of one evaluation; not of the first, which also loads what it needs."""
    took = 0.0
    for _ in range(2 if task.evaluator is not None else 0):
        began = time.perf_counter()
        with seeds.undisturbed(), torch.no_grad():
            assert task.evaluator is not None
            task.evaluator.evaluate(engine.learner, Clock())
        took = time.perf_counter() - began
    return took


def _evaluations(recipe: Recipe, rates: Mapping[str, float], seconds: float | None) -> int:
    every = recipe.evaluate.every
    if every is None or seconds is None:
        return 1
    return max(1, int(seconds * rates[recipe.evaluate.unit] / every))


def _bytes(root: object) -> int:
    """Bytes of all tensors and arrays that can be reached from `root`, each storage once."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, np.ndarray):
            base = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
            storages[base.__array_interface__["data"][0]] = base.nbytes
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif type(value).__module__.startswith("reinforge.") and hasattr(value, "__dict__"):
            waiting += vars(value).values()
    return sum(storages.values())
