"""Compressed tables, held to the same tables as they are."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from reinforge.data.readers import read
from reinforge.errors import DataError


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_compressed_tables(suffix: str, tmp_path: Path) -> None:
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    path = tmp_path / f"table.csv{suffix}"
    path.write_bytes(pack(b"a,b\n1,x\n2,y\n"))
    plain = tmp_path / "table.csv"
    plain.write_bytes(b"a,b\n1,x\n2,y\n")
    found, expected = read(str(path)), read(str(plain))
    assert {name: list(column) for name, column in found.columns.items()} == {
        name: list(column) for name, column in expected.columns.items()
    }
    path.write_bytes(pack(b"a,b\n1,x\n" * 100)[:30])
    with pytest.raises(DataError, match="unpacked"):
        read(str(path))
