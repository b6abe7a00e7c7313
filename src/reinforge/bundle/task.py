"""task.json: how outputs are read, and how exactly they must be reproduced."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from reinforge.registry import Options


class Tolerance(Options):
    """|found - stated| <= absolute + relative * |stated|."""

    relative: NonNegativeFloat
    absolute: NonNegativeFloat


Probability = Annotated[float, Field(gt=0, lt=1)]


class Reading(Options):
    """How the logits of a category, or of labels that may hold at once, become a decision. Set on validation data.

    Logits are divided by `temperature`. Of two classes the second is chosen where its probability reaches `threshold`;
    else the most probable one. Of labels each holds where its probability reaches its own of the `thresholds`, or 0.5.
    """

    temperature: PositiveFloat = 1.0
    threshold: Probability | None = None
    thresholds: tuple[Probability, ...] | None = None


# Other processors and thread counts sum in another order: these bounds are far above that, and far below a real change.
TOLERANCE = {
    "float64": Tolerance(relative=1e-9, absolute=1e-10),
    "float32": Tolerance(relative=1e-4, absolute=1e-5),
    "float16": Tolerance(relative=1e-2, absolute=1e-2),
    "bfloat16": Tolerance(relative=5e-2, absolute=5e-2),
}


class Continuation(Options):
    """How a language model goes on: by default the likeliest token each time (`temperature` 0)."""

    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 128
    temperature: NonNegativeFloat = 0.0
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: tuple[NonNegativeInt, ...] = ()
    seed: NonNegativeInt = 0


class Task(Options):
    """Readings by output, tolerance by the weights' dtype, and how text goes on."""

    version: Literal[1] = 1
    outputs: dict[str, Reading] = Field({}, description="How categories and labels are decided.")
    tolerance: dict[str, Tolerance] = Field(TOLERANCE, description="By the dtype of the weights.")
    text: Continuation | None = Field(None, description="How a language model goes on.")
