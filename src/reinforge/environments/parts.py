"""Parts of observations as rows bring them: checked, and made what a policy takes. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from reinforge.environments.images import Scaling, Shape, channels_last, fits, image_shape
from reinforge.errors import DataError, IntegrityError

if TYPE_CHECKING:
    from reinforge.schema.fields import Box
    from reinforge.schema.signature import Input

Array = np.ndarray[Any, Any]


class Part:
    """One part of an observation: what values it takes, and the tensor it becomes."""

    def __init__(self, box: Box, block: Input) -> None:
        self.box, self.block, self.name = box, block, box.name
        self.channels_last = False
        self.image: tuple[int, ...] = ()
        self.scaling: Scaling | None = None
        size = int(np.prod(box.shape, dtype=np.int64))
        lowest = box.low if isinstance(box.low, tuple) else (box.low,) * size
        match block.form:
            case "box":
                sound = block.shape == box.shape
            case "image":
                given = image_shape(box.shape) if box.dtype == "uint8" else None
                sound = given is not None and len(block.shape) == 3 and fits(given, block.shape)
                if given is not None and sound:
                    self.image, self.channels_last = given, channels_last(box.shape)
                    self.scaling = Scaling(given, cast(Shape, block.shape)) if given != block.shape else None
            case "categories":
                sound = len(block.sizes) == size and all(abs(first or 0) < 2**62 for first in lowest)
            case _:
                sound = False
        if not sound:
            raise IntegrityError("the schema and the model do not fit each other", where="schema.json")
        # A choice is a whole number between the first and the last.
        chosen = block.form == "categories"
        self.first: Array = np.array([(chosen and first) or 0 for first in lowest], dtype=np.int64).reshape(box.shape)
        self.sizes: Array = np.array(block.sizes, dtype=np.int64).reshape(box.shape if block.sizes else (0,))

    def checked(self, value: object, shape: tuple[int, ...], where: str) -> Array:
        """An array of that shape. Raises DataError where it is none, or holds what the part can't be."""
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if array.dtype.kind not in "fiu" or array.shape != shape:
            raise DataError(f"it is no array of numbers of shape {shape}", where=where)
        if not np.isfinite(array).all():
            raise DataError("an observation holds NaN or infinity", where=where)
        if self.block.form == "categories":
            last = self.first + self.sizes - 1
            if array.dtype.kind == "f" or ((array < self.first) | (array > last)).any():
                raise DataError(f"it is no whole number from {_said(self.first)} to {_said(last)}", where=where)
        elif self.box.dtype == "uint8" and (array.dtype.kind == "f" or ((array < 0) | (array > 255)).any()):
            raise DataError("it holds something else than whole numbers from 0 to 255", where=where)
        elif array.size and float(np.abs(array).max()) > float(np.finfo(np.float32).max):
            raise DataError("a number does not fit 32 bits", where=where)
        return array

    def array(self, array: Array) -> Array:
        """What the model takes, from (n, *box.shape)."""
        if self.block.form == "categories":
            return (array.astype(np.int64) - self.first).reshape(len(array), -1)
        dtype = np.uint8 if self.box.dtype == "uint8" else np.float32
        if self.channels_last:
            array = np.moveaxis(array, -1, 1)
        if self.scaling is not None:
            array = self.scaling(np.ascontiguousarray(array, dtype=dtype).reshape(len(array), *self.image))
        return np.ascontiguousarray(array, dtype=dtype).reshape(len(array), *self.block.shape)


def numbers_of_shape(value: object, shape: tuple[int, ...], where: str) -> Array:
    """A finite array of numbers of that shape. Raises DataError."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "fiub" or array.shape != shape:
        raise DataError(f"it is no array of numbers of shape {shape}", where=where)
    if not np.isfinite(array).all() or (array.size and np.abs(array).max() > np.finfo(np.float32).max):
        raise DataError("it holds NaN, infinity or a number that does not fit 32 bits", where=where)
    return array


def _said(bound: Array) -> str:
    return str(bound.tolist() if bound.ndim else int(bound))
