"""task.json: how outputs are read, and how exactly they must be reproduced."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, NonNegativeFloat, PositiveFloat

from reinforge.registry import Options


class Tolerance(Options):
    """|found - stated| <= absolute + relative * |stated|."""

    relative: NonNegativeFloat
    absolute: NonNegativeFloat


class Reading(Options):
    """How one categorical output becomes a label.

    Logits are divided by `temperature`. With `threshold` (two classes only) the second label is chosen where its
    probability reaches it; else the most probable label.
    """

    temperature: PositiveFloat = 1.0
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None


# Other processors and thread counts sum in another order: these bounds are far above that, and far below a real change.
TOLERANCE = {
    "float64": Tolerance(relative=1e-9, absolute=1e-10),
    "float32": Tolerance(relative=1e-4, absolute=1e-5),
    "float16": Tolerance(relative=1e-2, absolute=1e-2),
    "bfloat16": Tolerance(relative=5e-2, absolute=5e-2),
}


class Task(Options):
    """Readings by output, tolerance by the weights' dtype, and what a text model needs (chat template, limits)."""

    version: Literal[1] = 1
    outputs: dict[str, Reading] = Field({}, description="How each categorical output becomes a label.")
    tolerance: dict[str, Tolerance] = Field(TOLERANCE, description="By the dtype of the weights.")
    text: dict[str, JsonValue] = Field({}, description="Chat template and limits of a text model.")
