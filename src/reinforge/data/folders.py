"""Folders of images as tables: a row per file, its label the folder that it lies in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from reinforge.data.images import SUFFIXES, usable_cores
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.messages import _

IMAGE, LABEL, SPLIT = "image", "label", "split"
# Folders on top that say on which side their images are, and how the column `split` calls it.
SIDES = {
    "train": "train", "training": "train", "valid": "validation", "val": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def holds_images(folder: Path) -> bool:
    """Whether there is an image somewhere in the folder."""
    return any(path.suffix.lower() in SUFFIXES for path in _files(folder))


def read_image_folder(folder: Path, name: str | None = None) -> Table:
    """Columns `image` (paths, in the order of their names) and `label` (the folder on top that each lies in).

    Images that lie in no folder have no label; where none lies in one, there is no column `label`. Where the folders on
    top are called train, validation (or val, valid) and test, they are the column `split`, and the folders in them the
    labels. Hidden files and folders are passed over; so are files of other kinds, with a note. The digest covers names
    and content; what can't be read has none. Raises DataError where there is no image.
    """
    name = name or str(folder)
    files = sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix())
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(
            _("there is no image in this folder"),
            where=name,
            remedy=_("Known suffixes: {known}.").format(known=", ".join(SUFFIXES)),
        )
    notes = []
    if len(found) < len(files):
        kinds = sorted({path.suffix.lower() or path.name for path in files} - set(SUFFIXES))
        notes.append(
            _("{value} of {n} files are no images that are known, and are passed over: {names}").format(
                value=len(files) - len(found),
                n=len(files),
                names=", ".join([*kinds[:8], *(["..."] * (len(kinds) > 8))]),
            )
        )
    places = [path.relative_to(folder).parts[:-1] for path in found]
    columns = {IMAGE: pl.Series(IMAGE, [str(path) for path in found], dtype=pl.String)}
    if len({place[0] for place in places if place}) > 1 and all(
        place and place[0].lower() in SIDES for place in places
    ):
        columns[SPLIT] = pl.Series(SPLIT, [SIDES[place[0].lower()] for place in places])
        places = [place[1:] for place in places]
        notes.append(
            _("the folders on top are the column {name!r}: state split: {{kind: given, column: {name}}}").format(
                name=SPLIT
            )
        )
    if any(places):
        columns[LABEL] = pl.Series(LABEL, [place[0] if place else None for place in places], dtype=pl.String)
    origin = Origin(name, "image", np.arange(1, len(found) + 1))
    return Table(columns, origin, _digest(found, folder), tuple(notes))


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        yield from (Path(place) / file for file in files if not file.startswith("."))


def _digest(files: list[Path], folder: Path) -> str:
    def one(path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return b""  # such as a broken link; who decodes it says so, or leaves it out

    total = hashlib.sha256()
    with ThreadPoolExecutor(usable_cores()) as pool:
        for path, content in zip(files, pool.map(one, files)):
            total.update(path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape") + b"\x00" + content)
    return "sha256:" + total.hexdigest()
