"""Planned Arrow files against pyarrow and polars, which read the same from them."""

from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data.store.arrow import DTYPES, Column, create, mapped, plan
from reinforge.errors import IntegrityError


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Column], int]:
    rows = draw(st.integers(0, 9))
    columns = []
    for index in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
        total = draw(st.none() | st.integers(0, 12)) if rows else None
        columns.append(Column(f"inputs/c{index}é", draw(st.sampled_from(sorted(DTYPES))), shape, total))
    return columns, rows


@given(layouts(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_other_libraries_read_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, layout: tuple[list[Column], int], seed: int
) -> None:
    columns, rows = layout
    path: Path = tmp_path_factory.mktemp("arrow") / "t.arrow"
    generator = np.random.default_rng(seed)
    planned = plan(columns, rows)
    create(path, planned)
    expected: dict[str, list[object]] = {}
    for column in columns:
        count = rows if column.total is None else column.total
        values = generator.integers(0, 100, (count, *column.shape)).astype(column.dtype)
        flat = values.reshape(count, prod(column.shape)) if column.shape else values
        places = mapped(path, planned, "r+")
        places[column.name][...] = values
        expected[column.name] = flat.tolist()
        if column.total is not None:
            borders = np.sort(generator.integers(0, count + 1, rows - 1))
            offsets = np.concatenate([[0], borders, [count]])
            places[f"{column.name}/offsets"][...] = offsets
            expected[column.name] = [flat[a:b].tolist() for a, b in pairwise(offsets)]
        for place in places.values():
            if isinstance(place, np.memmap):
                place.flush()
    table = pyarrow.ipc.open_file(str(path)).read_all()
    table.validate(full=True)
    assert table.to_pydict() == expected
    assert {name: series.to_list() for name, series in pl.read_ipc(path).to_dict().items()} == expected
    assert all(place.ctypes.data % 64 == 0 for place in mapped(path, planned).values() if isinstance(place, np.memmap))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    create(path, plan([Column("a", "float32", (3,))], 4))
    for other in (plan([Column("a", "float32", (3,))], 5), plan([Column("b", "float32", (3,))], 4)):
        with pytest.raises(IntegrityError, match="not laid out"):
            mapped(path, other)
    with pytest.raises(IntegrityError, match="no complex64"):
        plan([Column("a", "complex64")], 1)


def test_what_is_written_into_a_mapping_stays_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    planned = plan([Column("a", "int64")], 3)
    create(path, planned)
    mapped(path, planned)["a"][:] = 7
    assert mapped(path, planned)["a"].tolist() == [0, 0, 0]
