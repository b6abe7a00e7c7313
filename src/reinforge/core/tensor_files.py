"""Safetensors files, written as a stream with their digest and read once, checked."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reinforge.errors import ComponentError, IntegrityError
from reinforge.storage.files import open_regular, read_into
from reinforge.storage.folder import Folder
from reinforge.storage.tensor_header import Entry, build_header, header_length, parse_header

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32, "U64": torch.uint64,
    "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def supported(tensor: Tensor) -> bool:
    """Whether a tensor can be written: dense, with storage, of a dtype the format knows."""
    return tensor.dtype in _NAMES and tensor.layout == torch.strided and tensor.device.type != "meta"


def chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece.

    Views of a shared buffer, non-contiguous tensors and tensors on any device are written as what they show; at most
    one tensor is copied at a time. Raises ComponentError for a tensor the format can't hold.
    """
    for name, tensor in tensors.items():
        if not supported(tensor):
            raise ComponentError(f"a {tensor.dtype} {tensor.layout} tensor can't be saved", where=name)
    header, order = build_header({name: (_NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()})
    yield header
    for name in order:
        yield raw_bytes(tensors[name]).data


def raw_bytes(tensor: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A tensor's elements as bytes, row by row; a view where its memory is laid out so already."""
    if tensor.numel() == 0:  # its strides may be anything, which `view` refuses
        return np.empty(0, np.uint8)
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.stride(0) != 1:
        # A single element counts as contiguous whatever its stride.
        flat = flat.clone(memory_format=torch.contiguous_format)
    array: np.ndarray[tuple[int], np.dtype[np.uint8]] = flat.view(torch.uint8).numpy()
    return array


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and elements."""
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.sha256(head + raw_bytes(tensor).tobytes()).hexdigest()


def read(path: Path, *, mapped: bool = False) -> tuple[dict[str, Tensor], int, str]:
    """Tensors by name, the file's size and its SHA-256. The file is read once, into memory that the tensors share.

    `mapped`: that memory is the file itself, where the system lets go of mapped files; writing does not change it.
    Raises IntegrityError before anything is allocated where the header does not fit the file, StorageError where it
    can't be read.
    """
    where = str(path)
    with open_regular(path) as (descriptor, size):
        prefix = bytearray(min(8, size))
        read_into(descriptor, memoryview(prefix), path)
        header = bytearray(header_length(bytes(prefix), size, where))
        read_into(descriptor, memoryview(header), path)
        entries = parse_header(bytes(prefix), bytes(header), size, where)
        start = 8 + len(header)
        # Elsewhere a mapped file could not be removed.
        if mapped and os.name == "posix" and size > start:
            data = torch.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY), dtype=torch.uint8)[start:]
        else:
            data = torch.empty(size - start, dtype=torch.uint8)
            read_into(descriptor, data.numpy().data, path)
    hashed = hashlib.sha256(prefix + header)
    hashed.update(data.numpy().data)
    return {name: _tensor(name, entry, data, start, where) for name, entry in entries.items()}, size, hashed.hexdigest()


def read_checked(folder: Folder, name: str, *, mapped: bool = False) -> dict[str, Tensor]:
    """Tensors of a committed folder's file, checked against its manifest."""
    tensors, size, hashed = read(folder.path / name, mapped=mapped)
    folder.check(name, size, hashed)
    return tensors


def _tensor(name: str, entry: Entry, data: Tensor, start: int, where: str) -> Tensor:
    dtype = DTYPES[entry.dtype]
    raw = data[entry.begin - start : entry.end - start]
    if dtype is torch.bool and bool((raw > 1).any()):
        raise IntegrityError(f"the tensor {name[:80]!r} has truth values other than 0 and 1", where=where)
    if raw.numel() == 0:
        return torch.empty(entry.shape, dtype=dtype)
    if raw.data_ptr() % dtype.itemsize or raw.storage_offset() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).reshape(entry.shape)
