import hashlib
import json
import tracemalloc

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reinforge.core import tensor_files
from reinforge.errors import ComponentError, IntegrityError
from reinforge.storage.tensor_header import MAX_HEADER


def write(path, tensors):
    path.write_bytes(b"".join(bytes(chunk) for chunk in tensor_files.chunks(tensors)))
    return path


def same(left, right):
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and tensor_files.digest(left) == tensor_files.digest(right)
    )


def examples():
    flat = torch.randn(64)
    tensors = {
        "view": flat[8:24].view(4, 4),
        "other view": flat[24:40].view(2, 8),
        "transposed": flat.view(8, 8).t(),
        "strided": flat[::3],
        "expanded": flat[:1].expand(5, 7),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    }
    tensors["empty from numpy"] = torch.from_numpy(np.array([], dtype=np.int64))
    for dtype in tensor_files.DTYPES.values():
        values = torch.randint(0, 2, (3, 5))
        tensors[str(dtype)] = values.to(dtype)
    return tensors


def test_files_agree_with_the_safetensors_library(tmp_path):
    tensors = examples()
    ours, _size, _digest = tensor_files.read(write(tmp_path / "a", tensors))
    theirs = safetensors.torch.load_file(write(tmp_path / "b", tensors))
    safetensors.torch.save_file(
        {n: t.detach().resolve_conj().clone().contiguous() for n, t in tensors.items()}, tmp_path / "c"
    )
    back, _size, _digest = tensor_files.read(tmp_path / "c")
    for name, tensor in tensors.items():
        assert same(ours[name], tensor)
        assert same(theirs[name], tensor)
        assert same(back[name], tensor)


def test_the_digest_is_that_of_the_file(tmp_path):
    path = write(tmp_path / "a", examples())
    _tensors, size, digest = tensor_files.read(path)
    assert (size, digest) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "tensor", [torch.empty(3, device="meta"), torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex128)]
)
def test_what_the_format_can_not_hold_is_refused(tensor):
    with pytest.raises(ComponentError, match="saved"):
        list(tensor_files.chunks({"a": tensor}))


def hostile(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"{}", b"", 1 << 60),
        (b"{}", b"", MAX_HEADER + 1),
        (b"", b"", 0),
        ({"a": entry([1 << 40], 0, 4)}, b"0000", None),
        ({"a": entry([1 << 61, 8], 0, 0)}, b"", None),
        ({"a": entry([1 << 40], 0, 1 << 42)}, b"0000", None),
        ({"a": entry([-1], 0, 4)}, b"0000", None),
        ({"a": entry([1.0], 0, 4)}, b"0000", None),
        ({"a": entry([True], 0, 4)}, b"0000", None),
        ({"a": entry([1] * 40, 0, 4)}, b"0000", None),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"0000", None),
        ({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"000000", None),
        ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"0" * 12, None),
        ({"a": entry([1], 4, 8)}, b"0" * 8, None),
        ({"a": entry([1], 0, 4)}, b"0" * 8, None),
        ({"a": entry([1], 4, 0)}, b"0" * 4, None),
        ({"a": entry([1], 0, 4, "PICKLE")}, b"0000", None),
        ({"a": entry([1], 0, 4, ["F32"])}, b"0000", None),
        ({"a": entry([4], 0, 4, "BOOL")}, b"\0\1\2\0", None),
        ({"a": [1]}, b"", None),
        ({"a": {**entry([1], 0, 4), "more": 1}}, b"0000", None),
        ({"__metadata__": {"a": 1}}, b"", None),
        (b'{"a":{},"a":{}}', b"", None),
        (b"[" * 1000, b"", None),
        (b"[]", b"", None),
        (b"\xff\xff", b"", None),
    ],
)
def test_hostile_files_are_refused_in_little_memory(tmp_path, header, data, length):
    path = hostile(tmp_path / "a", header, data, length)
    tracemalloc.start()
    with pytest.raises(IntegrityError):
        tensor_files.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_huge_sparse_file_with_a_wrong_header_is_not_read(tmp_path):
    path = hostile(tmp_path / "a", {"a": entry([1], 0, 4)}, b"0000")
    with open(path, "r+b") as file:
        file.truncate(1 << 42)
    with pytest.raises(IntegrityError, match="end at byte"):
        tensor_files.read(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_damaged_files_are_refused_or_read_safely(tmp_path, position, value, cut):
    content = bytearray(
        b"".join(bytes(c) for c in tensor_files.chunks({"a": torch.ones(3), "b": torch.zeros(2).bool()}))
    )
    content[position % len(content)] = value
    path = tmp_path / "a"
    path.write_bytes(content[: cut % (2 * len(content)) + 1])
    try:
        tensors, _size, _digest = tensor_files.read(path)
    except IntegrityError:
        return
    assert sum(t.nbytes for t in tensors.values()) <= len(content)


def test_a_mapped_file_gives_the_same_and_is_never_written(tmp_path):
    tensors = examples()
    path = write(tmp_path / "a", tensors)
    before = path.read_bytes()
    for name, tensor in tensor_files.read(path, mapped=True)[0].items():
        assert same(tensor, tensors[name])
        tensor.zero_()
    assert path.read_bytes() == before
    assert tensor_files.read(path, mapped=True)[1:] == (len(before), hashlib.sha256(before).hexdigest())
    write(tmp_path / "empty", {})
    assert tensor_files.read(tmp_path / "empty", mapped=True)[0] == {}
    held = tensor_files.read(path, mapped=True)[0]["other view"]
    path.unlink()
    assert same(held, tensors["other view"])
