"""Tables in compressed files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any

from reinforge.errors import DataError
from reinforge.messages import _

UNPACK: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# A small file can be made to grow without end.
MAX_BYTES = 4 << 30


def unpack(path: Path, name: str) -> bytes:
    """What a compressed file holds. Raises DataError where it is damaged or holds too much, OSError where it can't be
    read."""
    try:
        with UNPACK[path.suffix.lower()](path) as content:
            raw: bytes = content.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError) as error:
        raise DataError(_("it can't be unpacked: {reason}").format(reason=error), where=name) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(_("it can't be unpacked: {reason}").format(reason=error), where=name) from error
    if len(raw) > MAX_BYTES:
        raise DataError(_("it holds more than {size} bytes").format(size=f"{MAX_BYTES:,}"), where=name)
    return raw
