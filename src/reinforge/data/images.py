"""Images as arrays of bytes: one decoding for training and serving, files and requests alike.

What is pinned, so that a picture gives the same bytes everywhere, alone or in a batch:

- EXIF orientation is applied; unreadable EXIF is ignored. Colour profiles are ignored.
- Colours are red, green, blue. Palettes and CMYK are converted to them; transparency is laid over white. Grey becomes
  three equal channels, colour becomes grey as 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
- Of 16 bits the upper 8 are kept. Pixels of floating point have no stated range, and are refused.
- Resizing is bilinear over the area that a new pixel covers (antialiased), in integers, by Pillow.
- Of an animation, or a file of several pages, the first is taken; `animated` tells them.
- More than `MAX_PIXELS` pixels, or a format other than `FORMATS`, are refused before anything is decoded.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import mmap
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from reinforge.errors import DataError, StorageError
from reinforge.messages import _

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
Resize = Literal["stretch", "crop", "pad"]
# An encoded file, where one lies, base64 or a data URL (never a path: requests hold texts), or the pixels themselves.
Source = bytes | Path | str | Pixels | Sequence[Any]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 64_000_000
# Decoded images beyond this lie in a file that is mapped into memory.
MAPPED_BYTES = 1 << 30
# What Pillow's readers raise for damaged files.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, AttributeError,
    NotImplementedError, struct.error, zlib.error,
)  # fmt: skip
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class UnreadableImage(DataError):
    """An image that can't be read: its file is not there, is none, is damaged, or is larger than is allowed."""


def decode(
    source: Source,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    resize: Resize = "stretch",
    *,
    where: str | None = None,
) -> Pixels:
    """One image as uint8 (channels, height, width) of `size` = (height, width).

    Pixels are uint8 (height, width) or (height, width, 1, 3 or 4), or nested lists of them. `resize`: stretch changes
    the proportions; crop keeps them, and the middle; pad keeps them, and fills up with black. Raises DataError that
    names the file, or `where` for what has no name.
    """
    place = where or (str(source) if isinstance(source, Path) else "image")
    if isinstance(source, str):
        source = from_base64(source, place)
    image = _opened(source, place) if isinstance(source, (bytes, Path)) else Image.fromarray(pixels(source, place))
    fitted = _fit(_coloured(image, channels, place), size, resize)
    array: Pixels = np.asarray(fitted, np.uint8)
    return array[None].copy() if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def unreadable(sources: Sequence[Source], threads: int | None = None) -> list[tuple[int, UnreadableImage]]:
    """Those of some images that `decode` can't read, by their places, each with its error. Several threads decode."""

    def error(place: int) -> tuple[int, UnreadableImage] | None:
        try:
            decode(sources[place], (1, 1), 1)
        except UnreadableImage as found:
            return place, found
        return None

    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        return [found for found in pool.map(error, range(len(sources))) if found is not None]


def decode_all(
    sources: Sequence[Source] | Pixels,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    resize: Resize = "stretch",
    *,
    where: Callable[[int], str] | None = None,
    threads: int | None = None,
    mapped_bytes: int = MAPPED_BYTES,
) -> Tensor:
    """Images as one tensor, uint8 (n, channels, height, width): each as `decode` gives it, several threads at once.

    More than `mapped_bytes` lie in a temporary file that is mapped into memory and gone with the tensor. Raises the
    DataError of the first image that has one.
    """
    import torch

    return torch.from_numpy(
        arrays(sources, size, channels, resize, where=where, threads=threads, mapped_bytes=mapped_bytes)
    )


def arrays(
    sources: Sequence[Source] | Pixels,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    resize: Resize = "stretch",
    *,
    where: Callable[[int], str] | None = None,
    threads: int | None = None,
    mapped_bytes: int = MAPPED_BYTES,
) -> Pixels:
    """The same as an array."""
    out = empty((len(sources), channels, *size), mapped_bytes)

    def some(rows: range) -> None:
        for row in rows:
            place = where(row) if where else None
            out[row] = decode(sources[row], size, channels, resize, where=place)

    workers = min(threads or usable_cores(), max(1, len(sources) // 8))
    if workers == 1:
        some(range(len(sources)))
    else:
        # In blocks: a task per image would cost as much as decoding a small one.
        blocks = [range(i, min(i + 32, len(sources))) for i in range(0, len(sources), 32)]
        with ThreadPoolExecutor(workers) as pool:
            # In order, so that the error is that of the first image that has one.
            deque(pool.map(some, blocks), 0)
    return out


def animated(source: object) -> bool:
    """Whether a file (its bytes, or where it lies) has several frames or pages, as its header tells; False for anything
    else, and for what can't be read."""
    if not isinstance(source, (bytes, Path)):
        return False
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS) as image:
            # A phone's photograph with a preview (MPO) is one picture.
            return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *_DAMAGED):
        return False


def animations(sources: Iterable[object], name: str) -> list[str]:
    """A note on the column `name` where some of its files are animated; else none."""
    found = [source for source in sources if animated(source)]
    if not found:
        return []
    first = _(", {path} the first of them").format(path=found[0]) if isinstance(found[0], Path) else ""
    told = _("images of {name!r} with several frames or pages: {n}{first}; of each the first frame is taken")
    return [told.format(name=name, n=len(found), first=first)]


