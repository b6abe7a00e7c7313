"""Policies of cleaning, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from reinforge.registry import Options

Part = Annotated[float, Field(ge=0, le=1)]


class NearOptions(Options):
    """What counts as nearly the same row: numbers equal to so many significant digits, labels equal but for case, width
    and spaces, and long texts whose sets of four-character pieces are alike (Jaccard; found by MinHash)."""

    digits: PositiveInt = Field(4, description="Significant digits to which numbers are rounded before they compare.")
    similarity: Annotated[float, Field(gt=0.5, le=1)] = Field(
        0.8, description="Share of four-character pieces that two texts must have in common."
    )
    drop: bool = Field(False, description="Drop all but the first; else they only stay on one side of the split.")


class CleanOptions(Options):
    """What is mended or left out, in this order: unreadable images, impossible values, rows with too little,
    duplicates, near duplicates, conflicts, all before the split; then outliers among the training rows. Each change is
    counted and told."""

    noise: Literal["error", "missing", "drop"] = Field(
        "error",
        description="Values that can't be: words in a column of numbers, numbers outside the declared `low` to `high`. "
        "Refuse, count as missing, or drop the row.",
    )
    images: Literal["error", "drop"] = Field(
        "error",
        description="Images that can't be read (not there, damaged, too large): refuse, naming the first; or drop the "
        "rows, naming the files, for which each image is read once more.",
    )
    spelling: Literal["keep", "merge"] = Field(
        "keep",
        description="Labels that differ only in case, width or white space: keep, or merge, in training as in serving "
        "(a field's own `spelling` overrules it).",
    )
    sparse: Part | None = Field(None, description="Drop rows of which more than this part of the inputs is missing.")
    duplicates: Literal["keep", "drop"] = Field(
        "keep", description="Rows equal in all inputs and targets: keep, or drop all but the first."
    )
    near: NearOptions | None = Field(None, description="Look for nearly equal rows too; null doesn't.")
    conflicts: Literal["keep", "first", "drop"] = Field(
        "keep", description="Rows equal in all inputs, but not in the targets: keep, keep the first, or drop them all."
    )
    together: bool | None = Field(
        None,
        description="Keep rows with equal inputs on one side of every split; by default yes, unless more than half of "
        "the rows have an equal one before them, and so recur by nature.",
    )
    outliers: PositiveFloat | None = Field(
        None,
        description="Drop training rows with a number more than so many interquartile ranges beyond the quartiles.",
    )


class TextCleanOptions(Options):
    """What is mended in documents, and which are left out, in this order, before the split. What was done is counted
    and told, with the first document that it concerns."""

    unicode: Literal["keep", "mend", "drop"] = Field(
        "mend",
        description="Characters that can't be seen and may mislead (controls, turned directions, tags) or that stand "
        "for nothing: keep, take out, or leave the document out.",
    )
    shortest: PositiveInt | None = Field(None, description="Leave out what has fewer characters.")
    longest: PositiveInt | None = Field(None, description="Leave out what has more characters.")
    scripts: tuple[str, ...] = Field(
        (), description="Leave out what is not mostly written in these scripts: latin, han, cyrillic, arabic, ..."
    )
    repetition: Part | None = Field(
        None, description="Leave out what repeats itself: more than this part of its windows of 16 characters stood in "
        "it before.",
    )  # fmt: skip
    personal: Literal["keep", "flag", "mask", "drop"] = Field(
        "flag",
        description="What may be personal (e-mail, telephone, payment card, Chinese identity number, internet "
        "address): keep, tell how many, write <EMAIL> in its place, or leave the document out.",
    )
    duplicates: Literal["keep", "drop"] = Field("drop", description="Copies of another document.")
    near: Annotated[float, Field(gt=0.5, le=1)] | None = Field(
        None, description="Leave out what shares this part of its four-character pieces with another (MinHash)."
    )
