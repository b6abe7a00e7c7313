"""The sections of a recipe that every training shares. Component options live with their components."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from reinforge.recipe.component import OneOf
from reinforge.registry import Options

Unit = Literal["updates", "samples", "tokens", "steps", "epochs"]


class Goal(Options):
    """Stop as soon as an evaluation's metric is good enough."""

    metric: str = Field(description="The metric's name, as the evaluation logs it.")
    at_least: float | None = Field(None, description="Good enough from here upwards.")
    at_most: float | None = Field(None, description="Good enough from here downwards.")


class Patience(Options):
    """Stop when the monitored metric has not improved by `delta` for `evaluations` evaluations."""

    evaluations: PositiveInt = Field(5, description="Evaluations in a row without improvement.")
    delta: NonNegativeFloat = Field(0.0, description="What counts as improvement.")


class Stop(Options):
    """When to stop: whichever comes first."""

    updates: PositiveInt | None = Field(None, description="After so many updates.")
    epochs: PositiveFloat | None = Field(None, description="After so many passes over the data.")
    samples: PositiveInt | None = Field(None, description="After so many samples.")
    tokens: PositiveInt | None = Field(None, description="After so many tokens.")
    steps: PositiveInt | None = Field(None, description="After so many environment steps.")
    seconds: PositiveFloat | None = Field(None, description="After so much training time; lies outside exactness.")
    loss_below: float | None = Field(None, description="Once the training loss is below this.")
    goal: Goal | None = Field(None, description="Once an evaluation's metric is good enough.")
    patience: Patience | None = Field(None, description="Once the monitored metric no longer improves.")


class StepOverride(Options):
    """Other settings for one named step of a multi-step objective (critic, actor, ...)."""

    lr: PositiveFloat | None = Field(None, description="The step's own learning rate.")


class Learn(Options):
    """How the engine updates weights."""

    batch: PositiveInt = Field(32, description="Items per update, over all ranks.")
    microbatch: PositiveInt | None = Field(
        None, description="Items that go through the model at once; gradients add up to the same update."
    )
    lr: PositiveFloat = Field(1e-3, description="Learning rate, before the schedule.")
    optimizer: Annotated[Options, OneOf("optimizer")] | None = Field(
        None, description="By default the objective's own, adamw where it states none."
    )
    sparse: Annotated[Options, OneOf("sparse-optimizer")] | None = Field(
        None, description="For tables whose gradients are sparse, beside the optimizer; by default adam."
    )
    schedule: Annotated[Options, OneOf("schedule")] | None = Field(
        None, description="The learning rate's course; by default constant."
    )
    rates: dict[str, PositiveFloat] = Field(
        {}, description="Multiples of the learning rate by pattern of the model's weights; the first match counts."
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Multiplies the learning rate once for each layer between a weight and the output."
    )
    average: Annotated[Options, OneOf("average")] | None = Field(
        None, description="Average the weights over time; then the averages are evaluated and shipped."
    )
    clip: PositiveFloat | None = Field(
        None, description="Largest norm of a step's gradient; longer ones are shortened."
    )
    clip_value: PositiveFloat | None = Field(
        None, description="Largest absolute value in a gradient; instead of `clip`."
    )
    l1: NonNegativeFloat = Field(0.0, description="Weight of the sum of absolute weights, added to the loss.")
    l2: NonNegativeFloat = Field(0.0, description="Weight of the sum of squared weights, added to the loss.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Precision of the forward and backward pass; bf16 and fp16 keep fp32 masters of the weights. fp16 "
        "scales the loss, for GPUs without bf16.",
    )
    products: Literal["exact", "rounded"] = Field(
        "exact",
        description="Of fp32 matrices: `rounded` lets units that are quicker round what they multiply, to TF32 on GPUs "
        "and to bf16 on CPUs with AMX, or with AVX-512 BF16 where layers are computed in C. Sums, weights and all that "
        "is saved stay fp32.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Compile the update; `auto` weighs the time it takes against the run's length."
    )
    device: str = Field("auto", description="`cpu`, `cuda`, ...; `auto` takes an accelerator where there is one.")
    threads: PositiveInt | None = Field(None, description="Threads of one process; by default torch's choice.")
    max_nonfinite: PositiveInt = Field(
        5, description="Non-finite updates in a row after which the run ends in an error."
    )
    steps: dict[str, StepOverride] = Field({}, description="Settings of single steps, by the step's name.")
    stop: Stop = Field(Stop(epochs=10), description="When to stop: whichever comes first.")

    @model_validator(mode="after")
    def one_way_to_clip(self) -> Learn:
        """Both at once would leave open which comes first."""
        if self.clip is not None and self.clip_value is not None:
            raise ValueError("give clip or clip_value, not both")
        return self


