"""Operations on a block of numbers (n, k), each exact row by row: one row alone gives what it gives in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reinforge.data.values import Numbers
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _

if TYPE_CHECKING:
    from reinforge.schema.fields import Number

Array = NDArray[np.float64] | NDArray[np.int64]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Fence:
    """Where outliers begin, by column: below `low`, above `high`, both (k,), infinite where nothing is fenced.

    `Clip` sets outliers to the fence, `Blank` makes them missing.
    """

    policy: ClassVar[str]
    kind: ClassVar[str]
    version: ClassVar[int] = 1
    low: Numbers
    high: Numbers

    @classmethod
    def fit(cls, block: Numbers, fields: Sequence[Number]) -> Self:
        """Quantiles, or the quartiles and `reach` interquartile ranges beyond (Tukey, Exploratory Data Analysis)."""
        low, high = np.full(block.shape[1], -np.inf), np.full(block.shape[1], np.inf)
        for index, field in enumerate(fields):
            there = _there(block, index)
            if field.outliers != cls.policy or len(there) == 0:
                continue
            if field.fence == "quantile":
                low[index], high[index] = np.quantile(there, (field.tail, 1 - field.tail))
            else:
                first, third = np.quantile(there, (0.25, 0.75))
                with np.errstate(over="ignore", invalid="ignore"):
                    low[index] = first - field.reach * (third - first)
                    high[index] = third + field.reach * (third - first)
        _finite(np.where(np.isnan(low), np.inf, 0.0), fields, "interquartile range")
        return cls(low, high)

    @classmethod
    def load(cls, arrays: Arrays, width: int) -> Self:
        """From stored arrays, for a block of `width` columns. Raises IntegrityError."""
        low, high = _checked(cls.kind, arrays, {"low": width, "high": width}, np.float64)
        if not (low <= high).all():
            raise IntegrityError("a fence is upside down, or no number", where=f"pipeline operation {cls.kind!r}")
        return cls(low.astype(np.float64), high.astype(np.float64))

    def arrays(self) -> Arrays:
        """What `load` needs."""
        return {"low": self.low, "high": self.high}

    def width(self, width: int) -> int:
        """Columns after it."""
        return width


class Clip(Fence):
    """Outliers are set to the fence."""

    policy: ClassVar[str] = "clip"
    kind: ClassVar[str] = "clip"

    def apply(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k)."""
        return np.minimum(np.maximum(block, self.low), self.high)


class Blank(Fence):
    """Outliers count as missing."""

    policy: ClassVar[str] = "missing"
    kind: ClassVar[str] = "blank"

    def apply(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k)."""
        return np.where((block < self.low) | (block > self.high), np.nan, block)


@dataclass(frozen=True)
class Indicate:
    """Appends a column per index in `columns` (m,): 1 where that number is missing, else 0."""

    kind: ClassVar[str] = "indicate"
    version: ClassVar[int] = 1
    columns: NDArray[np.int64]

    @classmethod
    def fit(cls, block: Numbers, fields: Sequence[Number]) -> Indicate:
        """The fields that ask for an indicator."""
        return cls(np.array([index for index, field in enumerate(fields) if field.indicator], dtype=np.int64))

    @classmethod
    def load(cls, arrays: Arrays, width: int) -> Indicate:
        """From stored arrays, for a block of `width` columns. Raises IntegrityError."""
        return cls(_places(cls.kind, arrays, width))

    def arrays(self) -> Arrays:
        """What `load` needs."""
        return {"columns": self.columns}

    def width(self, width: int) -> int:
        """Columns after it."""
        return width + len(self.columns)

    def apply(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k + m)."""
        return np.hstack([block, np.isnan(block[:, self.columns]).astype(np.float64)])