def empty(shape: tuple[int, ...], mapped_bytes: int = MAPPED_BYTES) -> Pixels:
    """An array of zeros: in memory, or beyond `mapped_bytes` in a temporary file mapped into memory.

    Raises StorageError where there is no room for it.
    """
    total = math.prod(shape)
    if total <= mapped_bytes:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        try:
            # All of it at once: a hole that can't be filled later would kill the process.
            _allocate(file.fileno(), total)
        except OSError as error:
            raise StorageError(
                f"a temporary file of {total / 1e9:.1f} GB for the images can't be written: {error.strerror}",
                where=tempfile.gettempdir(),
                remedy="Make room there, or set TMPDIR to a folder with more; or ask for smaller images.",
            ) from error
        return np.frombuffer(mmap.mmap(file.fileno(), total), np.uint8).reshape(shape)


def _allocate(file: int, total: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, total)
    else:
        os.ftruncate(file, total)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def from_base64(text: str, where: str = "image") -> bytes:
    """The bytes of a base64 text, or of a data URL that holds one. Raises DataError."""
    if text.startswith("data:"):
        head, _comma, text = text.partition(",")
        if not head.endswith(";base64"):
            raise UnreadableImage(_("the data URL is not in base64"), where=where)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableImage(
            _("a text stands for an image in base64, and this is none"),
            where=where,
            remedy=_("Send the file's bytes in base64, as they are or as a data URL."),
        ) from None


def to_base64(image: bytes | Path | Pixels | Sequence[Any]) -> str:
    """An image as a request holds it: a file's own bytes, or pixels as PNG, from which `decode` gives the same."""
    if isinstance(image, (bytes, Path)):
        raw = image if isinstance(image, bytes) else image.read_bytes()
    else:
        buffer = io.BytesIO()
        Image.fromarray(pixels(image)).save(buffer, "PNG")
        raw = buffer.getvalue()
    return base64.b64encode(raw).decode("ascii")


def pixels(value: object, where: str = "image") -> Pixels:
    """Numbers as pixels, uint8 (height, width) or (height, width, 3 or 4). Raises DataError."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.kind not in "iu" or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise DataError(
            _("these are no pixels"), where=where,
            remedy=_("Give whole numbers from 0 to 255: height x width, or height x width x 3 (or 4, with "
                     "transparency)."),
        )  # fmt: skip
    _bounded(array.shape[1], array.shape[0], where)
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise DataError(
            _("pixels reach from {min} to {max}, beyond 0 to 255").format(min=array.min(), max=array.max()), where=where
        )
    return np.ascontiguousarray(array, np.uint8)


def _bounded(width: int, height: int, where: str) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise UnreadableImage(
            _("it has {width} x {height} pixels; from 1 to {most:,} are allowed").format(
                width=width, height=height, most=MAX_PIXELS
            ),
            where=where,
            remedy=_("Make it smaller, or leave it out."),
        )


def _opened(source: bytes | Path, where: str) -> Image.Image:
    """The upright picture, loaded."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS) as image:
            _bounded(image.width, image.height, where)
            image.load()
            turn = _TURNS.get(_orientation(image))
            return image if turn is None else image.transpose(turn)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(
            _("it has more than {most:,} pixels").format(most=MAX_PIXELS),
            where=where,
            remedy=_("Make it smaller."),
        ) from None
    except FileNotFoundError:
        raise UnreadableImage(_("there is no such file"), where=where) from None
    except UnidentifiedImageError:
        raise UnreadableImage(
            _("this is no image, or it is damaged"),
            where=where,
            remedy=_("Known formats: {names}.").format(names=", ".join(FORMATS)),
        ) from None
    except _DAMAGED as error:
        raise UnreadableImage(
            _("the image can't be read: {error}").format(error=error),
            where=where,
            remedy=_("It may be damaged: replace it, or leave it out."),
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return found if isinstance(found, int) else 1


def _coloured(image: Image.Image, channels: int, where: str) -> Image.Image:
    """In mode L or RGB."""
    if image.mode == "F":
        raise UnreadableImage(_("its pixels are of floating point, which have no stated range"), where=where)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65_535:
            raise UnreadableImage(_("its pixels have more than 16 bits"), where=where)
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        image = Image.alpha_composite(white, over).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    # Pillow knows the way from every mode to RGB, but not from every one to grey.
    return image.convert(mode) if image.mode in ("1", "L", "RGB") else image.convert("RGB").convert(mode)


def _fit(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    if resize == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    wide, high = image.size
    if resize == "crop":
        scale = min(wide / width, high / height)
        left, top = (wide - width * scale) / 2, (high - height * scale) / 2
        # Rounding must not leave the picture by a last bit.
        box = (max(left, 0.0), max(top, 0.0), min(left + width * scale, wide), min(top + height * scale, high))
        return image.resize((width, height), Image.Resampling.BILINEAR, box)
    scale = min(width / wide, height / high)
    inner = (min(width, max(1, round(wide * scale))), min(height, max(1, round(high * scale))))
    out = Image.new(image.mode, (width, height))
    out.paste(image.resize(inner, Image.Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return out
