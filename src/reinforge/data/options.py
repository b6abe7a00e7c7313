"""Options of the components of this room, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)  # fmt: skip

from reinforge.data.cleaning.options import CleanOptions
from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register
from reinforge.schema import date_format
from reinforge.schema.fields import DatePart, Scaling, Spelling
from reinforge.schema.schema import NULLS

Fraction = Annotated[float, Field(ge=0, lt=1)]
DateFormat = Annotated[str | None, AfterValidator(date_format.checked)]


class Held(Options):
    """What is held back from training. A seed of None takes the run's."""

    validation: Fraction = Field(0.15, description="Part of the rows for validation: stopping, selection, thresholds.")
    test: Fraction = Field(0.15, description="Part of the rows for the final test.")
    seed: NonNegativeInt | None = Field(None, description="Seed of the draw; by default the run's.")

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class RandomSplit(Held):
    """Rows drawn at random."""

    kind: Literal["random"] = "random"


class StratifiedSplit(Held):
    """Rows drawn at random with each class in its proportion, to within one row."""

    kind: Literal["stratified"] = "stratified"
    by: str | None = Field(None, description="Column of the classes; by default the first target that is a category.")


class GroupSplit(Held):
    """Whole groups drawn at random: rows of one group are never on two sides."""

    kind: Literal["group"] = "group"
    column: str = Field(description="Column that names the group; it is no input.")


class TimeSplit(Held):
    """The latest rows are the test, those before them the validation; equal times stay on one side."""

    kind: Literal["time"] = "time"
    column: str = Field(description="Column of times: numbers, or dates as 2026-11-23 or 2026-11-23T20:00:00.")
    format: DateFormat = Field(None, description="How its dates are written, such as %d.%m.%Y, where not so.")


class GivenSplit(Options):
    """A column says where each row belongs: train, validation or test."""

    kind: Literal["given"] = "given"
    column: str = Field(description="Column holding train, validation or test; it is no input.")


class FoldSplit(Options):
    """One fold of a cross-validation is the test; validation is drawn from the others."""

    kind: Literal["folds"] = "folds"
    folds: Annotated[int, Field(ge=2)] = Field(5, description="How many folds.")
    fold: NonNegativeInt | None = Field(
        None, description="Which fold is the test, counted from 0; all in turn, each a run of its own, where null."
    )
    stratified: bool = Field(True, description="Each class in its proportion, by the first target that is a category.")
    group: str | None = Field(None, description="Column that names a group; whole groups are dealt to the folds.")
    time: str | None = Field(
        None, description="Column of times: each fold tests the next stretch of time, and trains on all before it."
    )
    format: DateFormat = Field(None, description="How dates of `time` are written, where not as 2026-11-23.")
    validation: Fraction = Field(0.15, description="Part of the other folds' rows for validation.")
    seed: NonNegativeInt = Field(0, description="Seed of the folds, the same for every fold.")

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is not one of {self.folds}, counted from 0")
        if self.group is not None and self.time is not None:
            raise ValueError("folds are by group or by time, not both")
        return self


Split = Annotated[
    RandomSplit | StratifiedSplit | GroupSplit | TimeSplit | GivenSplit | FoldSplit, Field(discriminator="kind")
]


Kind = Literal["number", "category", "date", "labels", "text", "image", "vector", "span"]


