"""The kinds of fields a model takes and gives: what is allowed in each, and what happens to what is not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic import Field as Describe

from reinforge.registry import Options
from reinforge.schema import date_format

Role = Literal["input", "target"]
Spelling = Literal["exact", "loose"]
Scaling = Literal["standard", "range", "robust", "none"]
DatePart = Literal["elapsed", "year", "month", "day", "weekday", "yearday", "hour", "minute", "second"]
# What may happen to a row whose target is missing.
TARGET_POLICIES = ("drop", "mask", "error")
Bound = float | tuple[float | None, ...] | None


class Number(Options):
    """A real number. Infinity is always an error; NaN counts as missing.

    Missing inputs are imputed (mean, median, constant) or refused; rows whose target is missing are dropped, or kept
    and masked. A number outside `low` to `high`, or a fraction where `integer` is set, is an error. What is fitted
    comes in this order: outliers, imputing, transform, scale. A target that is a `count` is neither transformed nor
    scaled.
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
    scale: Scaling = Describe(
        "standard",
        description="standard: (x - mean) / deviation with ddof 0; range: (x - minimum) / (maximum - minimum); "
        "robust: (x - median) / interquartile range; none.",
    )
    transform: Literal["none", "log"] = Describe(
        "none", description="log: sign(x) log(1 + |x|), before scaling; for numbers over several orders of magnitude."
    )
    outliers: Literal["keep", "clip", "missing"] = Describe(
        "keep", description="Inputs beyond the fence of the training rows: keep, set to the fence, or count as missing."
    )
    fence: Literal["interquartile", "quantile"] = Describe(
        "interquartile", description="Where outliers begin: `reach` interquartile ranges beyond the quartiles, or "
        "the `tail` quantiles.",
    )  # fmt: skip
    reach: PositiveFloat = Describe(3.0, description="Interquartile ranges from the quartiles to the fence.")
    tail: float = Describe(0.005, gt=0, lt=0.5, description="Part of the training rows beyond each quantile fence.")
    count: bool = Describe(False, description="Targets: how often something happened, 0, 1, 2, ...")

    @model_validator(mode="after")
    def _consistent(self) -> Number:
        _policy_fits_role(self.name, self.role, self.missing, ("mean", "median", "constant", "error"))
        if (self.missing == "constant") != (self.constant is not None):
            raise ValueError(f"{self.name!r}: `constant` goes with `missing: constant`, and only with it")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.name!r}: low {self.low} is above high {self.high}")
        if self.indicator and (self.role == "target" or self.missing == "error"):
            raise ValueError(f"{self.name!r}: `indicator` is for inputs that may be missing")
        if self.outliers != "keep" and self.role == "target":
            raise ValueError(
                f"target {self.name!r}: `outliers` is for inputs; a target that is changed can't be judged"
            )
        if self.outliers == "missing" and self.missing == "error":
            raise ValueError(f"{self.name!r}: `outliers: missing` needs a way to fill what is missing")
        if self.count and self.role == "input":
            raise ValueError(f"input {self.name!r}: `count` is for targets")
        return self

    @property
    def least(self) -> float | None:
        """The smallest allowed value: 0 for a count, unless `low` is above that."""
        return max(self.low or 0.0, 0.0) if self.count else self.low


