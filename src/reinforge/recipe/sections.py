"""The sections of a recipe that every training shares. Component options live with their components."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from reinforge.registry import Options

Unit = Literal["updates", "samples", "tokens", "steps", "epochs"]


class Goal(Options):
    """Stop as soon as an evaluation's metric is good enough."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None


class Patience(Options):
    """Stop when the monitored metric has not improved by `delta` for `evaluations` evaluations."""

    evaluations: PositiveInt = 5
    delta: NonNegativeFloat = 0.0


class Stop(Options):
    """When to stop: whichever comes first. `steps` are environment steps; `seconds` lies outside exactness."""

    updates: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    samples: PositiveInt | None = None
    tokens: PositiveInt | None = None
    steps: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    loss_below: float | None = None
    goal: Goal | None = None
    patience: Patience | None = None


class StepOverride(Options):
    """Other settings for one named step of a multi-step objective (critic, actor, ...)."""

    lr: PositiveFloat | None = None


class Learn(Options):
    """How the engine updates weights. `batch` is items per update over all ranks; `microbatch` splits it."""

    batch: PositiveInt = 32
    microbatch: PositiveInt | None = None
    lr: PositiveFloat = 1e-3
    optimizer: Options | None = None
    schedule: Options | None = None
    clip: PositiveFloat | None = None
    l1: NonNegativeFloat = 0.0
    l2: NonNegativeFloat = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    threads: PositiveInt | None = None
    max_nonfinite: PositiveInt = 5
    steps: dict[str, StepOverride] = {}
    stop: Stop = Stop(epochs=10)


class Evaluate(Options):
    """When to evaluate, and which metric decides. `every` counts `unit`; None evaluates at the end only."""

    every: PositiveFloat | None = None
    unit: Unit = "epochs"
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"
    episodes: PositiveInt = 20
    seed: NonNegativeInt = 10_000


class Checkpoint(Options):
    """Checkpoints: every so many seconds or updates; the newest `keep` stay."""

    seconds: PositiveFloat | None = 60.0
    updates: PositiveInt | None = None
    keep: Annotated[int, Field(ge=1)] = 2


class Log(Options):
    """What is logged: a line each `updates` updates, as JSON Lines and, where named, CSV and TensorBoard."""

    updates: PositiveInt = 50
    csv: bool = False
    tensorboard: bool = False
