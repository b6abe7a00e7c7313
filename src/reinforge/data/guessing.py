"""What a column of texts, bytes or lists seems to hold beside numbers and labels: dates, sets of labels, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from reinforge.data.images import SUFFIXES
from reinforge.data.operations import dates
from reinforge.data.values import Nulls, Unreadable
from reinforge.messages import _

SAMPLE = 1000  # values that are looked at one by one, spread over the column
FORMATTED = 20_000  # different dates that a format has to read before it is believed
SEPARATORS = ("|", ";", ",")
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*", b"P5", b"P6")
_MIDNIGHT = r"^00:00(:00([.,]0+)?)?(Z|[+-].*)?$"
# Dates of another spelling than ISO 8601: how they look, and the formats that may be; and of the time that may follow.
_SPELLINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^\d{1,2}\.\d{1,2}\.\d{4}( .+)?$", ("%d.%m.%Y",)), (r"^\d{1,2}\.\d{1,2}\.\d\d( .+)?$", ("%d.%m.%y",)),
    (r"^\d{1,2}/\d{1,2}/\d{4}( .+)?$", ("%d/%m/%Y", "%m/%d/%Y")),
    (r"^\d{1,2}/\d{1,2}/\d\d( .+)?$", ("%d/%m/%y", "%m/%d/%y")),
    (r"^\d{1,2}-\d{1,2}-\d{4}( .+)?$", ("%d-%m-%Y", "%m-%d-%Y")),
    (r"^\d{4}/\d{1,2}/\d{1,2}( .+)?$", ("%Y/%m/%d",)), (r"^\d{4}\.\d{1,2}\.\d{1,2}( .+)?$", ("%Y.%m.%d",)),
    (r"^\d{4}年\d{1,2}月\d{1,2}日( .+)?$", ("%Y年%m月%d日",)),
    (r"^\d{1,2}[ -][A-Za-z]{3,9}[ -]\d{4}( .+)?$", ("%d %b %Y", "%d-%b-%Y")),
    (r"^[A-Za-z]{3,9} \d{1,2}, \d{4}( .+)?$", ("%b %d, %Y",)),
)  # fmt: skip
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_NONE = Nulls.of(())


@dataclass(frozen=True)
class Guess:
    """What a column seems to be: a kind of field, or nothing (something to leave out) and why. `options` go with it;
    `note` tells what is open to doubt."""

    kind: str
    why: str = ""
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def special(there: pl.Series, base: Path | None) -> Guess | None:
    """Whether texts (n,), trimmed and none missing, are dates, files of images, or sets of labels."""
    if _dates(there):
        clock = there.str.extract(r"\d[T ](\d.*)$").drop_nulls()
        return Guess("date", options=_parts(not clock.str.contains(_MIDNIGHT).all()))
    if (written := spelt_dates(there)) is not None:
        return written
    sample = _sample(there).to_list()
    if all(text.lower().endswith(SUFFIXES) for text in sample):
        absent = next((text for text in sample if not ((base or Path()) / text).is_file()), None)
        if absent is None:
            return Guess("image")
        return Guess("nothing", _("it names images that are not there, such as {absent!r}").format(absent=absent))
    return _label_sets(there)


def nested(series: pl.Series) -> Guess:
    """What lists, arrays or bytes seem to be."""
    dtype = series.dtype
    first = next((value for value in series.drop_nulls()[:1].to_list()), None)
    if dtype == pl.Binary:
        known = isinstance(first, bytes) and first.startswith(MAGIC)
        return Guess("image") if known else Guess("nothing", _("its bytes are no image"))
    if isinstance(dtype, pl.Array):
        pixels = len(dtype.shape) in (2, 3) and dtype.base_type() is not None and _innermost(dtype) == pl.UInt8
        return Guess("image", options=_pixel_options(dtype.shape)) if pixels else Guess("nothing", _("it holds arrays"))
    if isinstance(dtype, pl.List) and (dtype.inner == pl.String or dtype.inner.is_integer()):
        return Guess("labels")
    return Guess("nothing", _("it holds nested values"))


def words(there: pl.Series) -> float:
    """Words of a text (n,) on average; a Chinese, Japanese or Korean character is one."""
    counts = there.str.count_matches(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]|[\p{L}\p{N}]+")
    return float(counts.mean() or 0.0)  # type: ignore[arg-type]


def date_options(series: pl.Series) -> Mapping[str, Any]:
    """The parts of a temporal column that are worth knowing."""
    if series.dtype == pl.Date:
        return _parts(False)
    seconds = series.drop_nulls().dt.replace_time_zone(None).dt.time()
    return _parts(bool((seconds != seconds.first()).any()) or bool((seconds.dt.hour() != 0).any()))


def _parts(times: object) -> Mapping[str, Any]:
    return {"parts": ("elapsed", "month", "weekday", *(("hour",) if times else ()))}


def _dates(there: pl.Series) -> bool:
    if not there.str.contains(r"^\d{4}-\d\d-\d\d").all() or there.n_unique() < 2:
        return False
    try:
        for text in _sample(there).to_list():
            dates.moment(text, _NONE)
    except Unreadable:
        return False
    return True


def spelt_dates(there: pl.Series) -> Guess | None:
    """Whether texts (n,), trimmed and none missing, are dates of another spelling than ISO 8601, and of which; nothing
    where they may be read in two ways."""
    forms = next((forms for pattern, forms in _SPELLINGS if there.str.contains(pattern).all()), ())
    if not forms:
        return None
    distinct = there.unique(maintain_order=True)
    texts = distinct.gather_every(max(1, len(distinct) // FORMATTED)).to_list()
    fitting = [form + clock for form in forms for clock in _CLOCKS if _all_read(texts, form + clock)]
    if len(fitting) == 1:
        note = _("its dates are read as {form}; `format` overrules it").format(form=fitting[0])
        return Guess("date", note=note, options={"format": fitting[0], **_parts(":" in fitting[0])})
    if fitting:
        told = _("its dates may be {one} or {other}; state its `format`")
        return Guess("nothing", told.format(one=fitting[0], other=fitting[1]))
    return Guess("nothing", _("its dates are not all written in one way; state its `format`, such as %d.%m.%Y"))


def _all_read(texts: Sequence[str], form: str) -> bool:
    try:
        for text in texts:
            dates.moment(text, _NONE, form=form)
    except Unreadable:
        return False
    return True


def _label_sets(there: pl.Series) -> Guess | None:
    """Sets share their labels: there are far fewer labels than sets, and many sets have several."""
    if there.str.starts_with("[").all() and there.str.ends_with("]").all():
        return Guess("labels", note=_("its texts are lists, taken as sets of labels"))
    for separator in SEPARATORS:
        several = there.str.contains(separator, literal=True)
        if (several.mean() or 0.0) < 0.2:  # type: ignore[operator]
            continue
        parts = there.unique().str.split(separator).explode().str.strip_chars()
        labels = parts.filter(parts != "")
        amount = labels.str.contains(r"^[-+0-9.]+$").all()  # such as 1,5 where a comma stands for the point
        if labels.n_unique() <= 0.5 * there.n_unique() and words(labels) < 3 and not amount:
            told = _("taken as sets of {n} labels separated by {separator!r}; kind: category for one label")
            told = told.format(n=labels.n_unique(), separator=separator)
            return Guess("labels", note=told, options={"separator": separator})
    return None


def _sample(there: pl.Series) -> pl.Series:
    return there.gather_every(max(1, len(there) // SAMPLE))


def _innermost(dtype: pl.DataType) -> pl.DataType | type[pl.DataType]:
    found: Any = dtype
    while isinstance(found, pl.Array):
        found = found.inner
    return found  # type: ignore[no-any-return]


def _pixel_options(shape: tuple[int, ...]) -> Mapping[str, Any]:
    return {"size": shape[:2], "channels": 1 if len(shape) == 2 else 3}
