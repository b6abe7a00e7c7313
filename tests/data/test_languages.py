"""Errors and notes about data are told in Chinese too, with their places, whole and in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from reinforge.data.chunks import pieces
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.values import place_in, placed
from reinforge.errors import DataError


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_places_are_found_again(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", language)
    for unit in ("line", "row", "element"):
        where = f"x (1).csv, {placed(unit, 17)}, c"
        found = place_in(where, unit)
        assert found is not None
        assert found[0] == 17
        assert where[found[1].start() : found[1].end()] == placed(unit, 17)
    assert place_in("x.csv", "line") is None


def test_a_bad_value_is_told_in_chinese_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    (tmp_path / "x.csv").write_text("a,y\n" + "".join(f"{i},{i * 0.5}\n" for i in range(30)) + "zehn,1\n")
    with pytest.raises(DataError) as caught:
        prepare_table(TableOptions(path="x.csv", targets=["y"]), base=tmp_path)
    assert caught.value.where == "x.csv, 第 32 行, 列 'a'"
    assert "不是数值" in caught.value.problem
    assert caught.value.remedy
    assert "请" in caught.value.remedy


def test_a_torn_record_has_its_line_in_pieces_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    (tmp_path / "x.csv").write_text("a,y\n" + "1,2\n" * 400_000 + "1,2,3\n")
    options = TableOptions(path="x.csv", targets=["y"], stream=1000)
    with pytest.raises(DataError) as caught:
        for _piece in pieces(options, tmp_path):
            pass
    assert caught.value.where == "x.csv, 第 400002 行"
