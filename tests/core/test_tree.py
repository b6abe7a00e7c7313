import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reinforge.core import tree
from reinforge.core.ragged import Ragged
from reinforge.core.sealed import Sealed
from reinforge.core.seeds import random_state, set_random_state
from reinforge.errors import ComponentError, IntegrityError
from reinforge.storage import strict_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
TREES = st.recursive(
    SCALARS | st.binary(max_size=9).map(lambda b: torch.tensor(list(b), dtype=torch.uint8)),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT | st.integers() | st.just("$tensor"), v, max_size=3),
    max_leaves=12,
)


def through(value):
    packed = tree.pack(value)
    skeleton = strict_json.parse(strict_json.compact(packed.skeleton), "here", depth=4 * tree.MAX_DEPTH)
    return tree.unpack(skeleton, {k: v.clone() for k, v in packed.tensors.items()}, packed.sealed)


def same(left, right):
    if isinstance(left, torch.Tensor | np.ndarray):
        return (
            type(left) is type(right)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and bool((left == right).all())
        )
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return type(right) is float and (repr(left) == repr(right))
    return type(left) is type(right) and left == right


@given(TREES)
def test_trees_come_back_exactly(value):
    assert same(value, through(value))


@pytest.mark.parametrize(
    "value", [2**53 + 1, -(2**63), 2**64 - 1, 2**64, -(2**200), math.inf, -math.inf, math.nan, -0.0, 5e-324]
)
def test_numbers_are_exact(value):
    assert same(value, through(value))


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        ">i4",
        ">f8",
    ],
)
def test_numpy_arrays_and_scalars_keep_dtype_and_shape(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for value in (array, array.T, array[::-1], array[:, ::2], array[:0], np.asarray(array[0, 0])):
        native = value.astype(value.dtype.newbyteorder("="))
        assert same(native, through({"a": value})["a"])
    scalar = through(array[1, 1])
    assert scalar == array[1, 1]
    assert isinstance(scalar, np.generic)
    assert scalar.dtype == array.dtype.newbyteorder("=")


def test_read_only_arrays_are_kept():
    array = np.arange(3)
    array.flags.writeable = False
    assert same(np.arange(3), through(array))


def test_tensors_of_every_layout():
    flat = torch.arange(12.0)
    for value in (
        flat.view(3, 4).t(),
        flat[::2],
        flat[3],
        torch.empty(0, 2),
        torch.ones(2, dtype=torch.complex128) * 1j,
        flat.bfloat16(),
    ):
        assert same(value, through([value])[0])


def test_ragged_and_sealed_and_complex():
    ragged = through({"r": Ragged.from_rows([torch.ones(2), torch.zeros(3)])})["r"]
    assert ragged.offsets.tolist() == [0, 2, 5]
    sealed = Sealed("part-1", {"a": torch.ones(2)})
    packed = tree.pack({"x": [sealed], "y": sealed})
    assert packed.sealed == {"part-1": sealed}
    assert packed.tensors == {}


def test_aliases_are_written_once_and_stay_aliases():
    weight = torch.randn(5, 5)
    packed = tree.pack({"embedding": weight, "head": weight, "view": weight[0], "transposed": weight.t()})
    assert len(packed.tensors) == 3
    restored = through({"embedding": weight, "head": weight})
    assert restored["embedding"].data_ptr() == restored["head"].data_ptr()


def test_names_that_collide_are_told_apart():
    value = {
        "a": {"b": torch.ones(1)},
        "a/b": torch.zeros(2),
        "__metadata__": torch.ones(3),
        1: torch.ones(4),
        "1": torch.ones(5),
    }
    assert same(value, through(value))


def test_random_state_survives():
    state = through(random_state())
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    set_random_state(state)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1.5: 1},
        {None: 1},
        {True: 1},
        {1, 2},
        b"bytes",
        np.array(["a"]),
        np.array([None]),
        np.ones(1, np.complex128),
        torch.eye(2).to_sparse(),
    ],
)
def test_what_can_not_be_saved_is_named(value):
    with pytest.raises(ComponentError, match="state/part"):
        tree.pack({"state": {"part": value}})


def test_too_deep_a_tree_is_refused():
    value = []
    for _ in range(100):
        value = [value]
    with pytest.raises(ComponentError, match="nested"):
        tree.pack(value)


@pytest.mark.parametrize(
    "skeleton",
    [
        {"$tensor": "missing"},
        {"$tensor": ["a"]},
        {"$pickle": "x"},
        {"$sealed": "x"},
        {"$int": "zz"},
        {"$int": 3},
        {"$float": "1"},
        {"$dict": [[1]]},
        {"$dict": 3},
        {"$dict": [[[], 1]]},
        {"$ragged": []},
        {"$ragged": [1, 2]},
        {"$complex": "a"},
        {"$array": "b"},
    ],
)
def test_malformed_skeletons_are_refused(skeleton):
    with pytest.raises(IntegrityError):
        tree.unpack({"x": [skeleton]}, {"a": torch.ones(3), "b": torch.ones(2).bfloat16()})
