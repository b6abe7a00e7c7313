"""The recipe: what to do, as typed data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from reinforge.recipe.component import OneOf
from reinforge.recipe.sections import Checkpoint, Evaluate, Learn, Log, Start
from reinforge.registry import Options

# A name becomes that of a folder.
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]


class Recipe(Options):
    """What to do: data, model, objective, and how to learn. Written as YAML or built in Python.

    `load` reads one and tells every error with its place. `stages`, where there are any, are whole recipes already,
    each this one with the stage's own part laid over it.
    """

    name: Name = Field("run", description="Names the run's folder; by default the recipe's file name.")
    seed: NonNegativeInt = Field(0, description="All randomness of a run follows from it.")
    seeds: PositiveInt | None = Field(
        None, description="Train so many seeds, from `seed` on, each a run of its own, and report them together."
    )
    use: tuple[str, ...] = Field(
        (), description="Files of your own components, recorded here. A recipe never loads them: give --use FILE.py."
    )
    data: Annotated[Options, OneOf("data")] = Field(description="What to learn from: a table, a text, an environment.")
    model: Annotated[Options, OneOf("model")] = Field(
        description="The network; where it is left out, `composed` for a table, `decoder` for a text."
    )
    objective: Annotated[Options, OneOf("objective")] = Field(
        description="What is optimised; where it is left out, `supervised` for a table, `language` for a text."
    )
    source: Annotated[Options, OneOf("source")] | None = Field(
        None, description="Where batches come from; by default what the objective needs."
    )
    start: Start = Field(Start(), description="What to begin with, where not with new weights.")
    learn: Learn = Field(Learn(), description="How weights are updated, and when to stop.")
    evaluate: Evaluate = Field(Evaluate(), description="When to evaluate, and which metric decides.")
    checkpoint: Checkpoint = Field(Checkpoint(), description="When to save, and how much to keep.")
    log: Log = Field(Log(), description="What is logged.")
    stages: tuple[Recipe, ...] = Field(
        (), description="Parts of a recipe, each laid over this one and begun from the bundle of the one before."
    )


# What only the whole recipe has; a stage takes the rest.
WHOLE_ONLY = ("use", "seeds", "stages")
REQUIRED = tuple(name for name, field in Recipe.model_fields.items() if field.is_required())
