"""The engine: one loop for every source and objective, exact to the bit across interruptions."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reinforge.core import batch as batches
from reinforge.core import seeds
from reinforge.core.batch import Batch
from reinforge.core.contracts import (
    END,
    WAIT,
    Clock,
    Evaluator,
    Experience,
    Measuring,
    Objective,
    Outcome,
    Source,
    State,
)
from reinforge.core.modes import evaluating
from reinforge.core.products import faster_products
from reinforge.core.sealed import Sealed
from reinforge.engine.averaging import Average, batch_statistics
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.compilation import pays
from reinforge.engine.distributed import World, device_of
from reinforge.engine.logbook import Logbook
from reinforge.engine.options import ConstantOptions
from reinforge.engine.schedules import Schedule
from reinforge.engine.stopping import Stopper
from reinforge.engine.updating import DIVERGED, Updater
from reinforge.errors import CheckpointError, RecipeError, StorageError, TrainingDiverged
from reinforge.recipe.sections import Checkpoint, Evaluate, Learn, Log, Start
from reinforge.registry import REGISTRY

# Places of the decisions that ride with the gradient exchange.
_INTERRUPT, _SAVE, _TIME = range(3)
# How long an idle source is left alone before it is asked again.
_IDLE_SECONDS = 0.01
# A launcher hands on the signal that its terminal sent to all: within so long, it is the same one.
_FORWARDED_SECONDS = 2.0

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Finished:
    """How a run ended: the reason ("updates", "goal", "interrupted", "end", ...), the clock, the last evaluation, and
    the best weights of the model if a metric was monitored."""

    reason: str
    clock: Clock
    metrics: dict[str, float]
    best: dict[str, torch.Tensor] | None
    best_metrics: dict[str, float]


class Engine:
    """Updates a learner from a source until a stop condition.

    Order within one update: gradients and optimiser of each step, `after_update`, feedback to the source, log,
    evaluation, checkpoint.
    Everything that decides what comes next is in `state_dict`; evaluation leaves no trace.
    """

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        source: Source,
        *,
        learn: Learn,
        start: Start | None = None,
        seed: int = 0,
        evaluate: Evaluate | None = None,
        evaluator: Evaluator | None = None,
        checkpoint: Checkpoint | None = None,
        store: CheckpointStore | None = None,
        log: Log | None = None,
        logbook: Logbook | None = None,
        world: World | None = None,
        report: Report | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.objective, self.source, self.learn, self.seed = objective, source, learn, seed
        self.evaluate, self.evaluator = evaluate or Evaluate(), evaluator
        self.checkpoint, self.store = checkpoint or Checkpoint(), store
        self.log, self.logbook = log or Log(), logbook
        self.report, self.note = report, note or (lambda _: None)
        self.device = device_of(learn.device)
        self.world = world or World.join(self.device)
        self.clock = Clock()
        seeds.seed_everything(seed, "learner")
        self.learner = objective.build(model).to(self.device)
        for tensor in self.learner.state_dict().values():
            self.world.broadcast(tensor)
        seeds.seed_everything(seed, "engine", 0)
        # Ranks differ in torch's generator alone, which drops out of their own rows; what a replicated source may
        # draw from numpy's or Python's is the same on all.
        torch.manual_seed(seeds.derive(seed, "engine", self.world.rank))
        compiled = pays(learn, self.learner, self.device)
        self.updater = Updater(
            objective, self.learner, learn, start=start, world=self.world, sharded=source.sharded, compiled=compiled
        )
        self.schedule: Schedule = REGISTRY.build("schedule", learn.schedule or ConstantOptions(), learn.stop)
        if self.schedule.watches == "metric" and self.evaluate.monitor is None:
            raise RecipeError(
                "the schedule needs a metric to watch", where="learn.schedule",
                remedy="Set evaluate.monitor to a metric's name.",
            )  # fmt: skip
        self.stopper = Stopper(learn.stop, self.evaluate)
        self.average: Average | None = None
        if learn.average is not None:
            self.average = REGISTRY.build("average", learn.average)
            tensors = [*self.updater.masters(), *batch_statistics(self.learner.get_submodule("model"))]
            self.average.attach(tensors, self.updater.publish)
        self.metrics: dict[str, float] = {}
        self.best: Sealed | None = None
        self.best_metrics: dict[str, float] = {}
        self._generator = torch.Generator()
        self._generator_base = seeds.derive(seed, "updates")
        self._experience: Experience | None = None
        # The clock when the experience came, without it; and the same with the updates since.
        self._began = Clock()
        self._past = Clock()
        self._stream: Generator[Batch, Outcome, None] | None = None
        self._outcomes: list[Outcome] = []
        self._evaluations = 0
        self._evaluated_at = -1
        self._interrupted = False
        self._interrupted_at = 0.0
        self._saved_at = 0.0
        self._saved_updates = -1
        self._logged_at = (0.0, 0)
        self._published = False
        self._unlogged = False

    # ---------------------------------------------------------------- running

    def run(self) -> Finished:
        """Train until a stop condition, the source's end, or an interruption (which checkpoints first).

        Raises TrainingDiverged after several non-finite updates in a row.
        """
        started, before = time.perf_counter(), self.clock.seconds
        self._saved_at, self._logged_at = started, (started, self.clock.updates)
        with self._signals(), faster_products(self.learner, self.learn.products == "rounded"):
            try:
                reason = self._loop(started, before)
                self.updater.settle()
                if not self.updater.sound():
                    raise TrainingDiverged("weights are not finite", remedy=DIVERGED)
            except TrainingDiverged as error:
                latest = self.store.paths()[-1:] if self.store else []
                where = f"after {self.clock.updates} updates"
                raise TrainingDiverged(
                    error.problem,
                    where=where,
                    remedy=f"{error.remedy} Last good checkpoint: {latest[0] if latest else 'none'}.",
                ) from error
            self.clock.seconds = before + time.perf_counter() - started
            if reason != "interrupted":
                self._log()
                self._evaluate()
            if self.store is not None and self._saved_updates != self.clock.updates:
                self.save()
        best = dict(self.best.tensors) if self.best else None
        return Finished(reason, self.clock, self.metrics, best, self.best_metrics)

    def _loop(self, started: float, before: float) -> str:
        if not self._published:
            self.source.publish(self.learner, self.clock)
            self._published = True
        # A finished run that is resumed has nothing left to do.
        if reason := self.stopper.clock(dataclasses.replace(self.clock, seconds=0.0)):
            return reason
        while True:
            if self._stream is None:
                self.clock.seconds = before + time.perf_counter() - started
                if self._interrupted and self.world.size == 1:
                    return "interrupted"
                # With several ranks, time was up only where rank 0 said so to all, in `_due`.
                alone = self.world.size == 1
                if reason := self.stopper.clock(self.clock if alone else dataclasses.replace(self.clock, seconds=0.0)):
                    return reason
                answer = self.source.next(self.clock)
                if answer is END:
                    return "end"
                if answer is WAIT:
                    time.sleep(_IDLE_SECONDS)
                    continue
                assert isinstance(answer, Experience)
                self._begin(answer)
            batch = self._advance()
            if batch is None:
                self._stream, self._experience, self._outcomes = None, None, []
                self.source.publish(self.learner, self.clock)
                continue
            decided = self._update(batch)
            self.clock.seconds = before + time.perf_counter() - started
            # What is due at this update is done before an interruption: a resumed run won't come by here again.
            if reason := self._due(decided):
                return reason
            if decided[_INTERRUPT]:
                return "interrupted"

    def _begin(self, experience: Experience) -> None:
        if self.device.type != "cpu":
            experience = dataclasses.replace(experience, batch=batches.to(experience.batch, self.device))
        with torch.no_grad():
            experience = self.objective.prepare(self.learner, experience)
        clock = self.clock
        self._began = clock.copy()
        clock.samples += experience.samples
        clock.tokens += experience.tokens
        clock.steps += experience.steps
        clock.experiences += 1
        if experience.epochs is not None:
            clock.epochs = experience.epochs
        self._experience = experience
        self._open()

    def _open(self) -> None:
        assert self._experience is not None
        # Seeded from the experience's number, so a replay after resume draws the same without stored generator state.
        seed = (self._generator_base + (self._began.experiences + 1) * 0x9E3779B97F4A7C15) & (2**63 - 1)
        self._past = self._began.copy()
        self._stream = self.objective.updates(self._experience, self._generator.manual_seed(seed), self._began)

    def _advance(self) -> Batch | None:
        assert self._stream is not None
        try:
            return self._stream.send(self._outcomes[-1]) if self._outcomes else next(self._stream)
        except StopIteration:
            return None

    def _update(self, batch: Batch) -> list[float]:
        flags: dict[int, float] = {}
        if self._interrupted:
            flags[_INTERRUPT] = 1.0
        if self.world.size > 1 and self.world.main:
            flags.update({_SAVE: float(self._save_time()), _TIME: float(self._time_up())})
        factor = self._factor()
        if self.updater.frozen:
            self.updater.thaw(self._past)
        outcome, decided = self.updater.update(batch, self.clock, factor, flags)
        self.clock.updates += 1
        self._outcomes.append(outcome)
        with torch.no_grad():
            self.objective.after_update(self.learner, self.clock)
        if self.average is not None:
            self.average.update(self.clock)
        if self.schedule.watches == "loss":
            self.schedule.observe(self.updater.loss(outcome))
        assert self._experience is not None
        self.source.feedback(self._experience, outcome)
        return decided

    def _due(self, decided: list[float]) -> str | None:
        """Log, evaluate and checkpoint where due; the reason to stop, if any."""
        clock = self.clock
        if clock.updates % self.log.updates == 0:
            self._log()
        every = self.evaluate.every
        if every is not None:
            passed = int(getattr(clock, self.evaluate.unit) / every + 1e-9)
            if passed > self._evaluations:
                self._evaluations = passed
                self._evaluate()
        # A limit in data ends the run once the experience that reached it is used up; one in updates or time, at once.
        past = self._past
        past.updates, past.seconds = clock.updates, clock.seconds
        save = self._save_time()
        if self.world.size > 1:
            save = bool(decided[_SAVE])
            past.seconds = (self.learn.stop.seconds or 0.0) if decided[_TIME] else 0.0
        reason = self.stopper.clock(past)
        every_updates = self.checkpoint.updates
        save = save or (every_updates is not None and clock.updates % every_updates == 0)
        if save and not reason and self.store is not None and self.updater.sound():
            self.save()
        return reason

    def _factor(self) -> float:
        """Of the learning rate: by the updates so far and the data learned from before this experience, so that a
        course begins at its beginning, and its last experience still counts."""
        self._past.updates = self.clock.updates
        return self.schedule(self._past)

    def _save_time(self) -> bool:
        seconds = self.checkpoint.seconds
        return self.store is not None and seconds is not None and time.perf_counter() - self._saved_at >= seconds

    def _time_up(self) -> bool:
        return self.learn.stop.seconds is not None and self.clock.seconds >= self.learn.stop.seconds

    # ---------------------------------------------------------------- log and evaluation

    def _log(self) -> None:
        self.updater.settle()
        means = self.updater.window()
        if not means:
            return
        loss = self.updater.total(means)
        self.stopper.loss(loss)
        now = time.perf_counter()
        rate = (self.clock.updates - self._logged_at[1]) / max(now - self._logged_at[0], 1e-9)
        self._logged_at = (now, self.clock.updates)
        row = {**self._place(), "loss": loss, **means}
        for s in self.updater.steps:
            row[f"{s.step.name}/grad_norm"] = float(s.norm)
            row[f"{s.step.name}/lr"] = s.lr * self._factor()
            if s.scale is not None:
                row[f"{s.step.name}/loss_scale"] = float(s.scale.scale)
        if self.average is not None:
            row["averaged_weights"] = self.average.taken
        row["updates_per_second"] = rate
        row["skipped_updates"] = self.updater.skipped
        if isinstance(self.source, Measuring):
            row |= self.source.measures()
        self._write(row)
        if self.report:
            self.report(self.stopper.fraction(self.clock), f"loss {loss:.4g}, {rate:.0f} updates/s")

    def _evaluate(self) -> None:
        if self.evaluator is None or self._evaluated_at == self.clock.updates:
            return
        self._evaluated_at = self.clock.updates
        with self.deployed():
            self._judge()

    def _judge(self) -> None:
        assert self.evaluator is not None
        self.metrics = self.evaluator.evaluate(self.learner, self.clock)
        if self.world.size > 1:
            # What they decide must be the same on all ranks, whatever their arithmetic.
            values = self.world.broadcast(torch.tensor(list(self.metrics.values()), dtype=torch.float64))
            self.metrics = dict(zip(self.metrics, values.tolist()))
        if self.stopper.evaluated(self.metrics):
            model: Any = self.learner.model
            tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
            self.best = Sealed(f"best-{self.clock.updates}", tensors)
            self.best_metrics = dict(self.metrics)
        if self.schedule.watches == "metric":
            self.schedule.observe(self.stopper.signed(self.metrics))
        self._write({**self._place(), **{f"evaluation/{name}": value for name, value in self.metrics.items()}})
        if self.report:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in list(self.metrics.items())[:3])
            self.report(self.stopper.fraction(self.clock), shown)

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """The learner as it is evaluated and shipped: in evaluation mode, with the averages of its weights where such
        are taken. Afterwards it is what it was, and so is all random state."""
        averaged = self.average.applied() if self.average else nullcontext()
        with seeds.undisturbed(), torch.no_grad(), averaged, evaluating(self.learner):
            yield

    def _place(self) -> dict[str, float | int | str]:
        place = dataclasses.asdict(self.clock)
        return {name: value for name, value in place.items() if value}

    def _write(self, row: dict[str, float | int | str]) -> None:
        if self.logbook is None or not self.world.main:
            return
        try:
            self.logbook.write(row)
        except StorageError as error:
            # No reason to lose the training; it is said once for all rows in a row.
            if not self._unlogged:
                self.note(str(error))
            self._unlogged = True
        else:
            self._unlogged = False

    # ---------------------------------------------------------------- state

    def rescue(self) -> bool:
        """Keep what was learned where something outside of it failed; whether there is a checkpoint to go on from."""
        if self.store is None or self.clock.updates == 0 or not self.updater.sound():
            return False
        if self._saved_updates != self.clock.updates:
            self.save()
        return self._saved_updates == self.clock.updates or bool(self.store.paths())

    def save(self) -> None:
        """Write a checkpoint now. Where the disk refuses, say so and train on: the one before still stands."""
        assert self.store is not None
        self._saved_at = time.perf_counter()
        state, saved = self.state_dict(), torch.ones(())
        if self.world.main:
            try:
                self.store.save(state, updates=self.clock.updates)
            except StorageError as error:
                if isinstance(error, CheckpointError):
                    raise
                saved.zero_()
                self.note(str(error))
        # All ranks wait for it, and know whether it worked.
        self._saved_updates = self.clock.updates if self.world.broadcast(saved) else -1

    def state_dict(self) -> State:
        """All that decides what comes next."""
        return {
            "clock": dataclasses.asdict(self.clock),
            "learner": dict(self.learner.state_dict()),
            "updater": self.updater.state_dict(),
            "source": self.source.state_dict(),
            "random": self._random_states(),
            "experience": _experience_state(self._experience, self._began, self._outcomes),
            "stopping": self.stopper.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": {"model": self.best, "metrics": self.best_metrics},
            "log": {
                "evaluations": self._evaluations,
                "evaluated_at": self._evaluated_at,
                "metrics": self.metrics,
                "files": self.logbook.state_dict() if self.logbook and self.world.main else None,
            },
            "machine": {"threads": torch.get_num_threads(), "world": self.world.size, "seed": self.seed},
        }

    def load_state_dict(self, state: State) -> None:
        """Go on where `state_dict` was taken. Raises CheckpointError where the run is another one."""
        machine = state["machine"]
        if machine["world"] != self.world.size:
            raise CheckpointError(
                f"the checkpoint was written by {machine['world']} processes, this run has {self.world.size}",
                remedy=f"Resume with the same number: torchrun --nproc-per-node {machine['world']} ...",
            )
        torch.set_num_threads(machine["threads"])
        self.clock, self._past = Clock(**state["clock"]), Clock(**state["clock"])
        try:
            self.learner.load_state_dict(state["learner"])
        except RuntimeError as error:
            raise CheckpointError(f"the weights do not fit the recipe's model: {error}") from error
        for s in self.updater.steps:
            s.arena.check_views()
        self.updater.load_state_dict(state["updater"])
        self.source.load_state_dict(state["source"])
        self.stopper.load_state_dict(state["stopping"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best, self.best_metrics = state["best"]["model"], dict(state["best"]["metrics"])
        log = state["log"]
        self._evaluations, self._evaluated_at = log["evaluations"], log["evaluated_at"]
        self.metrics = dict(log["metrics"])
        if self.logbook and self.world.main and log["files"]:
            self.logbook.load_state_dict(log["files"])
        self._restore_experience(state["experience"])
        self._saved_updates = self.clock.updates
        self._set_random_states(state["random"])

    def _restore_experience(self, saved: State | None) -> None:
        # An acting source needs the learner before its next experience; that is no new publication.
        self.source.publish(self.learner, self.clock)
        self._published = True
        if saved is None:
            return
        batch = batches.from_state(saved["batch"])
        if self.device.type != "cpu":
            batch = batches.to(batch, self.device)
        self._experience = Experience(batch, extra=saved["extra"], **saved["counters"])
        self._began = Clock(**saved["began"])
        self._outcomes = [Outcome(o["means"], o["items"], o["skipped"]) for o in saved["outcomes"]]
        self._open()
        assert self._stream is not None
        if self._outcomes:
            next(self._stream)
            for outcome in self._outcomes[:-1]:
                self._stream.send(outcome)

    def _random_states(self) -> list[State]:
        own = seeds.random_state()
        if self.world.size == 1:
            return [own]
        states = [{**own, "torch": value} for value in self.world.gather(own["torch"])]
        if "cuda" in own:
            here = self.world.gather(torch.cuda.get_rng_state(self.device))
            # Each rank restores its own device; the others' are not its to touch.
            states = [{**state, "cuda": [value] * len(own["cuda"])} for state, value in zip(states, here)]
        return states

    def _set_random_states(self, states: list[State]) -> None:
        seeds.set_random_state(states[self.world.rank])

    # ---------------------------------------------------------------- interruption

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run at the next update's end, with a checkpoint; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            now = time.monotonic()
            if not self._interrupted:
                self._interrupted, self._interrupted_at = True, now
            elif self.world.size == 1 or now - self._interrupted_at > _FORWARDED_SECONDS:
                raise KeyboardInterrupt

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _experience_state(experience: Experience | None, began: Clock, outcomes: list[Outcome]) -> State | None:
    if experience is None:
        return None
    return {
        "batch": batches.to_state(experience.batch),
        "extra": dict(experience.extra),
        "counters": {
            "samples": experience.samples, "tokens": experience.tokens,
            "steps": experience.steps, "epochs": experience.epochs,
        },
        "began": dataclasses.asdict(began),
        "outcomes": [{"means": dict(o.means), "items": dict(o.items), "skipped": o.skipped} for o in outcomes],
    }  # fmt: skip