class FieldOptions(Options):
    """What overrules the inferred field of a column; what is left out is inferred."""

    kind: Kind | None = Field(None, description="Kind of field. Vectors and spans are targets, and never inferred.")
    low: float | None = Field(None, description="Number: smallest allowed value.")
    high: float | None = Field(None, description="Number: largest allowed value.")
    integer: bool | None = Field(None, description="Number: only whole ones.")
    missing: Literal["mean", "median", "constant", "own", "empty", "blank", "drop", "mask", "error"] | None = Field(
        None,
        description="Missing values. Number: mean, median, constant, error; date: mean, median, error; category: own "
        "(a slot of its own), error; labels and text: empty, error; image: blank, error; target: drop (the row), mask "
        "(this target), error.",
    )
    constant: float | None = Field(None, description="Number: what `missing: constant` imputes.")
    indicator: bool | None = Field(None, description="Number, date: add an input that is 1 where it was missing.")
    scale: Scaling | None = Field(None, description="Number, vector, and a date's year and elapsed time: scaling.")
    transform: Literal["none", "log"] | None = Field(
        None, description="Number, vector: log takes sign(x) log(1 + |x|) before scaling."
    )
    outliers: Literal["keep", "clip", "missing"] | None = Field(
        None, description="Number: keep outliers, clip them to the fence, or count them as missing."
    )
    fence: Literal["interquartile", "quantile"] | None = Field(
        None, description="Number: outliers begin `reach` interquartile ranges beyond the quartiles, or at `tail`."
    )
    reach: PositiveFloat | None = Field(None, description="Number: interquartile ranges to the fence; by default 3.")
    tail: float | None = Field(None, description="Number: part of the rows beyond a quantile fence; by default 0.005.")
    count: bool | None = Field(None, description="Number, as a target: how often something happened.")
    labels: tuple[str, ...] | None = Field(None, description="Category, labels: which there are, in order.")
    unseen: Literal["unknown", "ignore", "error"] | None = Field(
        None, description="Labels that training didn't see. Category: unknown, error; labels: ignore, error."
    )
    rare: PositiveInt | None = Field(
        None, description="Labels seen in fewer rows. Category: they share the unknown slot; labels: are left out."
    )
    spelling: Spelling | None = Field(
        None, description="Category, labels: loose merges labels that differ only in case, width or white space."
    )
    ordered: bool | None = Field(None, description="Category, as a target: its labels stand in order.")
    coding: Literal["index", "hash"] | None = Field(None, description="Category: a code per label, or hashed buckets.")
    buckets: PositiveInt | None = Field(None, description="Category: how many buckets `coding: hash` has.")
    separator: str | None = Field(None, description="Labels: what stands between them in a text; by default a comma.")
    columns: tuple[str, ...] | None = Field(
        None, description="Vector: its columns; span: columns of start and end; labels: columns of 0 and 1."
    )
    parts: tuple[DatePart, ...] | None = Field(None, description="Date: the numbers that it becomes.")
    unit: Literal["d", "s", "ms", "us"] | None = Field(None, description="Date: what numbers count since 1970.")
    format: DateFormat = Field(
        None, description="Date: how it is written, such as %d.%m.%Y or %m/%d/%y %I:%M %p; ISO 8601 is read anyway."
    )
    length: PositiveInt | None = Field(None, description="Text: tokens that are read at most; by default 256.")
    column: str | None = Field(
        None, description="Text: the column that it reads, so that several fields may read one, each in its own way."
    )
    tokenizer: Annotated[Options, OneOf("tokenizer")] | None = Field(
        None, description="Text: how it becomes tokens, fitted on the training rows; by default words."
    )
    size: tuple[PositiveInt, PositiveInt] | None = Field(None, description="Image: height and width in pixels.")
    channels: Literal[1, 3] | None = Field(None, description="Image: 1 for grey, 3 for colours.")
    resize: Literal["stretch", "crop", "pad"] | None = Field(None, description="Image: how another shape is fitted in.")
    of: str | None = Field(None, description="Span: the text field that it is a part of.")


def _by_name(targets: object) -> object:
    """A name, or names alone, as names with nothing to overrule."""
    names = [targets] if isinstance(targets, str) else targets
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return {name: {} for name in names}
    return targets


Targets = Annotated[
    dict[str, FieldOptions],
    BeforeValidator(_by_name, json_schema_input_type=str | list[str] | dict[str, FieldOptions]),
]


