"""What was found about a trained model on rows it did not learn from: numbers with intervals, curves, examples, slices.

Everything that a report shows of it, as data: the page can be drawn again, and in another language, without the model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reinforge.registry import Options

Side = Literal["test", "validation"]
Points = tuple[tuple[float, float], ...]


class Measure(Options):
    """A metric's value with its interval, and whether high or low is good. None: not defined by these rows."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    best: Literal["high", "low"] = "high"


class Baseline(Options):
    """A simple model on the same rows. `low` and `high`: the interval of how far the network's headline metric is above
    its own."""

    name: str
    about: str
    rows: int
    seconds: float
    measures: tuple[Measure, ...]
    low: float | None = None
    high: float | None = None


class Read(Options):
    """A reading that was set on validation rows, and what it changed on the held-out rows."""

    temperature: float
    threshold: float | None = None
    thresholds: tuple[float, ...] | None = None
    criterion: str
    rows: int
    before: tuple[Measure, ...] = ()
    after: tuple[Measure, ...] = ()


class Class(Options):
    """One class or label among the held-out rows."""

    label: str
    rows: int
    decided: int
    precision: float | None
    recall: float | None
    f1: float | None
    low: float | None = None
    high: float | None = None


class Curve(Options):
    """A curve of one class or label, and the area under it."""

    label: str
    points: Points
    area: float


class Bin(Options):
    """Rows of about one confidence: how sure the model was of them, and what part was right."""

    confidence: float
    accuracy: float
    rows: int


class Example(Options):
    """One held-out row: its number in the data, what was said, what is true, and how bad that is."""

    row: int
    said: str
    truth: str
    sure: float | None = None
    cost: float
    inputs: dict[str, str] = Field({}, description="As they were read, cut short.")
    images: dict[str, str] = Field({}, description="PNG files as base64.")


class Slice(Options):
    """The rows with one value of one column."""

    column: str
    value: str
    rows: int
    measure: Measure


class Found(Options):
    """All about one output."""

    name: str
    form: str
    labels: tuple[str, ...] = ()
    headline: str
    measures: tuple[Measure, ...]
    baselines: tuple[Baseline, ...] = ()
    reading: Read | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    confused: tuple[tuple[str, str, int], ...] = Field((), description="Truth, decision and rows, most first.")
    classes: tuple[Class, ...] = ()
    reliability: tuple[Bin, ...] = ()
    uncalibrated: tuple[Bin, ...] = ()
    roc: tuple[Curve, ...] = ()
    precision_recall: tuple[Curve, ...] = ()
    scatter: Points = Field((), description="Truth and value said, of some rows.")
    errors: tuple[tuple[float, int], ...] = Field((), description="Middle of a bin of errors, and its rows.")
    error_width: float = 0.0
    worst: tuple[Example, ...] = ()
    slices: tuple[Slice, ...] = ()

    def measure(self, name: str) -> Measure | None:
        """The measure of that name."""
        return next((measure for measure in self.measures if measure.name == name), None)


class Column(Options):
    """One column of the data, and what it was read as."""

    name: str
    role: str
    kind: str
    about: str = ""


class Findings(Options):
    """What was found on one side of the split. `sides`: how many rows stand on each."""

    version: Literal[1] = 1
    on: Side
    rows: int
    replicates: int
    level: float = 0.95
    seconds: float = 0.0
    outputs: tuple[Found, ...]
    sides: dict[str, int] = Field({}, description="Rows of each side.")
    columns: tuple[Column, ...] = ()
