"""A table in pieces, read again and again, for one that is larger than memory.

Delimited text and JSON Lines are cut at the ends of records and read by the same readers as whole files; Parquet and
Arrow IPC are sliced. Anything else (workbooks, databases, folders) is read whole and handed out in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from reinforge.data.folders import holds_images
from reinforge.data.options import TableOptions
from reinforge.data.readers import SUFFIXES, read
from reinforge.data.reading import columnar, decimals, records
from reinforge.data.reading.delimited import read_delimited
from reinforge.data.reading.encodings import AUTO, decode, recognise
from reinforge.data.reading.how import How
from reinforge.data.reading.places import files_of
from reinforge.data.reading.rows import read_json
from reinforge.data.reading.several import joined_digest
from reinforge.data.table import Table
from reinforge.data.values import Origin, place_in, placed
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.storage.files import file_digest

LINES = (".jsonl", ".ndjson")
# In these, the byte of a line break is never part of a character.
SAFE = frozenset({"utf-8", "gb18030", "latin-1", "cp1252", "ascii"})
_SAMPLE = 1 << 20

Load = Callable[[], Table]


def pieces(options: TableOptions, base: Path | None) -> Chunks:
    """The table of the options' path in pieces of `options.stream` rows. Raises RecipeError where it can't be."""
    if not isinstance(options.path, str) or options.stream is None:
        raise RecipeError(_("only a file or a pattern can be streamed"), where="data.path")
    folder = (base or Path()) / options.path
    if folder.is_dir() and holds_images(folder):
        raise RecipeError(
            _("a folder of images is read whole"), where="data.stream",
            remedy=_("Leave it out: pictures beyond 1 GiB lie in a temporary file, not in memory."),
        )  # fmt: skip
    how = How(options.delimiter, options.encoding, options.absent, options.sheet, options.query, options.decimal)
    return Chunks(options.path, base or Path(), how, options.stream)


@dataclass(frozen=True)
class Chunks:
    """Tables of about `rows` rows each, in order. Raises DataError as `read` does, with the same places."""

    source: str
    base: Path
    how: How
    rows: int

    def __iter__(self) -> Iterator[Table]:
        for load in self.loads():
            yield load()

    def loads(self) -> Iterator[Load]:
        """What reads each piece when it is called: pieces may be left out."""
        files = files_of(self.source, self.base, SUFFIXES) if "://" not in self.source else []
        if not files or any(not self._in_pieces(path) for path, _name in files):
            yield from self._slices(self._whole)
            return
        for path, name in files:
            suffix = path.suffix.lower()
            try:
                loads = self._columnar(path, name) if suffix in columnar.SUFFIXES else self._blocks(path, name, suffix)
                for load in loads:
                    yield lambda load=load, base=path.parent: replace(load(), base=base)  # type: ignore[misc]
            except OSError as error:
                raise DataError(
                    _("it can't be read: {reason}").format(reason=error.strerror), where=name,
                    remedy=_("It was looked for at {path}.").format(path=path.absolute()),
                ) from error  # fmt: skip

    def digest(self) -> str:
        """The digest that reading it whole would give."""
        files = files_of(self.source, self.base, SUFFIXES) if "://" not in self.source else []
        if not files or any(not self._in_pieces(path) for path, _name in files):
            return self._whole().digest
        found = [f"sha256:{file_digest(path)[1]}" for path, _name in files]
        return found[0] if len(found) == 1 else joined_digest(found)

    def _in_pieces(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        return suffix in (*columnar.SUFFIXES, *records.SUFFIXES, *LINES) or self.how.delimiter is not None

    def _whole(self) -> Table:
        how = self.how
        return read(
            self.source, base=self.base, delimiter=how.delimiter, encoding=how.encoding, absent=how.absent,
            sheet=how.sheet, query=how.query, decimal=how.decimal,
        )  # fmt: skip

    def _slices(self, load: Load) -> Iterator[Load]:
        table = load()
        for start in range(0, len(table), self.rows):
            rows = np.arange(start, min(start + self.rows, len(table)))
            yield lambda rows=rows: table.take(rows)  # type: ignore[misc]

    def _columnar(self, path: Path, name: str) -> Iterator[Load]:
        try:
            lazy = pl.scan_ipc(path) if path.suffix.lower() in columnar.ARROW else pl.scan_parquet(path)
            count = int(lazy.select(pl.len()).collect().item())
            names = lazy.collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as error:
            text = _("the {form} file can't be read: {reason}")
            form = "Arrow" if path.suffix.lower() in columnar.ARROW else "Parquet"
            raise DataError(
                text.format(form=form, reason=str(error).splitlines()[0]),
                where=name,
                remedy=_("It may be cut off or of another kind: write it anew, or rename it as what it is."),
            ) from error
        renamed = records.unique_names(names, name)
        for start in range(0, count, self.rows):

            def load(start: int = start) -> Table:
                frame = lazy.slice(start, self.rows).collect()
                columns = {new: frame[old] for new, old in zip(renamed, names)}
                return Table(columns, Origin(name, places=range(start, start + frame.height)))

            yield load

    def _blocks(self, path: Path, name: str, suffix: str) -> Iterator[Load]:
        """Text in blocks of whole records, each read with the header before it."""
        lines = suffix in LINES
        with open(path, "rb") as file:
            start = file.read(_SAMPLE)
            # Whole lines, so that no character is cut.
            start = start if len(start) < _SAMPLE else start[: start.rfind(b"\n") + 1] or file.readline()
            how = self._told(start, name)
            start = start.removeprefix(b"\xef\xbb\xbf")
            file.seek(0)
            file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
            before, header = 0, b""
            commas: tuple[str, ...] = ()
            while not lines and not header.strip():
                header, before = file.readline(), before + 1
                if not header:
                    return
            if not lines:
                if header.count(b'"') % 2:
                    raise DataError(_("a header over several lines can't be streamed"), where=f"{name}, line 1")
                text, _encoding = decode(start, name, how.encoding) if start.strip() else ("", "")
                if how.delimiter is None and suffix not in records.BY_SUFFIX:
                    how = replace(how, delimiter=records.recognise(text[: text.rfind("\n") + 1] or text))
                if text:
                    delimiter = how.delimiter or records.BY_SUFFIX[suffix]
                    names, _place = records.read_header(text, name, delimiter)
                    commas = decimals.comma_columns(records.first_lines(text), names, delimiter, how.decimal)
            average = max(1, len(start) // max(1, start.count(b"\n")))
            size = max(_SAMPLE, average * self.rows)
            rest = b""
            while True:
                read_now = file.read(size)
                block = rest + read_now
                if not block.strip():
                    return
                end = _last_record(block, quotes=not lines) if read_now else len(block)
                block, rest = block[:end], block[end:]
                if block.strip():
                    yield lambda b=block, n=before: _table(  # type: ignore[misc]
                        header, b, n, name, how, suffix, commas
                    )
                before += block.count(b"\n")
                if not read_now:
                    return

    def _told(self, start: bytes, name: str) -> How:
        encoding = self.how.encoding
        if encoding == AUTO:
            encoding = recognise(start) or "utf-8"
        if encoding.lower().replace("utf8", "utf-8") not in SAFE:
            raise DataError(
                _("{encoding} can't be streamed").format(encoding=encoding), where=name,
                remedy=_("Save the file as UTF-8, or read it whole (stream: null)."),
            )  # fmt: skip
        return replace(self.how, encoding=encoding)


def _last_record(block: bytes, quotes: bool) -> int:
    """Where the last whole record ends; 0 where none does."""
    end = block.rfind(b"\n") + 1
    if not quotes or b'"' not in block:
        return end
    open_quotes = block.count(b'"', 0, end) % 2
    while end and open_quotes:
        earlier = block.rfind(b"\n", 0, end - 1) + 1
        open_quotes ^= block.count(b'"', earlier, end) % 2
        end = earlier
    return end


def _table(
    header: bytes, block: bytes, before: int, name: str, how: How, suffix: str, commas: tuple[str, ...]
) -> Table:
    """A block's table, its places counted from the file's beginning: `before` lines stand before the block."""
    before -= header.count(b"\n")
    try:
        if suffix in LINES:
            text, _encoding = decode(block, name, how.encoding)
            table = Table(*read_json(text, name, lines=True, absent=how.absent))
        else:
            table = read_delimited(header + block, name, how, suffix=suffix, commas=commas)
    except DataError as error:
        raise DataError(error.problem, where=_later(error.where or name, before), remedy=error.remedy) from error
    places = table.origin.places
    if isinstance(places, range):
        places = range(places.start + before, places.stop + before)
    elif places is not None:
        places = places + before
    return Table(table.columns, replace(table.origin, places=places))


def _later(where: str, lines: int) -> str:
    found = place_in(where, "line")
    if found is None:
        return where
    line, match = found
    return where[: match.start()] + placed("line", line + lines) + where[match.end() :]
