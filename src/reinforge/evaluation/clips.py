"""Frames as a clip: animated GIF and WebP by Pillow, MP4 by ffmpeg where it is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reinforge.errors import DataError, MissingExtra, StorageError
from reinforge.messages import _
from reinforge.storage.files import replacing

Frame = np.ndarray[Any, Any]

SUFFIXES = (".gif", ".webp", ".mp4")
# Browsers slow down what is faster.
_SHORTEST = 20


def check(path: Path) -> None:
    """Raise DataError for a clip of an unknown kind, and MissingExtra where an MP4 can't be written: before anything is
    played."""
    if path.suffix.lower() not in SUFFIXES:
        remedy = _("Known suffixes: {known}.").format(known=", ".join(SUFFIXES))
        raise DataError(_("can't tell by its name how to write this"), where=str(path), remedy=remedy)
    if path.suffix.lower() == ".mp4" and _ffmpeg() is None:
        error = MissingExtra("imageio-ffmpeg", "video")
        remedy = _("{command}, or install ffmpeg; a .gif needs neither").format(command=error.remedy)
        raise DataError(error.problem, where=str(path), remedy=remedy)


def write(path: Path, frames: Sequence[Frame], rate: float) -> None:
    """Write frames, uint8 (height, width, 3) of one size, at so many in a second. Raises as `check` does, and
    StorageError where ffmpeg fails."""
    check(path)
    if path.suffix.lower() == ".mp4":
        _write_mp4(path, frames, rate)
        return
    data = animated(frames, rate, path.suffix.lower()[1:])
    with replacing(path) as file:
        file.write(data)


def animated(frames: Sequence[Frame], rate: float, kind: str = "gif") -> bytes:
    """Frames as an endless GIF or WebP. A GIF's colours are those of a few of its frames, at most 256."""
    shown = max(_SHORTEST, round(1000 / rate))
    # A GIF counts hundredths of a second.
    shown = round(shown, -1) if kind == "gif" else shown
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    if kind == "gif":
        some = [frames[index] for index in np.linspace(0, len(frames) - 1, min(8, len(frames))).round().astype(int)]
        palette = Image.fromarray(np.concatenate(some)).quantize(255, Image.Quantize.MEDIANCUT)
        pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        pictures[0].save(
            buffer, "GIF", save_all=True, append_images=pictures[1:], duration=shown, loop=0, disposal=1, optimize=False
        )
    else:
        pictures[0].save(
            buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=shown, loop=0, quality=60, method=2
        )
    return buffer.getvalue()


def still(frame: Frame) -> bytes:
    """One frame as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def fitted(frame: Frame, most: int) -> Frame:
    """A frame no wider and no higher than so many pixels; a small one as it is."""
    height, width = frame.shape[:2]
    scale = most / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(frame[..., :3])
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if most * 2 == max(height, width) and height % 2 == width % 2 == 0:
        # The same means of four, in a fifth of the time.
        return np.asarray(Image.fromarray(frame[..., :3]).reduce(2))
    return np.asarray(Image.fromarray(frame[..., :3]).resize(size, Image.Resampling.BOX))


def _ffmpeg() -> str | None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[import-not-found]
    except ImportError:
        return shutil.which("ffmpeg")
    found: str = get_ffmpeg_exe()
    return found


def _write_mp4(path: Path, frames: Sequence[Frame], rate: float) -> None:
    program = _ffmpeg()
    assert program is not None
    # H.264 with common colours takes even sizes only.
    height, width = (size - size % 2 for size in frames[0].shape[:2])
    with tempfile.TemporaryDirectory(prefix="reinforge-") as folder:
        made = Path(folder) / "clip.mp4"
        command = [
            program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
            "-r", f"{rate:g}", "-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart",
            str(made),
        ]  # fmt: skip
        pixels = b"".join(np.ascontiguousarray(frame[:height, :width, :3]).tobytes() for frame in frames)
        done = subprocess.run(command, input=pixels, capture_output=True, check=False)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise StorageError(_("ffmpeg failed: {reason}").format(reason=said[-1] if said else ""), where=str(path))
        with replacing(path) as file:
            file.write(made.read_bytes())