@register("data", "reinforge.data.prepared:prepare_table")
class TableOptions(Options):
    """A table: rows of typed columns, from a file, an installed package or memory."""

    usual: ClassVar[Mapping[str, str]] = {"model": "composed", "objective": "supervised"}
    kind: Literal["table"] = "table"
    path: str | tuple[str, ...] | None = Field(
        None,
        description="A file (.csv, .tsv, .json, .jsonl, .parquet, .arrow, .xlsx, or .txt with a text a line), several "
        "(a list, or a pattern such as parts/*.csv), a folder of texts or images, what `prepare` wrote, a database "
        "(sqlite:///FILE, postgresql://USER@HOST/NAME), package:NAME/PATH for a file in an installed package, or "
        "sklearn:NAME, or made:NAME for one made of its digits (digit-sets, order-slips). `pixels:` before a file or "
        "sklearn:NAME reads rows of pixels as the images of a column `image`. None where the data are given in Python.",
    )
    targets: Targets = Field(
        description="Columns to predict: a list of names, or names with what overrules their inferred fields."
    )
    inputs: tuple[str, ...] | None = Field(None, description="Columns to predict from; by default all the others.")
    drop: tuple[str, ...] = Field((), description="Columns to leave out.")
    fields: dict[str, FieldOptions] = Field({}, description="What overrules the inferred fields of input columns.")
    split: Split = Field(StratifiedSplit(), description="How rows are held back for validation and test.")
    rows: PositiveInt | None = Field(
        None, description="Take so many rows only, drawn at random by the run's seed before anything else: for a first "
        "try. With `stream`, the others are never in memory together.",
    )  # fmt: skip
    stream: PositiveInt | None = Field(
        None, description="Read the table in pieces of so many rows, for one that is larger than memory; `prepare` "
        "writes a folder, which `path` then takes.",
    )  # fmt: skip
    clean: CleanOptions = Field(CleanOptions(), description="What is mended or left out before learning.")
    nulls: tuple[str, ...] = Field(NULLS, description='Texts that mean "missing".')
    absent: Literal["error", "null"] = Field(
        "error", description="A column, or a key of a JSON row, that is not there: refuse, or count it as missing."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="What separates values; by default told by the file's suffix and first lines."
    )
    decimal: Literal[".", ","] | None = Field(
        None,
        description="What stands before decimals in delimited text; by default told where no comma separates values.",
    )
    encoding: str = Field(
        "auto",
        description="Encoding of a text file; `auto` tells UTF-8, UTF-16 (by its mark), GB18030 and Latin-1 by bytes.",
    )
    sheet: str | None = Field(None, description="Sheet of a workbook; by default the first.")
    query: str | None = Field(None, description="What to read from a database: a table's name, or a SELECT.")

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if not self.targets:
            raise ValueError("targets: name at least one column to predict")
        for name in self.targets:
            if name in self.drop or name in (self.inputs or ()) or name in self.fields:
                raise ValueError(f"{name!r} is a target, so it can't stand in inputs, fields or drop as well")
        for name, field in self.fields.items():
            for read in (*((field.column,) if field.column else ()), *(field.columns or ())):
                if read in self.targets or any(read in (target.columns or ()) for target in self.targets.values()):
                    raise ValueError(f"fields.{name} reads {read!r}, which is a target: it would give the answer away")
        both = sorted(set(self.drop) & (set(self.inputs or ()) | set(self.fields)))
        if both:
            raise ValueError(f"{both[0]!r} stands in drop, and in inputs or fields as well")
        return self


