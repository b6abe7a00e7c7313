"""The kinds of fields a model takes and gives: what is allowed in each, and what happens to what is not."""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field as Describe
from pydantic import PositiveInt, model_validator

from reinforge.registry import Options

Role = Literal["input", "target"]
TargetMissing = Literal["drop", "mask"]
Bound = float | tuple[float | None, ...] | None


class Number(Options):
    """A real number. Infinity is always an error; NaN counts as missing.

    Missing inputs are imputed (mean, median, constant) or refused; rows whose target is missing are dropped, or kept
    and masked. A number outside `low` to `high`, or a fraction where `integer` is set, is an error.
    """

    kind: Literal["number"] = "number"
    name: str = Describe(description="Column name.")
    role: Role = "input"
    low: float | None = Describe(None, description="Smallest allowed value; smaller ones are errors.")
    high: float | None = Describe(None, description="Largest allowed value; larger ones are errors.")
    integer: bool = Describe(False, description="Only whole numbers are allowed.")
    missing: Literal["mean", "median", "constant", "error", "drop", "mask"] = Describe(
        "mean",
        description="Inputs: impute the training rows' mean or median, or a constant, or refuse. "
        "Targets: drop the row, mask the target, or refuse.",
    )
    constant: float | None = Describe(None, description="What `missing: constant` imputes.")
    indicator: bool = Describe(False, description="Add an input that is 1 where the number was missing.")
    scale: Literal["standard", "range", "none"] = Describe(
        "standard",
        description="standard: (x - mean) / deviation with ddof 0; range: (x - minimum) / (maximum - minimum); none.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Number:
        _policy_fits_role(self.name, self.role, self.missing, ("mean", "median", "constant", "error"))
        if (self.missing == "constant") != (self.constant is not None):
            raise ValueError(f"{self.name!r}: `constant` goes with `missing: constant`, and only with it")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.name!r}: low {self.low} is above high {self.high}")
        if self.indicator and (self.role == "target" or self.missing == "error"):
            raise ValueError(f"{self.name!r}: `indicator` is for inputs that may be missing")
        return self


class Category(Options):
    """One of finitely many labels. `labels` are in the order of their codes; empty until fitted or declared.

    Codes of an input: the unknown slot first (where `unseen: unknown`), then the missing slot (where `missing: own`),
    then the labels, so that labels can be added later without moving the others. Codes of a target: the labels alone.
    """

    kind: Literal["category"] = "category"
    name: str = Describe(description="Column name.")
    role: Role = "input"
    labels: tuple[str, ...] = Describe(
        (), description="Labels in the order of their codes; found in the data if empty."
    )
    missing: Literal["own", "error", "drop", "mask"] = Describe(
        "own", description="Inputs: a slot of its own, or refuse. Targets: drop the row, mask the target, or refuse."
    )
    unseen: Literal["unknown", "error"] = Describe(
        "unknown", description="Labels that training did not see: the unknown slot, or refuse. Targets always refuse."
    )
    rare: PositiveInt = Describe(1, description="Inputs: labels seen in fewer training rows share the unknown slot.")

    @model_validator(mode="after")
    def _consistent(self) -> Category:
        _policy_fits_role(self.name, self.role, self.missing, ("own", "error"))
        if self.role == "target" and self.unseen != "error":
            raise ValueError(f"target {self.name!r}: `unseen` must be `error`")
        if self.rare > 1 and self.unseen != "unknown":
            raise ValueError(f"{self.name!r}: `rare` needs `unseen: unknown`")
        if len(set(self.labels)) != len(self.labels):
            repeated = sorted(label for label, count in Counter(self.labels).items() if count > 1)
            raise ValueError(f"{self.name!r}: labels are repeated: {', '.join(repeated[:5])}")
        return self

    @property
    def unknown_code(self) -> int | None:
        """The code of what was not seen, or None where that is refused."""
        return 0 if self.unseen == "unknown" else None

    @property
    def missing_code(self) -> int | None:
        """The code of a missing input, or None where it has no slot."""
        return (1 if self.unseen == "unknown" else 0) if self.missing == "own" else None

    @property
    def first_code(self) -> int:
        """The code of the first label."""
        return (self.unseen == "unknown") + (self.missing == "own")

    @property
    def size(self) -> int:
        """How many codes there are."""
        return self.first_code + len(self.labels)


class Text(Options):
    """Free text, read by a tokenizer; tables keep it in the schema but don't feed it to a model yet."""

    kind: Literal["text"] = "text"
    name: str
    role: Role = "input"


class Box(Options):
    """An array of numbers: an environment's observation, an image. `low` and `high` are None (unbounded), one number
    for all elements, or one (or None) per element, flattened."""

    kind: Literal["box"] = "box"
    name: str = "observation"
    role: Literal["input"] = "input"
    shape: tuple[int, ...]
    dtype: Literal["float32", "float64", "uint8", "int64", "bool"] = "float32"
    low: Bound = None
    high: Bound = None

    @model_validator(mode="after")
    def _consistent(self) -> Box:
        if any(side < 0 for side in self.shape):
            raise ValueError(f"{self.name!r}: shape {self.shape} has a negative side")
        for bound in (self.low, self.high):
            if isinstance(bound, tuple) and len(bound) != math.prod(self.shape):
                raise ValueError(f"{self.name!r}: {len(bound)} bounds for {math.prod(self.shape)} elements")
        return self


class Discrete(Options):
    """An action chosen among `n`, counted from `start`."""

    kind: Literal["discrete"] = "discrete"
    name: str = "action"
    role: Literal["target"] = "target"
    n: PositiveInt
    start: int = 0


class Continuous(Options):
    """An action of real numbers, each between its `low` and `high`; `dtype` is the environment's own."""

    kind: Literal["continuous"] = "continuous"
    name: str = "action"
    role: Literal["target"] = "target"
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: Literal["float32", "float64"] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> Continuous:
        if len(self.low) != len(self.high) or not all(low < high for low, high in zip(self.low, self.high)):
            raise ValueError(f"{self.name!r}: every action dimension needs low < high")
        return self


Field = Annotated[Number | Category | Text | Box | Discrete | Continuous, Describe(discriminator="kind")]


def _policy_fits_role(name: str, role: Role, missing: str, for_inputs: tuple[str, ...]) -> None:
    allowed = for_inputs if role == "input" else ("drop", "mask", "error")
    if missing not in allowed:
        raise ValueError(f"{role} {name!r}: `missing` must be one of {', '.join(allowed)}, not {missing!r}")
