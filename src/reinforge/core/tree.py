"""State trees as a JSON skeleton and named tensors; never pickle.

Leaves: tensors, numpy arrays and scalars, `Ragged`, `Sealed`, None, bool, int (of any size), float (exact, inf and nan
too), str. Tuples come back as lists. Dictionaries may have text and integers as keys. Aliases within a tree (one tensor
under two names) are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.core.sealed import Sealed
from reinforge.core.tensor_files import supported
from reinforge.errors import ComponentError, IntegrityError
from reinforge.storage.strict_json import Json

MAX_DEPTH = 48
_WORD = 1 << 63


@dataclass
class Packed:
    """A tree taken apart. `sealed` holds the sealed parts by name; the skeleton only names them."""

    skeleton: Json = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sealed: dict[str, Sealed] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], str] = field(default_factory=dict)


def pack(tree: Any) -> Packed:
    """Take a tree apart. Tensors are not copied. Raises ComponentError naming the leaf that can't be saved."""
    packed = Packed()
    packed.skeleton = _pack(tree, (), packed)
    return packed


def unpack(skeleton: Json, tensors: Mapping[str, Tensor], sealed: Mapping[str, Sealed] | None = None) -> Any:
    """Put a tree together again. Raises IntegrityError where the skeleton is malformed or names what is not there."""
    return _unpack(skeleton, tensors, sealed or {})


def _pack(value: Any, path: tuple[str, ...], packed: Packed) -> Json:
    if len(path) > MAX_DEPTH:
        raise ComponentError(f"a state is nested deeper than {MAX_DEPTH} levels", where="/".join(path)[:200])
    if isinstance(value, np.generic):
        return {"$scalar": _array(np.asarray(value), path, packed)}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if -_WORD <= value < 2 * _WORD else {"$int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, Tensor):
        return _tensor(value, path, packed)
    if isinstance(value, np.ndarray):
        return {"$array": _array(value, path, packed)}
    if isinstance(value, Ragged):
        parts = {"values": value.values, "offsets": value.offsets}
        return {"$ragged": [_pack(part, (*path, name), packed) for name, part in parts.items()]}
    if isinstance(value, Sealed):
        standing = packed.sealed.setdefault(value.name, value)
        if standing is not value and dict(standing.tensors) != dict(value.tensors):
            raise ComponentError(f"two sealed parts are called {value.name!r}", where="/".join(path))
        return {"$sealed": value.name}
    if isinstance(value, list | tuple):
        return [_pack(item, (*path, str(i)), packed) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _mapping(value, path, packed)
    kind = type(value)
    raise ComponentError(f"{kind.__module__}.{kind.__qualname__} can't be saved in a state", where="/".join(path))


def _mapping(value: Mapping[Any, Any], path: tuple[str, ...], packed: Packed) -> Json:
    for key in value:
        if type(key) not in (str, int):
            raise ComponentError(f"{key!r} can't be a key in a state", where="/".join(path), remedy="Use text.")
    items = [(key, _pack(item, (*path, str(key)), packed)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(items)
    return {"$dict": [list(item) for item in items]}


def _tensor(value: Tensor, path: tuple[str, ...], packed: Packed) -> Json:
    stored = torch.view_as_real(value.detach().resolve_conj()) if value.dtype == torch.complex128 else value.detach()
    if not supported(stored):
        raise ComponentError(f"a {value.dtype} {value.layout} tensor can't be saved", where="/".join(path))
    name = _name(stored, path, packed)
    return {"$complex": name} if value.dtype == torch.complex128 else {"$tensor": name}


def _array(value: np.ndarray[Any, Any], path: tuple[str, ...], packed: Packed) -> Json:
    if value.dtype.kind not in "biufc" or value.dtype.itemsize > 8 or value.dtype == np.complex128:
        raise ComponentError(f"a numpy array of {value.dtype} can't be saved", where="/".join(path))
    # Read-only and foreign-endian arrays, and negative strides, are copied: torch can't view them.
    native = value.astype(value.dtype.newbyteorder("="), order="C", copy=False)
    if not native.flags.writeable or any(step < 0 for step in native.strides):
        native = native.copy()
    return _name(torch.from_numpy(native), path, packed)


def _name(tensor: Tensor, path: tuple[str, ...], packed: Packed) -> str:
    key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    if tensor.numel() and key in packed._known:
        return packed._known[key]
    name = stem = "/".join(path) or "value"
    number = 1
    while name in packed.tensors or name == "__metadata__":
        name, number = f"{stem}#{number}", number + 1
    packed.tensors[name] = tensor
    packed._known[key] = name
    return name


def _unpack(value: Json, tensors: Mapping[str, Tensor], sealed: Mapping[str, Sealed]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors, sealed) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: _unpack(item, tensors, sealed) for key, item in value.items()}
    try:
        return _tagged(tag, value[tag], tensors, sealed)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise IntegrityError(f"a state has a malformed {tag[:40]!r}: {str(error)[:200]}") from None


def _tagged(tag: str, value: Json, tensors: Mapping[str, Tensor], sealed: Mapping[str, Sealed]) -> Any:
    match tag:
        case "$tensor":
            return tensors[value]
        case "$complex":
            return torch.view_as_complex(tensors[value])
        case "$array":
            return tensors[value].numpy()
        case "$scalar":
            return tensors[value].numpy()[()]
        case "$ragged":
            values, offsets = (_unpack(part, tensors, sealed) for part in value)
            if not isinstance(values, Tensor) or not isinstance(offsets, Tensor):
                raise TypeError("its parts are no tensors")
            return Ragged(values, offsets)
        case "$sealed":
            return sealed[value]
        case "$int":
            return int(value, 16)
        case "$float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[value]
        case "$dict":
            return {key: _unpack(item, tensors, sealed) for key, item in value}
    raise KeyError("unknown tag")