class Date(Options):
    """A date or a time, which becomes numbers. Years count; months, days and times of day are sines and cosines of
    their place in the cycle, so that December is next to January; `elapsed` is days since 1970, with fractions.

    Reads ISO 8601 texts (2026-11-23, 2026-11-23T20:00:00+01:00), dates and times, and numbers counted from 1970 in
    `unit`; with a `format`, whole numbers such as 20261123 are read by it instead. Times with a zone are turned into
    UTC; those without are taken as they stand.
    """

    kind: Literal["date"] = "date"
    name: str = Describe(description="Column name.")
    role: Literal["input"] = "input"
    parts: tuple[DatePart, ...] = Describe(
        ("elapsed", "month", "weekday"), min_length=1, description="The numbers that it becomes."
    )
    unit: Literal["d", "s", "ms", "us"] = Describe("s", description="Numbers count days, seconds, ... since 1970.")
    format: Annotated[str | None, AfterValidator(date_format.checked)] = Describe(
        None, max_length=60, description="How dates are written, such as %d.%m.%Y; ISO 8601 is always read as well."
    )
    missing: Literal["mean", "median", "error"] = Describe(
        "mean", description="Impute the training rows' mean or median of each of its numbers, or refuse."
    )
    indicator: bool = Describe(False, description="Add an input that is 1 where the date was missing.")
    scale: Scaling = Describe("standard", description="How year and elapsed time are scaled, as for numbers.")

    @model_validator(mode="after")
    def _consistent(self) -> Date:
        if len(set(self.parts)) != len(self.parts):
            raise ValueError(f"{self.name!r}: parts are repeated")
        if self.indicator and self.missing == "error":
            raise ValueError(f"{self.name!r}: `indicator` is for dates that may be missing")
        return self

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers it becomes, in order: one for `year` and `elapsed`, sine and cosine for the others."""
        found: list[Number] = []
        for part in self.parts:
            names = (f"{self.name} {part}",) if part in ("year", "elapsed") else (
                f"{self.name} {part} sine", f"{self.name} {part} cosine",
            )  # fmt: skip
            for name in names:
                indicator = self.indicator and not found
                scale: Scaling = self.scale if len(names) == 1 else "none"
                found.append(Number(name=name, missing=self.missing, indicator=indicator, scale=scale))
        return tuple(found)


class Category(Options):
    """One of finitely many labels. `labels` are in the order of their codes; empty until fitted or declared.

    Codes of an input: the unknown slot first (where `unseen: unknown`), then the missing slot (where `missing: own`),
    then the labels, so that labels can be added later without moving the others. Codes of a target: the labels alone.
    With `coding: hash` there are no labels, but `buckets`, which labels share by a hash of their text; none is unseen.
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
    ordered: bool = Describe(
        False, description="Targets: the labels stand in order, from least to most. Numbers do; declare others."
    )
    spelling: Spelling = Describe(
        "exact", description="loose: labels that differ only in case, width or white space are one label."
    )
    coding: Literal["index", "hash"] = Describe(
        "index", description="Inputs: a code per label, or buckets that labels share by their hash, for very many."
    )
    buckets: PositiveInt = Describe(1024, description="How many buckets `coding: hash` has.")

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
        if self.ordered and self.role == "input":
            raise ValueError(f"input {self.name!r}: `ordered` is for targets")
        if self.hashed and (self.role == "target" or self.labels or self.rare > 1):
            raise ValueError(f"{self.name!r}: `coding: hash` is for inputs, without `labels` or `rare`")
        return self

    @property
    def hashed(self) -> bool:
        """Whether labels share buckets."""
        return self.coding == "hash"

    @property
    def unknown_code(self) -> int | None:
        """The code of what was not seen, or None where that is refused."""
        return 0 if self.unseen == "unknown" and not self.hashed else None

    @property
    def missing_code(self) -> int | None:
        """The code of a missing input, or None where it has no slot."""
        return (0 if self.unknown_code is None else 1) if self.missing == "own" else None

    @property
    def first_code(self) -> int:
        """The code of the first label, or bucket."""
        return (self.unknown_code is not None) + (self.missing == "own")

    @property
    def size(self) -> int:
        """How many codes there are."""
        return self.first_code + (self.buckets if self.hashed else len(self.labels))


class Labels(Options):
    """A set of labels, any number of which may hold at once: a list, a JSON list, a text with a separator; or several
    columns of 0 and 1, each a label by its own name. `labels` are empty until fitted or declared."""

    kind: Literal["labels"] = "labels"
    name: str = Describe(description="Column name, or a name for the `columns`.")
    role: Role = "input"
    labels: tuple[str, ...] = Describe((), description="Labels in the order of their places; found if empty.")
    columns: tuple[str, ...] = Describe((), description="Columns of 0 and 1 that are the labels.")
    separator: str = Describe(",", min_length=1, description="What stands between labels in a text.")
    missing: Literal["empty", "error", "drop", "mask"] = Describe(
        "empty",
        description="No label, or refuse. Targets also: drop the row (their default), or mask the target.",
    )
    unseen: Literal["ignore", "error"] = Describe(
        "ignore", description="Labels that training did not see: leave out, or refuse. Targets always refuse."
    )
    rare: PositiveInt = Describe(1, description="Inputs: labels seen in fewer training rows are left out.")
    spelling: Spelling = Describe("exact", description="loose: as for categories.")

    @model_validator(mode="after")
    def _consistent(self) -> Labels:
        _policy_fits_role(self.name, self.role, self.missing, ("empty", "error"), ("empty", "drop", "mask", "error"))
        if self.role == "target" and self.unseen != "error":
            raise ValueError(f"target {self.name!r}: `unseen` must be `error`")
        if self.columns and self.labels not in ((), self.columns):
            raise ValueError(f"{self.name!r}: its labels are its columns, so leave `labels` out")
        if len(set(self.labels)) != len(self.labels) or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"{self.name!r}: labels are repeated")
        return self


