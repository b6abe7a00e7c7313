"""A prepared folder holds what was prepared, bit for bit, and is mapped, not copied."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reinforge.core.ragged import Ragged
from reinforge.data.options import TableOptions
from reinforge.data.prepared import Prepared, prepare_table, save
from reinforge.data.store.folder import flat
from reinforge.errors import DataError, IntegrityError, RecipeError


def rows(count: int = 120) -> dict[str, object]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=count)
    return {
        "x": [None if i % 11 == 0 else float(v) for i, v in enumerate(x)],
        "c": generator.choice(["a", "b", " c"], count).tolist(),
        "words": [" ".join(generator.choice(["good", "bad", "fine", "poor"], 6)) + str(i) for i in range(count)],
        "y": np.where(x > 0, "p", "q").tolist(),
        "z": [None if i % 7 == 0 else float(v) for i, v in enumerate(generator.normal(size=count))],
    }


OPTIONS = TableOptions(
    targets={"y": {}, "z": {"missing": "mask"}},
    fields={"words": {"kind": "text"}},
    clean={"duplicates": "drop"},
)


def same(one: Prepared, other: Prepared) -> None:
    assert one.schema == other.schema
    assert one.pipeline.to_json() == other.pipeline.to_json()
    for side in ("train", "validation", "test"):
        left, right = (dict(flat(getattr(p, side))) for p in (one, other))
        assert left.keys() == right.keys()
        for name, leaf in left.items():
            for a, b in zip(parts(leaf), parts(right[name]), strict=True):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
        assert np.array_equal(getattr(one.rows, side), getattr(other.rows, side))
    assert (one.notes, one.changes, one.examples, one.digest) == (
        other.notes,
        other.changes,
        other.examples,
        other.digest,
    )
    for left, right in ((one.training, other.training), (one.held, other.held)):
        assert {n: s.to_list() for n, s in left.columns.items()} == {n: s.to_list() for n, s in right.columns.items()}


def parts(leaf: object) -> list[torch.Tensor]:
    return [leaf.values, leaf.offsets] if isinstance(leaf, Ragged) else [leaf]


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Prepared, Path]:
    prepared = prepare_table(OPTIONS, data=rows(), seed=3)
    save(prepared, tmp_path / "data", OPTIONS)
    return prepared, tmp_path / "data"


def test_what_was_prepared_comes_back(stored: tuple[Prepared, Path]) -> None:
    prepared, path = stored
    assert prepared.train["inputs"].keys() == {"numbers", "categories", "words"}
    assert prepared.train["valid"].keys() == {"z"}
    same(prepared, prepare_table(TableOptions(path=str(path), targets=["y", "z"]), seed=99))
    same(prepared, prepare_table(TableOptions(path="data", targets=["y", "z"]), base=path.parent))


def test_tensors_are_the_mapped_file(stored: tuple[Prepared, Path]) -> None:
    _prepared, path = stored
    again = prepare_table(OPTIONS.model_copy(update={"path": str(path)}))
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "train.arrow" in line]
    spans = [tuple(int(part, 16) for part in fields[0].split("-")) for fields in maps]
    for _name, leaf in flat(again.train):
        for tensor in parts(leaf):
            assert any(start <= tensor.data_ptr() < stop for start, stop in spans)
    again.train["inputs"]["numbers"].zero_()
    same(_prepared, prepare_table(OPTIONS.model_copy(update={"path": str(path)})))


def test_another_recipe_is_refused(stored: tuple[Prepared, Path]) -> None:
    _prepared, path = stored
    for changed, key in (
        ({"split": {"kind": "random"}}, "split"),
        ({"drop": ["x"]}, "drop"),
        ({"targets": ["z"]}, "targets"),
    ):
        options = TableOptions.model_validate(
            {"path": str(path), "targets": {"y": {}, "z": {"missing": "mask"}}} | changed
        )
        with pytest.raises(RecipeError, match=f"another `{key}`"):
            prepare_table(options)
    other = prepare_table(OPTIONS, data=rows(90)).pipeline
    with pytest.raises(RecipeError, match="another pipeline"):
        prepare_table(OPTIONS.model_copy(update={"path": str(path)}), pipeline=other)
    again = prepare_table(OPTIONS.model_copy(update={"path": str(path)}), pipeline=_prepared.pipeline)
    assert again.pipeline is _prepared.pipeline


@pytest.mark.parametrize("name", ["train.arrow", "data.json", "pipeline.safetensors", "raw.arrow", "rows.safetensors"])
def test_damage_is_found(stored: tuple[Prepared, Path], name: str) -> None:
    path = stored[1] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        prepare_table(OPTIONS.model_copy(update={"path": str(stored[1])}))


def test_names_with_slashes_are_refused(tmp_path: Path) -> None:
    prepared = prepare_table(
        TableOptions(targets=["a/b"]),
        data={"x": range(50), "a/b": [i % 2 for i in range(50)], "w": np.arange(50.0) ** 2},
    )
    with pytest.raises(DataError, match="slash"):
        save(prepared, tmp_path / "d", OPTIONS)
    assert not (tmp_path / "d").exists()