@dataclass(frozen=True)
class Impute:
    """Puts `fill` (k,) where a number is missing; NaN in `fill` leaves the column alone."""

    kind: ClassVar[str] = "impute"
    version: ClassVar[int] = 1
    fill: Numbers

    @classmethod
    def fit(cls, block: Numbers, fields: Sequence[Number]) -> Impute:
        """Mean, median or constant of the rows that are there. Raises DataError where none is."""
        fill = np.full(block.shape[1], np.nan)
        for index, field in enumerate(fields):
            if field.missing == "constant" and field.constant is not None:
                fill[index] = field.constant
            elif field.missing in ("mean", "median"):
                there = _there(block, index)
                if len(there) == 0:
                    raise DataError(
                        _("no training row has a value, so there is no {missing} to impute").format(
                            missing=field.missing
                        ),
                        where=f"column {field.name!r}",
                        remedy=_("Drop the column, or impute a constant."),
                    )
                with np.errstate(over="ignore", invalid="ignore"):
                    fill[index] = np.mean(there) if field.missing == "mean" else np.median(there)
        _finite(fill, fields, "mean or median")
        return cls(fill)

    @classmethod
    def load(cls, arrays: Arrays, width: int) -> Impute:
        """From stored arrays, for a block of `width` columns. Raises IntegrityError."""
        (fill,) = _checked(cls.kind, arrays, {"fill": width}, np.float64)
        if np.isinf(fill).any():
            raise IntegrityError("a fill value is infinite", where="pipeline operation 'impute'")
        return cls(fill.astype(np.float64))

    def arrays(self) -> Arrays:
        """What `load` needs."""
        return {"fill": self.fill}

    def width(self, width: int) -> int:
        """Columns after it."""
        return width

    def apply(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k)."""
        return np.where(np.isnan(block), self.fill, block)


@dataclass(frozen=True)
class Log:
    """sign(x) log(1 + |x|) in the columns with these places (m,)."""

    kind: ClassVar[str] = "log"
    version: ClassVar[int] = 1
    columns: NDArray[np.int64]

    @classmethod
    def fit(cls, block: Numbers, fields: Sequence[Number]) -> Log:
        """The fields that ask for it."""
        return cls(np.array([index for index, field in enumerate(fields) if field.transform == "log"], dtype=np.int64))

    @classmethod
    def load(cls, arrays: Arrays, width: int) -> Log:
        """From stored arrays, for a block of `width` columns. Raises IntegrityError."""
        return cls(_places(cls.kind, arrays, width))

    def arrays(self) -> Arrays:
        """What `load` needs."""
        return {"columns": self.columns}

    def width(self, width: int) -> int:
        """Columns after it."""
        return width

    def apply(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k)."""
        result, chosen = block.copy(), block[:, self.columns]
        result[:, self.columns] = np.copysign(np.log1p(np.abs(chosen)), chosen)
        return result

    def invert(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k), infinite where no number is as large."""
        result, chosen = block.copy(), block[:, self.columns]
        with np.errstate(over="ignore"):
            result[:, self.columns] = np.copysign(np.expm1(np.abs(chosen)), chosen)
        return result


@dataclass(frozen=True)
class Scale:
    """(x - shift) / scale by column, both (k,); `scale` is never 0: a constant column is only shifted."""

    kind: ClassVar[str] = "scale"
    version: ClassVar[int] = 1
    shift: Numbers
    scale: Numbers

    @classmethod
    def fit(cls, block: Numbers, fields: Sequence[Number]) -> Scale:
        """Mean and standard deviation (ddof 0), minimum and range, or median and interquartile range; columns beyond
        the fields (indicators) stay."""
        shift, scale = np.zeros(block.shape[1]), np.ones(block.shape[1])
        for index, field in enumerate(fields):
            there = _there(block, index)
            if len(there) == 0 or field.scale == "none":
                continue
            least, most = float(np.min(there)), float(np.max(there))
            with np.errstate(over="ignore", invalid="ignore"):
                if field.scale == "range" or least == most:
                    shift[index], spread, rounding = least, most - least, 0.0
                elif field.scale == "robust":
                    first, shift[index], third = (float(q) for q in np.quantile(there, (0.25, 0.5, 0.75)))
                    # Quartiles that lie as good as together say nothing of a column that reaches far beyond them.
                    spread, rounding = third - first, 10 * float(np.finfo(np.float64).eps) * max(abs(least), abs(most))
                else:
                    shift[index], spread = float(np.mean(there)), float(np.std(there))
                    # Rounding alone leaves a deviation of this order in a column that is as good as constant.
                    rounding = 10 * float(np.finfo(np.float64).eps) * abs(float(shift[index]))
            scale[index] = 1.0 if spread <= rounding else spread
        _finite(shift, fields, "mean")
        _finite(scale, fields, "spread")
        return cls(shift, scale)

    @classmethod
    def load(cls, arrays: Arrays, width: int) -> Scale:
        """From stored arrays, for a block of `width` columns. Raises IntegrityError."""
        shift, scale = _checked(cls.kind, arrays, {"shift": width, "scale": width}, np.float64)
        if not (np.isfinite(shift).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise IntegrityError("shift or scale is not finite and positive", where="pipeline operation 'scale'")
        return cls(shift.astype(np.float64), scale.astype(np.float64))

    def arrays(self) -> Arrays:
        """What `load` needs."""
        return {"shift": self.shift, "scale": self.scale}

    def width(self, width: int) -> int:
        """Columns after it."""
        return width

    def apply(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k)."""
        return (block - self.shift) / self.scale

    def invert(self, block: Numbers) -> Numbers:
        """(n, k) to (n, k), in the fields' own units."""
        return block * self.scale + self.shift


