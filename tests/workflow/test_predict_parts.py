"""Predictions of large tables: piece by piece, and on from where it was interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from reinforge.errors import DataError, StorageError
from reinforge.workflow import predict_parts
from reinforge.workflow.predict import Written, predict
from tests.bundle import made
from tests.near import near

SUFFIXES = ("csv", "jsonl", "parquet", "arrow")
COUNT = 50


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made.table_bundle(tmp_path_factory.mktemp("predict") / "bundle")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as large, here: pieces of 12 rows."""
    monkeypatch.setattr(predict_parts, "LARGE", 1)
    monkeypatch.setattr(predict_parts, "ROWS", 12)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pl.DataFrame(made.rows(COUNT, seed=3)).write_parquet(path)
    return path


def _read(path: Path) -> Any:
    match path.suffix:
        case ".csv":
            return pl.read_csv(path).to_dicts()
        case ".parquet":
            return pl.read_parquet(path).to_dicts()
        case ".arrow":
            return pl.read_ipc(path).to_dicts()
    return [json.loads(line) for line in path.read_text().splitlines()]


def _whole(table: Any, data: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(predict_parts, "LARGE", 1 << 40)
        predict(table, data, output=tmp_path / f"whole.{suffix}")
    return _read(tmp_path / f"whole.{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_as_at_once(
    table: Any, data: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(table, data, output=tmp_path / f"out.{suffix}") == Written(COUNT, tmp_path / f"out.{suffix}")
    assert near(_read(tmp_path / f"out.{suffix}"), _whole(table, data, suffix, tmp_path, monkeypatch))
    assert not (tmp_path / f"out.{suffix}.parts").exists()


def test_several_files_and_text(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern of CSV files, each larger than what is read at once."""
    frame = pl.DataFrame(made.rows(40_000, seed=3))
    for number in range(2):
        frame.write_csv(tmp_path / f"part{number}.csv")
    assert (tmp_path / "part0.csv").stat().st_size > 1 << 20
    heard: list[float] = []

    class Told:
        def update(self, done: float, total: float | None, note: str = "") -> None:
            heard.append(done)

    written = predict(table, str(tmp_path / "part*.csv"), output=tmp_path / "out.parquet", progress=Told())
    assert len(written) == 80_000
    assert len(heard) >= 4
    assert heard[-1] == 80_000
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found[:40_000].equals(found[40_000:])
    expected = [row["price"]["value"] for row in table.predict(frame.to_dicts()[:5])]
    assert found["price"][:5].to_list() == pytest.approx(expected)


class _Interrupted(BaseException):
    pass


def _interrupted(table: Any, data: Path, output: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin, and be killed after so many pieces."""
    real, done = type(table).predictions, 0

    def predictions(self: Any, part: Any) -> Any:
        nonlocal done
        if done == after:
            raise _Interrupted
        done += 1
        return real(self, part)

    with monkeypatch.context() as patched:
        patched.setattr(type(table), "predictions", predictions)
        with pytest.raises(_Interrupted):
            predict(table, data, output=output)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_goes_on(table: Any, data: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / f"out.{suffix}"
    output.write_text("old")
    _interrupted(table, data, output, 3, monkeypatch)
    assert output.read_text() == "old"
    # Half a part, as a full disk or a kill may leave it, is none.
    (tmp_path / f"out.{suffix}.parts" / ".tmp-half").write_text("x")
    _interrupted(table, data, output, 1, monkeypatch)
    assert predict(table, data, output=output) == Written(COUNT, output, found=48)
    assert near(_read(output), _whole(table, data, suffix, tmp_path, monkeypatch))
    assert not (tmp_path / f"out.{suffix}.parts").exists()


@pytest.mark.parametrize("changed", ["data", "bundle"])
def test_what_belongs_to_others_is_not_gone_on_with(
    table: Any, data: Path, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    _interrupted(table, data, output, 2, monkeypatch)
    if changed == "data":
        pl.DataFrame(made.rows(COUNT, seed=4)).write_parquet(data)
        os.utime(data, (1, 1))
    else:
        monkeypatch.setattr(type(table), "digest", "sha256:" + "0" * 64)
    assert predict(table, data, output=output).found == 0
    assert near(_read(output), table.predict(pl.read_parquet(data).to_dicts()))


def test_a_bad_row_leaves_nothing(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [*made.rows(20_000), {"size": 1, "mass": "heavy", "island": "Dream"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl, line 20001"):
        predict(table, path, output=tmp_path / "out.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize("how", ["carriage returns", "utf-16", "header over lines", "in memory", "own code"])
def test_what_cannot_be_read_in_pieces_is_read_whole(
    table: Any, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made.rows(20, seed=3)
    text = pl.DataFrame(rows).write_csv()
    path = tmp_path / "rows.csv"
    if how == "carriage returns":
        path.write_bytes(text.replace("\n", "\r").encode())
    elif how == "utf-16":
        path.write_text(text, "utf-16")
    elif how == "header over lines":
        path.write_text(text.replace("price", '"pri\nce"', 1))
    else:
        path.write_text(text)
    bundle = made.table_bundle(tmp_path / "own")
    if how == "in memory":
        bundle.folder = None
    more: Any = {"modules": {}} if how == "own code" else {}
    if how == "own code":
        _interrupted(bundle, path, tmp_path / "out.jsonl", 0, monkeypatch)
    found = predict(bundle, path, output=tmp_path / "out.jsonl", **more)
    assert (len(found), found.found) == (20, 0)
    assert near(_read(tmp_path / "out.jsonl"), table.predict(rows))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_without_rows(table: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    frame = pl.DataFrame(made.rows(2)).clear()
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    with pytest.raises(DataError, match="no row"):
        predict(table, path, output=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_folder_of_somebody_else_stays(table: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "mine").write_text("x")
    with pytest.raises(StorageError, match="another folder"):
        predict(table, data, output=tmp_path / "out.csv")
    assert (tmp_path / "out.csv.parts" / "mine").read_text() == "x"
