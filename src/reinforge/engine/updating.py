"""One update: every step's gradients over all microbatches and ranks, one exchange, clipping, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Loss, Objective, Outcome, State, Step
from reinforge.engine import compilation
from reinforge.engine.arena import Arena
from reinforge.engine.compilation import GradientFunction
from reinforge.engine.distributed import World
from reinforge.engine.optimizers import FlatOptimizer
from reinforge.engine.options import AdamWOptions, OptimizerOptions
from reinforge.errors import CheckpointError, ComponentError, TrainingDiverged
from reinforge.recipe.sections import Learn
from reinforge.registry import REGISTRY

# Scalars that ride behind the gradients in the one exchange: decisions of rank 0 or of any rank, then term sums.
FLAGS = 3
TERMS = 61

DIVERGED = (
    "Lower learn.lr, set learn.clip, or check the data for huge values; resume goes on from the last good checkpoint."
)


@dataclass
class _Step:
    """A step with its arena, its optimiser and what its terms were called."""

    step: Step
    arena: Arena
    optimizer: FlatOptimizer
    gradients: GradientFunction | None
    lr: float
    alone: bool
    terms: Tensor
    names: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    coupled: list[bool] = field(default_factory=list)
    norm: Tensor | float = 0.0
    skipped: int = 0
    in_a_row: int = 0
    # Sums of the terms' means since the last log, and over how many updates.
    window: Tensor | None = None
    window_updates: int = 0
    divisors: tuple[tuple[float, ...], Tensor] | None = None
    # Of what is skipped on the device: how many since the last settling, and how many in a row.
    unsettled: Tensor | None = None


class _Means(Mapping[str, Tensor]):
    """The means of terms by "step/term", taken apart only where one is asked for: few objectives do."""

    def __init__(self, steps: Mapping[str, tuple[list[str], Tensor]]) -> None:
        self._steps = steps

    def __getitem__(self, key: str) -> Tensor:
        step, _, term = key.partition("/")
        names, values = self._steps[step]
        if term not in names:
            raise KeyError(key)
        return values[names.index(term)]

    def __iter__(self) -> Iterator[str]:
        return (f"{step}/{name}" for step, (names, _) in self._steps.items() for name in names)

    def __len__(self) -> int:
        return sum(len(names) for names, _ in self._steps.values())


class Updater:
    """Owns the arenas and optimisers of an objective's steps.

    The gradient of each step is the sum over its terms of weight times (raw sum over all rows, microbatches and ranks)
    divided by the term's count, known before any backward. A gradient that isn't finite changes nothing and is counted.
    """

    def __init__(
        self, objective: Objective, learner: nn.Module, learn: Learn, *, world: World, sharded: bool, compiled: bool
    ) -> None:
        self.objective, self.learner, self.learn, self.world, self.sharded = objective, learner, learn, world, sharded
        options = learn.optimizer or AdamWOptions()
        if not isinstance(options, OptimizerOptions):
            raise ComponentError("its options must derive from OptimizerOptions", where=f"optimizer {options!r}")
        self.device = next(learner.parameters()).device
        self.skipped = 0
        # Without waiting for the device, its optimisers skip by themselves, and `settle` counts.
        self.waits = self.device.type == "cpu"
        # Rows without any, of each item: what a rank without rows of an update adds to it.
        self._no_items: dict[str, Tensor] = {}
        steps = objective.steps(learner)
        _refuse_shared(steps)
        trainable = {id(p) for p in learner.parameters() if p.requires_grad}
        self.steps: list[_Step] = []
        for step in steps:
            decay = options.decay if options.weight_decay or learn.l1 or learn.l2 else "all"
            arena = Arena(step.parameters, decay=decay, precision=learn.precision, tail=FLAGS + TERMS)
            override = learn.steps.get(step.name)
            lr = override.lr if override and override.lr else learn.lr
            optimizer = REGISTRY.build("optimizer", options, arena.slices, lr)
            function = compilation.compiled(step.loss, arena.parameters, arena.places) if compiled else None
            alone = trainable <= {id(p) for p in step.parameters}
            self.steps.append(_Step(step, arena, optimizer, function, lr, alone, arena.tail[:0]))
        unknown = set(learn.steps) - {step.name for step in steps}
        if unknown:
            raise ComponentError(
                f"the objective has no step {sorted(unknown)[0]!r}", where="learn.steps",
                remedy=f"Its steps: {', '.join(step.name for step in steps)}.",
            )  # fmt: skip
        self._scales: dict[tuple[float, float], Tensor] = {}

    def update(
        self, batch: Batch, clock: Clock, factor: float, flags: Mapping[int, float]
    ) -> tuple[Outcome, list[float]]:
        """One update of the batch. `factor` scales the learning rates; `flags` are this rank's decisions by place, of
        which the sums over all ranks come back."""
        counts = self.objective.counts(batch)
        if self.world.size > 1:
            if self.sharded:
                self._sum_counts(counts)
            else:
                batch = batches.shard(batch, self.world.rank, self.world.size)
        if self.device.type != "cpu":
            batch = batches.to(batch, self.device)
            counts = {name: count.to(self.device) for name, count in counts.items()}
        parts = batches.split(batch, self.learn.microbatch) if batches.rows(batch) else []
        means: dict[str, tuple[list[str], Tensor]] = {}
        items: dict[str, list[Tensor]] = {}
        skipped, decided = False, [0.0] * FLAGS
        for s in self.steps:
            if clock.updates % s.step.every:
                continue
            decided = self._gradients(s, parts, counts, items, flags)
            means[s.step.name] = s.names, self._means(s, counts)
            skipped = not self._apply(s, factor) or skipped
        joined = {name: torch.cat(values) if len(values) > 1 else values[0] for name, values in items.items()}
        if parts:
            self._no_items.update((name, value[:0]) for name, value in joined.items())
        else:
            joined = dict(self._no_items)
        if self.world.size > 1 and not self.sharded:
            joined = {name: torch.cat(self.world.gather(value)) for name, value in joined.items()}
        return Outcome(_Means(means), joined, skipped), decided

    def _gradients(
        self, s: _Step, parts: list[Batch], counts: Mapping[str, Tensor], items: dict[str, list[Tensor]],
        flags: Mapping[int, float],
    ) -> list[float]:  # fmt: skip
        arena = s.arena
        arena.zero()
        for part in parts:
            if s.gradients is None:
                loss = s.step.loss(self.learner, part, counts)
                self._check(s, loss, counts, len(parts))
                self._backward(s, loss, counts)
            else:
                loss = s.gradients(self.learner, part, counts, arena.gradients)
                self._check(s, loss, counts, len(parts))
            s.terms += torch.stack([term.sum.detach() for term in loss.terms.values()])
            arena.collect()
            for name, value in loss.items.items():
                items.setdefault(name, []).append(value)
        if not s.names:
            raise ComponentError(
                "a rank has no rows in the first update", remedy=f"Use learn.batch of at least {self.world.size}."
            )
        if self.world.size == 1:
            decided = [flags.get(i, 0.0) for i in range(FLAGS)]
        else:
            for place, flag in flags.items():
                arena.tail[place] = flag
            self.world.sum_(arena.exchange)
            decided = arena.tail[:FLAGS].tolist()
        return decided

    def _check(self, s: _Step, loss: Loss, counts: Mapping[str, Tensor], parts: int) -> None:
        if list(loss.terms) != s.names:
            self._name_terms(s, loss, counts)
        if parts > 1 or self.world.size > 1:
            for name, term in loss.terms.items():
                if term.coupled:
                    raise ComponentError(
                        f"the term {name!r} of step {s.step.name!r} depends on the whole batch and can't be split",
                        remedy="Leave learn.microbatch unset and use one process, or gather its statistics through "
                        "counts.",
                    )

    def _backward(self, s: _Step, loss: Loss, counts: Mapping[str, Tensor]) -> None:
        roots, scales = [], []
        for name, term in loss.terms.items():
            if term.weight != 0.0 and term.sum.requires_grad:
                roots.append(term.sum)
                count = None if term.coupled else counts[name]
                scales.append(self._scale(term.weight, count, term.sum))
        if roots:
            if s.alone:
                torch.autograd.backward(roots, scales)
            else:
                torch.autograd.backward(roots, scales, inputs=s.arena.parameters)

    def _scale(self, weight: float, count: Tensor | None, like: Tensor) -> Tensor:
        """`compilation.scale`, remembered on a CPU, where asking for the count costs nothing."""
        if like.device.type != "cpu":
            return compilation.scale(weight, count, like)
        value = 1.0 if count is None else float(count) or 1.0
        found = self._scales.get((weight, value))
        if found is None:
            if len(self._scales) > 256:
                self._scales.clear()
            found = self._scales[weight, value] = torch.tensor(weight / value)
        return found.to(like)

    def _name_terms(self, s: _Step, loss: Loss, counts: Mapping[str, Tensor]) -> None:
        if s.names:
            raise ComponentError(
                f"step {s.step.name!r} gave the terms {list(loss.terms)} after {s.names}",
                remedy="A loss must give the same terms each time; where nothing is valid, give a sum of 0.",
            )
        missing = [name for name in loss.terms if name not in counts]
        if missing:
            raise ComponentError(
                f"the objective's counts lack the term {missing[0]!r}", where=f"step {s.step.name!r}",
                remedy="Objective.counts must state, from data, by what each term is divided.",
            )  # fmt: skip
        if len(loss.terms) > TERMS:
            raise ComponentError(f"step {s.step.name!r} has {len(loss.terms)} terms; at most {TERMS} are carried")
        s.names = list(loss.terms)
        s.terms = s.arena.tail[FLAGS : FLAGS + len(s.names)]
        s.weights = [term.weight for term in loss.terms.values()]
        s.coupled = [term.coupled for term in loss.terms.values()]

    def _means(self, s: _Step, counts: Mapping[str, Tensor]) -> Tensor:
        """The mean of each term (terms,), which the window adds up."""
        own = [None if coupled else counts[name] for name, coupled in zip(s.names, s.coupled)]
        if self.device.type == "cpu":
            values = tuple(1.0 if count is None else count.item() for count in own)
            if s.divisors is None or s.divisors[0] != values:
                s.divisors = values, torch.tensor([1.0 / (value or 1.0) for value in values])
            means = s.terms * s.divisors[1]
        else:
            means = s.terms * torch.stack([compilation.scale(1.0, count, s.terms[0]) for count in own])
        if s.window is None:
            s.window = torch.zeros_like(means)
        s.window += means
        s.window_updates += 1
        return means

    def _apply(self, s: _Step, factor: float) -> bool:
        """Penalties, check, clipping, optimiser. False where the update was skipped for sure."""
        arena, learn = s.arena, self.learn
        if learn.l2:
            arena.decayed_gradients.add_(arena.decayed, alpha=2 * learn.l2)
        if learn.l1:
            arena.decayed_gradients.add_(arena.decayed.sign(), alpha=learn.l1)
        total = arena.global_norm()
        s.norm, found_inf = total, None
        if self.waits or not s.optimizer.skips_on_device:
            norm = float(total)
            s.norm = norm
            if not math.isfinite(norm):
                self._skip(s, 1, s.in_a_row + 1)
                return False
            s.in_a_row = 0
            if learn.clip is not None and norm > learn.clip:
                arena.full_gradients.mul_(learn.clip / norm)
        else:
            # No waiting for the device: fused optimisers skip by themselves where `found_inf` is 1.
            if learn.clip is not None:
                arena.full_gradients.mul_((learn.clip / total).clamp(max=1.0))
            found_inf = (~torch.isfinite(total)).float()
            if s.unsettled is None:
                s.unsettled = torch.tensor([0.0, float(s.in_a_row)], device=total.device)
            s.unsettled += found_inf
            s.unsettled[1] *= found_inf
        s.optimizer.step(s.lr * factor, found_inf)
        arena.publish()
        return True

    def _skip(self, s: _Step, skipped: int, in_a_row: int) -> None:
        s.skipped += skipped
        self.skipped += skipped
        s.in_a_row = in_a_row
        if in_a_row >= self.learn.max_nonfinite:
            raise TrainingDiverged(
                f"{in_a_row} updates in a row had gradients that are not finite (step {s.step.name!r})",
                remedy=DIVERGED,
            )

    def _sum_counts(self, counts: dict[str, Tensor]) -> None:
        names = sorted(counts)
        total = self.world.sum_(torch.stack([counts[name].double() for name in names]))
        counts.update(zip(names, total.unbind()))

    def settle(self) -> None:
        """Where skipping happened on the device: count it now that waiting is due. Raises TrainingDiverged."""
        for s in self.steps:
            if s.unsettled is not None:
                skipped, in_a_row = s.unsettled.tolist()
                s.unsettled[0] = 0
                self._skip(s, int(skipped), int(in_a_row))

    def sound(self) -> bool:
        """Whether all weights are finite, and so worth saving. Waits for the device."""
        return all(bool(torch.isfinite(s.arena.masters).all()) for s in self.steps)

    def window(self) -> dict[str, float]:
        """The mean of each term, by "step/term", over the updates since the last call."""
        means: dict[str, float] = {}
        for s in self.steps:
            if s.window is not None and s.window_updates:
                values = (s.window / s.window_updates).tolist()
                means.update((f"{s.step.name}/{name}", value) for name, value in zip(s.names, values))
                s.window.zero_()
                s.window_updates = 0
        return means

    def total(self, means: Mapping[str, float]) -> float:
        """The weighted total loss of logged means."""
        total = 0.0
        for s in self.steps:
            for name, weight in zip(s.names, s.weights):
                if weight:
                    total += weight * means.get(f"{s.step.name}/{name}", 0.0)
        return total

    def state_dict(self) -> State:
        """Optimisers, masters and counters."""
        self.settle()
        return {
            "skipped": self.skipped,
            "items": dict(self._no_items),
            "steps": {
                s.step.name: {
                    "arena": s.arena.state_dict(), "optimizer": s.optimizer.state_dict(), "skipped": s.skipped,
                    "in_a_row": s.in_a_row, "names": s.names, "weights": s.weights, "coupled": s.coupled,
                    "window": s.window, "window_updates": s.window_updates,
                } for s in self.steps
            },
        }  # fmt: skip

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` gave. Raises CheckpointError where the steps differ."""
        if set(state["steps"]) != {s.step.name for s in self.steps}:
            raise CheckpointError("the checkpoint's steps are not those of this objective")
        self.skipped = state["skipped"]
        self._no_items = {name: value.to(self.device) for name, value in state["items"].items()}
        for s in self.steps:
            saved = state["steps"][s.step.name]
            s.arena.load_state_dict(saved["arena"])
            s.optimizer.load_state_dict(saved["optimizer"])
            s.skipped, s.in_a_row, s.unsettled = saved["skipped"], saved["in_a_row"], None
            s.names, s.weights, s.coupled = list(saved["names"]), list(saved["weights"]), list(saved["coupled"])
            s.terms = s.arena.tail[FLAGS : FLAGS + len(s.names)]
            s.window = saved["window"].to(self.device) if saved["window"] is not None else None
            s.window_updates = saved["window_updates"]


def _refuse_shared(steps: Sequence[Step]) -> None:
    seen: dict[int, str] = {}
    for step in steps:
        for parameter in step.parameters:
            other = seen.setdefault(id(parameter), step.name)
            if other != step.name:
                raise ComponentError(
                    f"steps {other!r} and {step.name!r} share a parameter", remedy="Give each parameter to one step."
                )
