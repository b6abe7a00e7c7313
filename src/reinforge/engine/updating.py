"""One update: every step's gradients over all microbatches and ranks, one exchange, clipping, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import ByHand, Clock, Loss, Numbers, Objective, Outcome, State, Step
from reinforge.engine import compilation
from reinforge.engine.arena import HALVES, Arena
from reinforge.engine.compilation import GradientFunction
from reinforge.engine.distributed import World
from reinforge.engine.groups import Plan
from reinforge.engine.optimizers import FlatOptimizer
from reinforge.engine.options import OptimizerOptions, SparseAdamOptions
from reinforge.engine.scaling import LossScale
from reinforge.engine.sparse import Tables, sparse_parameters
from reinforge.errors import CheckpointError, ComponentError, RecipeError, TrainingDiverged
from reinforge.recipe.sections import Learn, Start
from reinforge.registry import REGISTRY

# Scalars that ride behind the gradients in the one exchange: decisions of rank 0 or of any rank, then term sums.
FLAGS = 3
TERMS = 61

DIVERGED = (
    "Lower learn.lr, set learn.clip, or check the data for huge values; resume goes on from the last good checkpoint."
)


@dataclass
class _Step:
    """A step with its arena, its optimisers and what its terms were called.

    `optimizers`: of the arena's slices, then of the tables, then of each later phase. `inputs`: the parameters that
    learn now; None where nothing else has gradients, so that autograd needn't be told.
    """

    step: Step
    arena: Arena
    tables: Tables | None
    optimizers: list[FlatOptimizer]
    lr: float
    terms: Tensor
    scale: LossScale | None
    inputs: list[nn.Parameter] | None = None
    gradients: GradientFunction | None = None
    skips_on_device: bool = False
    names: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    coupled: list[bool] = field(default_factory=list)
    norm: Tensor | float = 0.0
    skipped: int = 0
    in_a_row: int = 0
    # Sums of the terms' means since the last log, and over how many updates.
    window: Tensor | None = None
    window_updates: int = 0
    divisors: tuple[tuple[float, ...], np.ndarray[Any, np.dtype[Any]]] | None = None
    # Of what is skipped on the device: how many since the last settling, and how many in a row.
    unsettled: Tensor | None = None
    # The terms for NumPy, on a CPU.
    sums: np.ndarray[Any, np.dtype[Any]] = field(default_factory=lambda: np.empty(0, np.float32))

    def view_terms(self) -> None:
        """Terms are the first numbers of the exchange's tail after the flags."""
        self.terms = self.arena.tail[FLAGS : FLAGS + len(self.names)]
        if self.terms.device.type == "cpu":
            self.sums = self.terms.numpy()


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
        self, objective: Objective, learner: nn.Module, learn: Learn, *, start: Start | None = None, world: World,
        sharded: bool, compiled: bool,
    ) -> None:  # fmt: skip
        self.objective, self.learner, self.learn, self.world, self.sharded = objective, learner, learn, world, sharded
        self.options = learn.optimizer or default_optimizer(objective)
        if not isinstance(self.options, OptimizerOptions):
            raise ComponentError("its options must derive from OptimizerOptions", where=f"optimizer {self.options!r}")
        self.device = next(learner.parameters()).device
        self.skipped = 0
        # Without waiting for the device, its optimisers skip by themselves, and `settle` counts.
        self.waits = self.device.type == "cpu"
        # Rows without any, of each item: what a rank without rows of an update adds to it.
        self._no_items: dict[str, Tensor] = {}
        steps = objective.steps(learner)
        _refuse_shared(steps)
        learning = {p for step in steps for p in step.parameters if p.requires_grad}
        self.plan = Plan(learner, learn, start or Start(), self.options)
        self.phase = 0
        self._sparse = sparse_parameters(learner) & learning
        self._compiled = self._may_compile(compiled)
        # Whether steps that can take their gradients by hand do so; fp16 scales its losses for autograd.
        self.by_hand = not self._compiled and learn.precision != "fp16" and self.waits
        self.steps: list[_Step] = []
        for step in steps:
            self.steps.append(self._step(step, [p for p in step.parameters if p in learning]))
        unknown = set(learn.steps) - {step.name for step in steps}
        if unknown:
            raise ComponentError(
                f"the objective has no step {sorted(unknown)[0]!r}", where="learn.steps",
                remedy=f"Its steps: {', '.join(step.name for step in steps)}.",
            )  # fmt: skip
        if learn.precision in HALVES:
            # What never learns lies in no arena, and must meet the same activations.
            owned = {p for s in self.steps for p in (*s.arena.everything, *(s.tables.parameters if s.tables else ()))}
            for p in learner.get_submodule("model").parameters():
                if p not in owned and p.is_floating_point():
                    p.data = p.data.to(HALVES[learn.precision])
        self._settle_phase()
        self._scales: dict[tuple[float, float], Tensor] = {}

    def _step(self, step: Step, parameters: Sequence[nn.Parameter]) -> _Step:
        learn = self.learn
        groups = {p: group for p in parameters if (group := self.plan.group(p)) is not None}
        dense = {p: group for p, group in groups.items() if p not in self._sparse}
        if not any(group.phase == 0 for group in dense.values()):
            raise RecipeError(
                f"it leaves nothing to learn in the step {step.name!r}", where="start.freeze",
                remedy="Freeze less; a head must learn from the start.",
            )  # fmt: skip
        arena = Arena(dense, precision=learn.precision, tail=FLAGS + TERMS)
        override = learn.steps.get(step.name)
        lr = override.lr if override and override.lr else learn.lr
        optimizers = [REGISTRY.build("optimizer", self.options, arena.slices(), lr)]
        tables = None
        if sparse := [p for p in groups if p in self._sparse]:
            tables = Tables(sparse, [groups[p] for p in sparse], learn.precision)
            tables.thaw(0)
            optimizers.append(REGISTRY.build("sparse-optimizer", learn.sparse or SparseAdamOptions(), tables, lr))
        scale = LossScale(self.device) if learn.precision == "fp16" else None
        return _Step(step, arena, tables, optimizers, lr, arena.tail[:0], scale)

    def _may_compile(self, compiled: bool) -> bool:
        if compiled and self._sparse:
            if self.learn.compile == "on":
                raise ComponentError(
                    "a table with sparse gradients can't be compiled", where="learn.compile",
                    remedy="Set learn.compile=off, or make the table's gradients dense.",
                )  # fmt: skip
            return False
        return compiled

    def _settle_phase(self) -> None:
        """After a phase began: what autograd, compiler and modules must know of it."""
        trainable = {id(p) for p in self.learner.parameters() if p.requires_grad}
        for s in self.steps:
            own = [*s.arena.parameters, *(s.tables.learning if s.tables else ())]
            s.inputs = None if trainable <= {id(p) for p in own} else own
            s.skips_on_device = all(optimizer.skips_on_device for optimizer in s.optimizers)
            if self._compiled:
                s.gradients = compilation.compiled(s.step.loss, s.arena.parameters, s.arena.places)
        self.frozen = self.phase < len(self.plan.unfreeze)
        self.train()

    def train(self) -> None:
        """The learner's training mode; what is frozen keeps its running statistics."""
        self.learner.train()
        for module in self.plan.still():
            module.eval()

    def thaw(self, clock: Clock) -> None:
        """Unfreeze what is due by this clock, in order; `frozen` says whether anything is left to unfreeze."""
        unfreeze = self.plan.unfreeze
        # Units other than updates come as sums of parts: a time is not to be missed by rounding.
        while self.frozen and getattr(clock, unfreeze[self.phase].unit) >= unfreeze[self.phase].after - 1e-9:
            self._thaw()

    def _thaw(self) -> None:
        self.phase += 1
        for s in self.steps:
            if slices := s.arena.thaw():
                s.optimizers.append(REGISTRY.build("optimizer", self.options, slices, s.lr))
            if s.tables is not None:
                s.tables.thaw(self.phase)
        self._settle_phase()

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
        if s.tables is not None:
            s.tables.zero()
        by_hand = s.step.by_hand if self.by_hand else None
        for place, part in enumerate(parts):
            made: Loss | Numbers
            if by_hand is not None:
                made = self._by_hand(s, by_hand, part, counts, len(parts))
            else:
                made = self._recorded(s, part, counts, len(parts))
            arena.collect()
            if made.carry:
                parts[place] = {**part, **made.carry}
            for name, value in made.items.items():
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

    def _by_hand(self, s: _Step, by_hand: ByHand, part: Batch, counts: Mapping[str, Tensor], parts: int) -> Numbers:
        """One of so many microbatches: its gradients and sums are added."""
        # NumPy would tell of what is no number; the norm of the gradients does.
        with torch.no_grad(), np.errstate(all="ignore"):
            made, pull = by_hand(self.learner, part, counts)
            self._check(s, made, counts, parts)
            pull(
                {
                    name: term.weight / (1.0 if term.coupled else float(counts[name]) or 1.0)
                    for name, term in made.terms.items()
                    if term.weight != 0.0
                }
            )
            for index, term in enumerate(made.terms.values()):
                s.sums[index] += term.sum
        return made

    def _recorded(self, s: _Step, part: Batch, counts: Mapping[str, Tensor], parts: int) -> Loss:
        """The same by autograd."""
        if s.gradients is None:
            made = s.step.loss(self.learner, part, counts)
            self._check(s, made, counts, parts)
            self._backward(s, made, counts)
        else:
            factor = None if s.scale is None else s.scale.scale
            made = s.gradients(self.learner, part, counts, s.arena.gradients, factor)
            self._check(s, made, counts, parts)
        with torch.no_grad():
            s.terms += torch.stack([term.sum for term in made.terms.values()])
        return made

    def _check(self, s: _Step, loss: Loss | Numbers, counts: Mapping[str, Tensor], parts: int) -> None:
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
                scale = self._scale(term.weight, count, term.sum)
                scales.append(scale if s.scale is None else (scale * s.scale.scale).to(scale.dtype))
        if roots:
            torch.autograd.backward(roots, scales, inputs=s.inputs)

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

    def _name_terms(self, s: _Step, loss: Loss | Numbers, counts: Mapping[str, Tensor]) -> None:
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
        s.view_terms()
        s.weights = [term.weight for term in loss.terms.values()]
        s.coupled = [term.coupled for term in loss.terms.values()]

    def _means(self, s: _Step, counts: Mapping[str, Tensor]) -> Tensor:
        """The mean of each term (terms,), which the window adds up."""
        own = [None if coupled else counts[name] for name, coupled in zip(s.names, s.coupled)]
        if self.device.type == "cpu":
            values = tuple(1.0 if count is None else count.item() for count in own)
            if s.divisors is None or s.divisors[0] != values:
                s.divisors = values, np.array([1.0 / (value or 1.0) for value in values], np.float32)
            means = torch.from_numpy(s.sums * s.divisors[1])
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
        gradients = [arena.full_gradients]
        if s.tables is not None:
            s.tables.collect(self.world)
            gradients += s.tables.values()
        if s.scale is not None:
            for gradient in gradients:
                gradient.div_(s.scale.scale)
        if learn.l2:
            for weights, gradient in arena.penalised:
                gradient.add_(weights, alpha=2 * learn.l2)
        if learn.l1:
            for weights, gradient in arena.penalised:
                gradient.add_(weights.sign(), alpha=learn.l1)
        total = arena.global_norm() if s.tables is None else _norm(gradients)
        s.norm, found_inf = total, None
        if self.waits or not s.skips_on_device:
            norm = float(total)
            s.norm = norm
            finite = math.isfinite(norm)
            if s.scale is None:
                diverged = not finite
            else:
                diverged = bool(s.scale.update(torch.full_like(s.scale.scale, not finite)))
            if not finite:
                if diverged:
                    self._skip(s, 1, s.in_a_row + 1)
                return False
            s.in_a_row = 0
            if learn.clip is not None and norm > learn.clip:
                for gradient in gradients:
                    gradient.mul_(learn.clip / norm)
        else:
            # No waiting for the device: fused optimisers skip by themselves where `found_inf` is 1.
            if learn.clip is not None:
                arena.full_gradients.mul_((learn.clip / total).clamp(max=1.0))
            found_inf = (~torch.isfinite(total)).float()
            if s.unsettled is None:
                s.unsettled = torch.tensor([0.0, float(s.in_a_row)], device=total.device)
            s.unsettled += found_inf if s.scale is None else s.scale.update(found_inf)
            s.unsettled[1] *= found_inf
        if learn.clip_value is not None:
            for gradient in gradients:
                gradient.clamp_(-learn.clip_value, learn.clip_value)
        for optimizer in s.optimizers:
            optimizer.step(s.lr * factor, found_inf)
        arena.publish()
        if s.tables is not None:
            s.tables.publish()
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
        return all(bool(torch.isfinite(weights).all()) for weights in self.masters())

    def masters(self) -> list[Tensor]:
        """All weights that learn, now or later, in fp32."""
        return [
            weights
            for s in self.steps
            for weights in (s.arena.masters, *((m.detach() for m in s.tables.masters) if s.tables else ()))
        ]

    def publish(self) -> None:
        """Round all masters into half weights, where there are such."""
        for s in self.steps:
            s.arena.publish()
            if s.tables is not None:
                s.tables.publish_all()

    def loss(self, outcome: Outcome) -> Tensor:
        """The weighted total loss of an update, over the steps that were taken."""
        total = torch.zeros((), device=self.device)
        for s in self.steps:
            for name, weight in zip(s.names, s.weights):
                value = outcome.means.get(f"{s.step.name}/{name}")
                if weight and value is not None:
                    total = total + weight * value
        return total

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
            "phase": self.phase,
            "steps": {
                s.step.name: {
                    "arena": s.arena.state_dict(), "tables": s.tables.state_dict() if s.tables else None,
                    "optimizers": [optimizer.state_dict() for optimizer in s.optimizers], "skipped": s.skipped,
                    "in_a_row": s.in_a_row, "names": s.names, "weights": s.weights, "coupled": s.coupled,
                    "window": s.window, "window_updates": s.window_updates,
                    "scale": s.scale.state_dict() if s.scale else None,
                } for s in self.steps
            },
        }  # fmt: skip

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` gave. Raises CheckpointError where the steps differ."""
        if set(state["steps"]) != {s.step.name for s in self.steps}:
            raise CheckpointError("the checkpoint's steps are not those of this objective")
        self.skipped = state["skipped"]
        self._no_items = {name: value.to(self.device) for name, value in state["items"].items()}
        if not self.phase <= state["phase"] <= len(self.plan.unfreeze):
            raise CheckpointError("the checkpoint was written with other weights frozen")
        while self.phase < state["phase"]:
            self._thaw()
        for s in self.steps:
            saved = state["steps"][s.step.name]
            s.arena.load_state_dict(saved["arena"])
            if s.tables is not None:
                s.tables.load_state_dict(saved["tables"])
            if len(saved["optimizers"]) != len(s.optimizers):
                raise CheckpointError("the checkpoint's optimisers are not those of the recipe")
            for optimizer, own in zip(s.optimizers, saved["optimizers"]):
                optimizer.load_state_dict(own)
            if s.scale is not None:
                s.scale.load_state_dict(saved["scale"])
            s.skipped, s.in_a_row, s.unsettled = saved["skipped"], saved["in_a_row"], None
            s.names, s.weights, s.coupled = list(saved["names"]), list(saved["weights"]), list(saved["coupled"])
            s.view_terms()
            s.window = saved["window"].to(self.device) if saved["window"] is not None else None
            s.window_updates = saved["window_updates"]


def default_optimizer(objective: Objective) -> OptimizerOptions:
    """What the objective states as its `default_optimizer` (kind and options), AdamW where it states none."""
    stated: Mapping[str, object] = getattr(objective, "default_optimizer", {"kind": "adamw"})
    options = REGISTRY.find("optimizer", str(stated["kind"])).options.model_validate(stated)
    assert isinstance(options, OptimizerOptions)
    return options


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all of them together."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
    return norm


def _refuse_shared(steps: Sequence[Step]) -> None:
    seen: dict[int, str] = {}
    for step in steps:
        for parameter in step.parameters:
            other = seen.setdefault(id(parameter), step.name)
            if other != step.name:
                raise ComponentError(
                    f"steps {other!r} and {step.name!r} share a parameter", remedy="Give each parameter to one step."
                )