Operation = Clip | Blank | Indicate | Impute | Log | Scale
# In the order in which they work.
INPUT_STEPS: tuple[type[Operation], ...] = (Blank, Clip, Indicate, Impute, Log, Scale)
TARGET_STEPS: tuple[type[Log] | type[Scale], ...] = (Log, Scale)
OPERATIONS: dict[str, type[Operation]] = {step.kind: step for step in INPUT_STEPS}


def asked(fields: Sequence[Number]) -> tuple[type[Operation], ...]:
    """The steps that numeric inputs go through, in order: those that any of them asks for, imputing and scaling."""
    wanted = {
        Blank: any(f.outliers == "missing" for f in fields),
        Clip: any(f.outliers == "clip" for f in fields),
        Indicate: any(f.indicator for f in fields),
        Log: any(f.transform == "log" for f in fields),
    }
    return tuple(step for step in INPUT_STEPS if wanted.get(step, True))


def operation(kind: object, version: object, arrays: Arrays, width: int) -> Operation:
    """A stored operation. Raises IntegrityError for an unknown kind or version, or arrays that don't fit."""
    found = OPERATIONS.get(kind) if isinstance(kind, str) else None
    if found is None or version != found.version:
        known = ", ".join(f"{name} {c.version}" for name, c in OPERATIONS.items())
        raise IntegrityError(
            f"operation {kind!r} version {version!r} is not known",
            where="pipeline",
            remedy=f"This release has {known}.",
        )
    return found.load(arrays, width)


def _there(block: Numbers, index: int) -> Numbers:
    values = block[:, index]
    return values[~np.isnan(values)]


def _finite(values: Numbers, fields: Sequence[Number], what: str) -> None:
    bad = np.flatnonzero(
        np.isinf(values[: len(fields)]) | (np.isnan(values[: len(fields)]) & (what != "mean or median"))
    )
    if len(bad):
        raise DataError(
            _("values are too large: their {what} is not finite").format(what=what),
            where=f"column {fields[bad[0]].name!r}",
            remedy=_("Rescale the column or drop it."),
        )


def _places(kind: str, arrays: Arrays, width: int) -> NDArray[np.int64]:
    (columns,) = _checked(kind, arrays, {"columns": None}, np.int64)
    if len(columns) and (columns[-1] >= width or (np.diff(columns, prepend=-1) <= 0).any()):
        raise IntegrityError("columns are out of order or range", where=f"pipeline operation {kind!r}")
    return columns.astype(np.int64)


def _checked(kind: str, arrays: Arrays, lengths: Mapping[str, int | None], dtype: type[np.generic]) -> list[Array]:
    where = f"pipeline operation {kind!r}"
    if set(arrays) != set(lengths):
        raise IntegrityError(f"it needs the arrays {sorted(lengths)}, not {sorted(arrays)}", where=where)
    for name, length in lengths.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != 1 or (length is not None and len(array) != length):
            raise IntegrityError(
                f"array {name!r} is {array.dtype} {array.shape}, not {np.dtype(dtype)} ({length or 'any'},)",
                where=where,
            )
    return [arrays[name] for name in lengths]