@register("data", "reinforge.data.linear:prepare_linear")
class LinearOptions(Options):
    """Generated rows: y = weights . x + bias + noise, with standard normal x, moved by `shift`."""

    usual: ClassVar[Mapping[str, str]] = TableOptions.usual
    kind: Literal["linear"] = "linear"
    rows: PositiveInt = Field(100, description="How many rows.")
    weights: tuple[float, ...] = Field((2.0, -3.4), min_length=1, description="One weight per feature.")
    bias: float = Field(4.2, description="The constant term.")
    noise: NonNegativeFloat = Field(0.01, description="Standard deviation of the normal noise added to y.")
    shift: float = Field(0.0, description="Added to every feature, and to nothing else.")
    seed: NonNegativeInt | None = Field(None, description="Seed of the rows; by default the run's.")
    split: Split = Field(RandomSplit(validation=0.2, test=0.2), description="How rows are held back.")
    scale: Literal["standard", "range", "none"] = Field("standard", description="How features and y are scaled.")


@register("tokenizer", "reinforge.data.text:fit_characters")
class CharacterOptions(Options):
    """One token per character of the training text; every other character is the unknown one."""

    kind: Literal["character"] = "character"


@register("tokenizer", "reinforge.data.tokenizers:fit_words")
class WordOptions(Options):
    """One token per word, sign or Chinese character that the training texts have often; every other is the unknown."""

    kind: Literal["word"] = "word"
    size: int = Field(20_000, ge=2, description="Tokens at most, the unknown one among them.")
    least: PositiveInt = Field(2, description="How often the training texts must have a word.")
    lower: bool = Field(True, description="Capital letters are read as small ones.")


@register("tokenizer", "reinforge.data.tokenizers:fit_byte_pairs")
class BytePairOptions(Options):
    """Frequent pieces of texts, down to single bytes, where nothing is unknown, or to the characters that were seen."""

    kind: Literal["byte-pair"] = "byte-pair"
    alphabet: Literal["bytes", "characters"] = Field(
        "bytes",
        description="What pieces begin from. From characters, they may span signs between words, which suits texts "
        "without spaces; the rarest characters are unknown where `size` has no room for them.",
    )
    digits: Literal["together", "single"] = Field(
        "together",
        description="Whether digits may be pieces together, or each is one of its own, as reckoning needs.",
    )
    size: int = Field(8_192, ge=257, description="Tokens at most, with the 256 bytes and token 0 among them.")
    least: PositiveInt = Field(2, description="How often the training texts must have a pair of pieces.")


@register("tokenizer", "reinforge.data.tokenizers:load_pretrained")
class PretrainedTokenizerOptions(Options):
    """The tokenizer of a pretrained network, as it is, with the marks it puts around a text."""

    kind: Literal["pretrained"] = "pretrained"
    source: str = Field(
        description="A folder with tokenizer.json, package:NAME/PATH for one in an installed package, or a hub id."
    )


@register("tokenizer", "reinforge.bundle.language_encoder:tokenizer_of")
class BundleTokenizerOptions(Options):
    """The tokenizer of a language model's bundle, as it is: for the encoder `decoder`."""

    kind: Literal["bundle"] = "bundle"
    source: str = Field("", description="The language model: a bundle, or a run.")


@register("data", "reinforge.data.text:prepare_text")
class TextOptions(Options):
    """One long text, split by position: the end of it is for validation."""

    usual: ClassVar[Mapping[str, str]] = {"model": "decoder", "objective": "language"}
    kind: Literal["text"] = "text"
    path: str | None = Field(None, description="A text file in UTF-8; the named resource where null.")
    resource: Literal["python-documentation"] = Field(
        "python-documentation", description="A text that is there without a download: Python's own documentation."
    )
    tokenizer: Annotated[Options, OneOf("tokenizer")] = Field(
        CharacterOptions(), description="How text becomes tokens; fitted on the training part."
    )
    validation: float = Field(0.1, gt=0, lt=1, description="Part of the text, at its end, kept for validation.")


@register("data", "reinforge.data.prepared:given_in_python")
class IterableDataOptions(Options):
    """Batches from an iterable that a Python caller passes to `train`."""

    kind: Literal["iterable"] = "iterable"
