"""Plain texts as tables: a file of lines, a folder with a text a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import polars as pl

from reinforge.data.reading.encodings import decode, noted
from reinforge.data.reading.how import How
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.messages import _

TEXT, LABEL, FILE, SPLIT = "text", "label", "file", "split"
SUFFIXES = (".txt", ".text")
# Folders on top that say on which side their texts are, and how the column `split` calls it.
SIDES = {
    "train": "train", "training": "train", "valid": "validation", "val": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def read_lines(path: Path, name: str, how: How) -> Table:
    """A text a line, blank ones left out: columns `text`, and `label`, the file's name without its suffix."""
    raw = path.read_bytes()
    text, encoding = decode(raw, name, how.encoding)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    columns = {
        TEXT: pl.Series(TEXT, [line for _number, line in lines], dtype=pl.String),
        LABEL: pl.Series(LABEL, [path.stem] * len(lines), dtype=pl.String),
    }
    origin = Origin(name, "line", np.array([number for number, _line in lines], dtype=np.int64))
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    return Table(columns, origin, digest, noted(name, encoding, how.encoding))


def text_files(folder: Path) -> list[Path]:
    """The text files in a folder, by name; hidden ones are passed over."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        found += [Path(place) / f for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_text_folder(folder: Path, name: str, how: How) -> Table:
    """A text a file: columns `text`, `file` (its path in the folder), and `label` (the folder on top that it lies in).

    Where the folders on top are called train, validation (or val, valid) and test, they are the column `split`, and the
    folders in them the labels. Raises DataError where there is no text, or one can't be read.
    """
    files = text_files(folder)
    if not files:
        known = _("Known suffixes: {known}.").format(known=", ".join(SUFFIXES))
        raise DataError(_("there is no text in this folder"), where=name, remedy=known)
    texts, encodings, total = [], set(), hashlib.sha256()
    for path in files:
        inside = path.relative_to(folder).as_posix()
        raw = path.read_bytes()
        text, encoding = decode(raw, f"{name}/{inside}", how.encoding) if raw.strip() else (None, "utf-8")
        texts.append(text)
        encodings.add(encoding)
        total.update(inside.encode("utf-8", "surrogateescape") + b"\0" + hashlib.sha256(raw).digest())
    columns = {TEXT: pl.Series(TEXT, texts, dtype=pl.String)}
    columns[FILE] = pl.Series(FILE, [path.relative_to(folder).as_posix() for path in files])
    places = [path.relative_to(folder).parts[:-1] for path in files]
    notes = [note for encoding in sorted(encodings) for note in noted(name, encoding, how.encoding)]
    tops = {place[0].lower() if place else "" for place in places}
    if tops <= set(SIDES) and len({SIDES[top] for top in tops}) > 1:
        columns[SPLIT] = pl.Series(SPLIT, [SIDES[place[0].lower()] for place in places])
        places = [place[1:] for place in places]
        told = _("the folders on top are the column {column!r}: state split: {example}")
        notes.append(told.format(column=SPLIT, example=f"{{kind: given, column: {SPLIT}}}"))
    if any(places):
        columns[LABEL] = pl.Series(LABEL, [place[0] if place else None for place in places], dtype=pl.String)
    origin = Origin(name, "file", np.arange(1, len(files) + 1))
    return Table(columns, origin, "sha256:" + total.hexdigest(), tuple(notes))
