"""Options of rewards for completions, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register


@register("reward", "reinforge.data.rewards:exact")
class ExactOptions(Options):
    """1 where the completion is the answer, 0 elsewhere; spaces around it don't count."""

    kind: Literal["exact"] = "exact"
    lower: bool = Field(False, description="Whether capitals don't count either.")


@register("reward", "reinforge.data.rewards:numeric")
class NumericOptions(Options):
    """1 where the last number in the completion is the answer, 0 elsewhere."""

    kind: Literal["numeric"] = "numeric"
    tolerance: NonNegativeFloat = Field(0.0, description="How far it may lie from the answer, as part of the answer.")


@register("reward", "reinforge.data.rewards:regex")
class RegexOptions(Options):
    """1 where the pattern is found in the completion; with a group, where what it caught is the answer."""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(r"answer: *(\S+)", description="A regular expression, as Python's `re` reads it.")


@register("reward", "reinforge.data.rewards:Code")
class CodeOptions(Options):
    """1 where the completion, a Python program, followed by the answer, its tests, ends without an error.

    It runs what a model wrote, in a process of its own with limits. Limits are no security boundary: run it where
    nothing is that you would miss."""

    kind: Literal["code"] = "code"
    allow: bool = Field(False, description="Must be true: programs that a model wrote will run on this machine.")
    seconds: PositiveFloat = Field(5.0, description="Processor time of one program, at most, and twice that in all.")
    megabytes: PositiveInt = Field(512, description="Memory of one program, at most.")


@register("reward", "reinforge.bundle.reward:ModelReward")
class ModelOptions(Options):
    """The score that a reward model gives prompt and completion: of a bundle that was trained on preferences."""

    kind: Literal["model"] = "model"
    bundle: str = Field("", description="The reward model: a bundle, or a run.")
    scale: PositiveFloat = Field(1.0, description="Factor of what lies above the shift.")
    shift: float = Field(0.0, description="What is taken from a score first.")
    device: str = Field("auto", description="Where it is computed: auto, cpu, cuda, ...")


@register("reward", "reinforge.data.rewards:Weighted")
class WeightedOptions(Options):
    """A sum of others, each with its weight."""

    kind: Literal["weighted"] = "weighted"
    of: tuple[Annotated[Options, OneOf("reward")], ...] = Field(
        (NumericOptions(),), min_length=1, description="The rewards."
    )
    weights: tuple[float, ...] = Field((1.0,), description="Their weights, as many.")
