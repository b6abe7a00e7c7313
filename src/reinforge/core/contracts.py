"""The narrow interfaces between rooms: what a source, an objective, a model and an evaluator must offer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch

# State: a tree of dictionaries and lists whose leaves are tensors, numpy arrays, `Sealed`, or JSON scalars.
# Everything that survives a restart is said in it; `core.tree` writes it as safetensors and JSON.
State = dict[str, Any]


@dataclass
class Clock:
    """How far a run is. `steps` are environment steps; `seconds` (training time) lies outside exactness."""

    updates: int = 0
    samples: int = 0
    tokens: int = 0
    steps: int = 0
    experiences: int = 0
    epochs: float = 0.0
    seconds: float = 0.0

    def copy(self) -> Clock:
        """The same, apart from it (`dataclasses.replace` at a tenth of the cost)."""
        return Clock(**self.__dict__)


class Signal(Enum):
    """What a source answers when it has no experience."""

    WAIT = "wait"  # an idle stream: ask again later
    END = "end"  # exhausted


WAIT, END = Signal.WAIT, Signal.END


@dataclass(frozen=True)
class Experience:
    """What a source hands over at once: a loader's batch, a rollout, sampled transitions, completions.

    `batch` has one row per item of training. The counters say by how much the clock advances when the engine takes it;
    `epochs` is the position in epochs after it, where that means something. `extra` holds what is not per row
    (a bootstrap value, say) and is kept in checkpoints with the batch.
    """

    batch: Batch
    samples: int = 0
    tokens: int = 0
    steps: int = 0
    epochs: float | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Term(NamedTuple):
    """One named term of a loss: the raw sum over the microbatch's valid items, divided by the engine once per
    update by the count of that name over all microbatches and ranks.

    `weight` scales the mean; 0 only measures. `coupled` marks what is no sum over items (batch statistics,
    contrastive): its `sum` is the term itself, and the engine refuses to split such an update.
    """

    sum: Tensor
    weight: float = 1.0
    coupled: bool = False


class Loss(NamedTuple):
    """What one microbatch gives: terms by name, and detached values per row (TD errors, say) for feedback.

    `carry`, detached and per row too, joins the microbatch for the later steps of the same update.
    """

    terms: dict[str, Term]
    items: Mapping[str, Tensor] = MappingProxyType({})
    carry: Mapping[str, Tensor] = MappingProxyType({})


class Number(NamedTuple):
    """A `Term` whose sum is taken by hand."""

    sum: float
    weight: float = 1.0
    coupled: bool = False


class Numbers(NamedTuple):
    """A `Loss` that is taken by hand."""

    terms: dict[str, Number]
    items: Mapping[str, Tensor] = MappingProxyType({})
    carry: Mapping[str, Tensor] = MappingProxyType({})


# learner, microbatch, counts (as returned by Objective.counts, summed over microbatches and ranks)
LossFunction = Callable[[nn.Module, Batch, Mapping[str, Tensor]], Loss]
# From what each weighted term's sum is scaled by, by name, adds the gradients to the .grad of the parameters.
Pull = Callable[[Mapping[str, float]], None]
# The same as a LossFunction, not recorded, and its gradients.
ByHand = Callable[[nn.Module, Batch, Mapping[str, Tensor]], tuple[Numbers, Pull]]


@dataclass(frozen=True)
class Step:
    """One optimiser step of an update: gradients of `loss` for `parameters` alone, taken every `every` updates.

    Steps of one objective own disjoint parameters and run in order, each seeing the weights the one before left.
    `by_hand` gives the same loss, without recording it, and its gradients by hand, for networks whose arithmetic costs
    less than autograd around it; the engine takes it on a CPU, where it does not compile and scales no loss.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: LossFunction
    every: int = 1
    by_hand: ByHand | None = None


@dataclass(frozen=True)
class Outcome:
    """What an update did. `means`: each term's mean, by "step/term", 0-d tensors, over all ranks. `items`: per row
    of the whole update, in its order. `skipped`: a gradient was not finite and nothing was changed."""

    means: Mapping[str, Tensor]
    items: Mapping[str, Tensor]
    skipped: bool = False


class Source(Protocol):
    """Where experience comes from; owns its inner loop.

    `sharded` False: every rank gets the same experience, and the engine gives each its part of every update.
    True: `next` already returns this rank's part alone. `exact` False: it can't be resumed bit for bit.
    """

    sharded: bool
    exact: bool

    def next(self, clock: Clock) -> Experience | Signal:
        """The next experience, or WAIT or END."""
        ...

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """Called once before the first `next` and after each experience is used up: acting sources take the
        newest weights. Sources that don't act ignore it."""
        ...

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Per-item outcomes of one update, applied with a fixed lag of one update."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


@runtime_checkable
class Measuring(Protocol):
    """A source that has something to say in a line of the log: returns of the latest episodes, say."""

    def measures(self) -> Mapping[str, float]:
        """By name; called only when a line is due, and without a trace in what comes next."""
        ...


class Objective(Protocol):
    """What is optimised. Objectives hold options, never tensors that learn: those are the learner's.

    One may state a `default_optimizer` (kind and options), for recipes that name none; without it that is adamw.
    """

    def build(self, model: nn.Module) -> nn.Module:
        """The learner: a module with the deployed model as `.model`, and what learning needs beside it (targets,
        critics, temperature, a frozen reference, adaptive coefficients as buffers)."""
        ...

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Once per experience, under no_grad: returns, advantages, reference log-probs."""
        ...

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """Minibatches of the experience, each one update over all ranks; the value of `yield` is its outcome, so it may
        stop early. All randomness of the loss (noise, latents) is drawn here from `generator` and put into the
        batch, so that splitting never changes it. Must be a function of (experience, generator state, outcomes)
        alone: resuming replays it up to the cursor."""
        ...

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        """The steps of one update, in order."""
        ...

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """By what each term is divided: valid items per term name, and any other sums that a coupled quantity needs (a
        minibatch's advantage sum and sum of squares). From data alone; additive over rows, since the engine
        sums it over microbatches and ranks before any backward. 0-d tensors."""
        ...

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Target networks, averages, adaptive coefficients."""
        ...


@runtime_checkable
class Model(Protocol):
    """A network: inputs by name to outputs by head. `state` is its one kind of memory: recurrent, cache, frames."""

    def __call__(self, inputs: Batch, state: Batch | None = None) -> tuple[dict[str, Tensor], Batch | None]: ...

    def initial_state(self, n: int) -> Batch | None:
        """State at the start of n sequences; None for a model without memory."""
        ...


class Evaluator(Protocol):
    """Measures the learner's model with its own sources and generators; never disturbs training."""

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]: ...
