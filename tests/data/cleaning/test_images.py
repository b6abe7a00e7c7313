"""Pictures that can't be read among others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reinforge.data.cleaning.images import NAMED
from reinforge.data.options import TableOptions
from reinforge.data.prepared import Prepared, prepare_table
from reinforge.data.streaming import stream
from reinforge.errors import DataError, RecipeError

BAD = ("a/cut.jpg", "a/empty.png", "b/text.png")


def pictures(folder: Path) -> Path:
    """40 pictures of two labels, and three files that are none: cut off, empty, and a text."""
    generator = np.random.default_rng(0)
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02}.png")
    Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "a/cut.jpg")
    whole = (folder / "a/cut.jpg").read_bytes()
    (folder / "a/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "a/empty.png").write_bytes(b"")
    (folder / "b/text.png").write_text("no picture")
    return folder


def options(folder: Path, **more: Any) -> TableOptions:
    field = {"image": {"kind": "image", "size": [6, 6]}}
    return TableOptions.model_validate({"path": str(folder), "targets": ["label"], "fields": field, **more})


def leaves(prepared: Prepared) -> list[torch.Tensor]:
    sides = [prepared.train, prepared.validation, prepared.test]
    return [leaf for side in sides if side for part in side.values() for leaf in part.values()]


def test_by_default_the_first_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(cut\.jpg|empty\.png|text\.png)") as raised:
        prepare_table(options(pictures(tmp_path)))
    assert "data.clean.images=drop" in str(raised.value.remedy)


@pytest.mark.parametrize("piece", [None, 7])
def test_rows_are_left_out_and_told_and_nothing_else_changes(piece: int | None, tmp_path: Path) -> None:
    """What is left is prepared as a folder is that never held the others."""
    folder = pictures(tmp_path / "pictures")
    clean = shutil.copytree(folder, tmp_path / "clean")
    for name in BAD:
        (clean / name).unlink()
    if piece is None:
        found = prepare_table(options(folder, clean={"images": "drop"}), seed=3)
    else:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
        (folder / "table.csv").write_text("\n".join(["image,label", *(f"{name},{name[0]}" for name in names)]) + "\n")
        asked = options(folder / "table.csv", clean={"images": "drop"}, stream=piece)
        found = stream(asked, tmp_path / "out", seed=3)
    expected = prepare_table(options(clean), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True))
    (change,) = [change for change in found.changes if change.policy == "images"]
    assert (change.found, change.dropped, change.column) == (3, 3, "image")
    assert all(str(folder / name) in change.detail for name in BAD)
    assert any(str(folder / BAD[0]) in note for note in found.notes)
    # Rows are numbered as they were read: the three others stand among them.
    numbers = np.concatenate([found.rows.train, found.rows.validation, found.rows.test])
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
    assert sorted(set(range(43)) - set(numbers.tolist())) == [files.index(name) for name in BAD]


def test_files_that_are_not_there_are_such_too(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    names = [f"a/{number:02}.png" for number in range(20)] + [f"b/{number:02}.png" for number in range(20)]
    names += [f"gone/{number}.png" for number in range(NAMED + 2)]
    lines = ["image,label", *(f"{name},{name[0]}" for name in names), ",a"]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    field = {"image": {"kind": "image", "size": [6, 6], "missing": "blank"}}
    found = prepare_table(options(folder / "table.csv", clean={"images": "drop"}, fields=field))
    (change,) = [change for change in found.changes if change.policy == "images"]
    # An image that is missing is the field's affair.
    assert change.dropped == NAMED + 2
    assert change.detail.endswith(", and 2 more")
    assert "gone/0.png" in change.detail
    assert len(found.rows.train) + len(found.rows.validation) + len(found.rows.test) == 41


def test_a_broken_link_is_such_a_file(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("RGB", (6, 6), (number, 0, ord(label))).save(tmp_path / label / f"{number}.png")
    (tmp_path / "a/link.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"link\.png.*there is no such file"):
        prepare_table(options(tmp_path))
    found = prepare_table(options(tmp_path, clean={"images": "drop"}))
    assert [change.dropped for change in found.changes if change.policy == "images"] == [1]


def test_a_folder_of_pictures_is_not_read_in_pieces(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="read whole"):
        stream(options(pictures(tmp_path / "pictures"), stream=7), tmp_path / "out")


def test_none_is_left(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_text("no picture")
    lines = ["image,label", *(f"{number}.png,{number % 2}" for number in range(3))]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="no image can be read") as raised:
        prepare_table(options(tmp_path / "table.csv", clean={"images": "drop"}))
    assert "0.png" in str(raised.value)