class Text(Options):
    """Free text, read by a tokenizer of `vocabulary` tokens (0 until fitted)."""

    kind: Literal["text"] = "text"
    name: str = Describe(description="Column name.")
    role: Literal["input"] = "input"
    column: str | None = Describe(None, description="The column that it reads, where that has another name.")
    length: PositiveInt | None = Describe(None, description="Tokens that are read at most; the rest is cut off.")
    missing: Literal["empty", "error"] = Describe("empty", description="An empty text, or refuse.")
    vocabulary: NonNegativeInt = Describe(0, description="How many tokens there are; found by the tokenizer.")


class Image(Options):
    """A picture: a file, or its bytes (in JSON as base64). `size` is height and width."""

    kind: Literal["image"] = "image"
    name: str = Describe(description="Column name.")
    role: Literal["input"] = "input"
    size: tuple[PositiveInt, PositiveInt] = Describe((64, 64), description="Height and width in pixels.")
    channels: Literal[1, 3] = Describe(3, description="1: grey; 3: red, green, blue.")
    resize: Literal["stretch", "crop", "pad"] = Describe(
        "stretch", description="How another shape is fitted in: stretch, cut off what is too long, or fill up."
    )
    missing: Literal["error", "blank"] = Describe("error", description="Refuse, or a black picture.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, *self.size)


class Vector(Options):
    """Several columns of numbers as one target."""

    kind: Literal["vector"] = "vector"
    name: str = Describe(description="A name for the columns together.")
    role: Literal["target"] = "target"
    columns: tuple[str, ...] = Describe(min_length=1, description="Its columns, in order.")
    missing: Literal["drop", "mask", "error"] = Describe(
        "drop", description="Where any of its numbers is missing: drop the row, mask the target, or refuse."
    )
    scale: Scaling = Describe("standard", description="How each column is scaled, as for numbers.")
    transform: Literal["none", "log"] = Describe("none", description="As for numbers.")

    @model_validator(mode="after")
    def _consistent(self) -> Vector:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"{self.name!r}: columns are repeated")
        return self

    @property
    def numbers(self) -> tuple[Number, ...]:
        """Its columns as numeric targets."""
        return tuple(
            Number(name=n, role="target", missing=self.missing, scale=self.scale, transform=self.transform)
            for n in self.columns
        )


class Span(Options):
    """A part of a text that is an input: where it begins and ends in characters, the end exclusive, as
    `text[start:end]`. One column holds the answer's own text (its first occurrence counts), or [start, end]; or two
    `columns` hold start and end."""

    kind: Literal["span"] = "span"
    name: str = Describe(description="Column name, or a name for the `columns`.")
    role: Literal["target"] = "target"
    of: str = Describe(description="The text field that it is a part of.")
    columns: tuple[str, str] | tuple[()] = Describe((), description="Columns of start and end, in characters.")
    missing: Literal["drop", "mask", "error"] = Describe(
        "drop", description="Where there is none, or it lies beyond the text's `length`: drop the row, mask, or refuse."
    )


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


class MultiDiscrete(Options):
    """Several choices at once: the i-th among `sizes[i]`, counted from `starts[i]`, from 0 where it is empty."""

    kind: Literal["multi-discrete"] = "multi-discrete"
    name: str = "action"
    role: Literal["target"] = "target"
    sizes: tuple[PositiveInt, ...]
    starts: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> MultiDiscrete:
        if not self.sizes or (self.starts and len(self.starts) != len(self.sizes)):
            raise ValueError(f"{self.name!r}: {len(self.starts)} starts for {len(self.sizes)} choices")
        return self


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


Field = Annotated[
    Number | Date | Category | Labels | Text | Image | Vector | Span | Box | Discrete | MultiDiscrete | Continuous,
    Describe(discriminator="kind"),
]


def sources(field: Field) -> tuple[str, ...]:
    """The columns that a field reads: the one of its name, or those it names."""
    return getattr(field, "columns", ()) or (getattr(field, "column", None) or field.name,)


def readers_of(fields: Iterable[Field]) -> dict[str, list[Field]]:
    """The columns that these fields read, each with its fields."""
    found: dict[str, list[Field]] = {}
    for field in fields:
        for name in sources(field):
            found.setdefault(name, []).append(field)
    return found


def may_be_missing(field: Field) -> bool:
    """Whether its policy lets a value be missing."""
    return getattr(field, "missing", "error") != "error"


def columns_read(fields: Iterable[Field]) -> list[str]:
    """The columns that these fields read, each once."""
    return list(readers_of(fields))


def _policy_fits_role(
    name: str, role: Role, missing: str, for_inputs: tuple[str, ...], for_targets: tuple[str, ...] = TARGET_POLICIES
) -> None:
    allowed = for_inputs if role == "input" else for_targets
    if missing not in allowed:
        raise ValueError(f"{role} {name!r}: `missing` must be one of {', '.join(allowed)}, not {missing!r}")