class Evaluate(Options):
    """When to evaluate, and which metric decides."""

    every: PositiveFloat | None = Field(None, description="How often, counted in `unit`; by default at the end only.")
    unit: Unit = Field("epochs", description="What `every` counts.")
    monitor: str | None = Field(None, description="The metric that decides which weights are best, and patience.")
    mode: Literal["min", "max"] = Field("min", description="Whether a smaller or a larger metric is better.")
    episodes: PositiveInt = Field(20, description="Episodes of one evaluation in an environment.")
    final: PositiveInt = Field(100, description="Fresh episodes in an environment after training, which are reported.")
    seed: NonNegativeInt = Field(10_000, description="Seed of the evaluation's own environments.")
    clip: bool = Field(
        True, description="Record a few seconds of the final policy for the report, where its environment draws itself."
    )
    metrics: tuple[Annotated[Options, OneOf("metric")], ...] = Field(
        (), description="Metrics beside those that are always measured, of whichever outputs they fit."
    )
    replicates: NonNegativeInt = Field(
        1000, description="Replicates of the bootstrap that gives each final metric its interval; 0 leaves them out."
    )
    calibrate: bool = Field(
        True, description="Divide logits by the temperature with the least log loss on validation rows, after training."
    )
    threshold: Literal["f1", "balanced-accuracy", "accuracy", "none"] = Field(
        "f1",
        description="What the threshold of two classes, or of each label, is set for on validation rows: the mean F1 "
        "of both classes or a label's own, ...; none leaves it at one half.",
    )
    baselines: bool = Field(
        True, description="Compare with quick models of scikit-learn (extra `data`) on the same rows, after training."
    )


class Unfreeze(Options):
    """Frozen weights that learn from some time on."""

    patterns: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="Patterns of frozen weights.")
    after: PositiveFloat = Field(description="How long they stay frozen, in `unit`.")
    unit: Unit = Field("epochs", description="What `after` counts.")


class Start(Options):
    """Where to begin: a bundle's weights, schema and pipeline instead of new ones; and which stay as they are."""

    bundle: str | None = Field(
        None, description="Folder of the bundle to begin with (--from), or of a language model of transformers."
    )
    extend: bool = Field(
        False,
        description="Add what the data have and the bundle lacks: new labels of its fields, and the recipe's new "
        "targets. What it knows keeps its place, its statistics and its weights.",
    )
    take: dict[str, str] = Field(
        {},
        description="Parts of the bundle's model alone, by the name of a module here that of one there: a policy sees "
        "with an encoder that learned from labels. Schema and pipeline are then this recipe's own.",
    )
    renew: tuple[str, ...] = Field(
        (), description="Patterns of weights that begin anew, because the bundle lacks them or has another shape."
    )
    adapter: Annotated[Options, OneOf("adapter")] | None = Field(
        None, description="Learn adapters of linear layers alone; the bundle holds the weights they were added to."
    )
    freeze: tuple[str, ...] = Field((), description="Patterns of the model's weights that do not learn.")
    unfreeze: tuple[Unfreeze, ...] = Field((), description="Frozen weights that learn later, one after another.")

    @model_validator(mode="after")
    def _one_way(self) -> Start:
        if self.take and (self.renew or self.extend):
            raise ValueError("`take` goes with neither `renew` nor `extend`")
        return self


class Checkpoint(Options):
    """Checkpoints: every so many seconds or updates, and at the end."""

    seconds: PositiveFloat | None = Field(60.0, description="Save every so many seconds.")
    updates: PositiveInt | None = Field(None, description="Save every so many updates.")
    keep: Annotated[int, Field(ge=1)] = Field(2, description="How many of the newest stay.")


class Log(Options):
    """What is logged, and how often; always as JSON Lines."""

    updates: PositiveInt = Field(50, description="A line each so many updates.")
    csv: bool = Field(False, description="Also as CSV.")
    tensorboard: bool = Field(False, description="Also as TensorBoard files.")
