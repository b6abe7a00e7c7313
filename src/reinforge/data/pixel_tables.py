"""Tables whose rows are the pixels of a picture, as tables with a column of images."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import polars as pl

from reinforge.data.folders import IMAGE, LABEL
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.messages import _

LABELS = ("label", "target", "class", "y")
# What white may be: 1, a sheet of 4 by 4 counted dots (scikit-learn's digits), or a byte.
LEVELS = (1, 16, 255)


def read_pixel_file(path: Path, name: str) -> Table:
    """A CSV file (plain or compressed) of pixels, with a header or without: see `images_of_rows`."""
    try:
        raw = path.read_bytes()
        first = pl.read_csv(raw, has_header=False, n_rows=1, infer_schema=False)
        header = any(_no_number(text) for text in first.row(0))
        frame = pl.read_csv(raw, has_header=header)
    except OSError as error:
        raise DataError(_("it can't be read: {reason}").format(reason=error.strerror), where=name) from error
    except pl.exceptions.PolarsError as error:
        raise DataError(
            _("it is no table of pixels: {reason}").format(reason=str(error).splitlines()[0]), where=name
        ) from error
    table = Table(frame.to_dict(), Origin(name, "row"), "sha256:" + hashlib.sha256(raw).hexdigest())
    return images_of_rows(table)


def images_of_rows(table: Table) -> Table:
    """Columns `image`, uint8 (height, width), and `label`.

    The label is the column called label, target, class or y, else the last; the others are the pixels of a square, line
    by line. Their largest value says what white is: 1, 16 or 255, scaled to 255. Raises DataError for anything else.
    """
    names = list(table.columns)
    label = next((name for name in names if name.lower() in LABELS), names[-1])
    others = [name for name in names if name != label]
    side = math.isqrt(len(others))
    where = table.origin.at()
    if not others or side * side != len(others):
        raise DataError(
            _("{n} columns beside {label!r} are no square of pixels").format(n=len(others), label=label), where=where
        )
    strange = next((name for name in others if not table.columns[name].dtype.is_numeric()), None)
    if strange is not None:
        raise DataError(
            _("a column of pixels holds something else than numbers"), where=table.origin.at(column=strange)
        )
    values = pl.DataFrame([table.columns[name] for name in others]).to_numpy().astype(np.float64)
    low, high = float(values.min()), float(values.max())
    white = next((level for level in LEVELS if high <= level), None)
    if not low >= 0 or white is None:
        raise DataError(
            _("pixels reach from {low:g} to {high:g}, beyond 0 to 255").format(low=low, high=high), where=where
        )
    images = np.rint(values * (255 / white)).astype(np.uint8).reshape(-1, side, side)
    labels = table.columns[label].alias(LABEL)
    return Table({IMAGE: pl.Series(IMAGE, images), LABEL: labels}, table.origin, table.digest, table.notes)


def _no_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return True
    return False
