"""Decoding: every kind of picture by its stated rule, and clear errors for the rest."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reinforge.data import images
from reinforge.data.images import Resize, animated, animations, decode, decode_all, from_base64, pixels, to_base64
from reinforge.errors import DataError, StorageError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (12, 17), dtype=np.uint8)
SIZE = (12, 17)


def encoded(image: Image.Image | np.ndarray[Any, Any], format: str = "PNG", **more: Any) -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **more)
    return buffer.getvalue()


def channels_first(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.transpose(2, 0, 1)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_colours_are_red_green_blue(format: str) -> None:
    raw = encoded(COLOUR, format, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decode(raw, SIZE), channels_first(COLOUR))


def test_jpeg_as_pillow_reads_it() -> None:
    raw = encoded(COLOUR, "JPEG", quality=90)
    np.testing.assert_array_equal(decode(raw, SIZE), channels_first(np.asarray(Image.open(io.BytesIO(raw)))))


def test_grey_and_colour_of_one_another() -> None:
    raw = encoded(GREY)
    np.testing.assert_array_equal(decode(raw, SIZE, 1)[0], GREY)
    np.testing.assert_array_equal(decode(raw, SIZE, 3), np.stack([GREY] * 3))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(encoded(COLOUR), SIZE, 1)[0] - luma).max() <= 1
    bits = GREY > 128
    np.testing.assert_array_equal(decode(encoded(bits), SIZE, 1)[0], bits * 255)


def test_palette_and_transparency() -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette), SIZE), channels_first(np.asarray(palette.convert("RGB"))))
    alpha = RANDOM.integers(0, 256, (12, 17, 1), dtype=np.uint8)
    over = COLOUR * (alpha / 255) + 255 * (1 - alpha / 255)
    found = decode(encoded(np.concatenate([COLOUR, alpha], 2)), SIZE)
    assert np.abs(found - channels_first(over)).max() <= 1
    # A colour that stands for transparency, and one place of a palette that does.
    keyed = np.zeros((12, 17, 3), np.uint8)
    keyed[:6] = 200
    assert decode(encoded(Image.fromarray(keyed), transparency=(0, 0, 0)), SIZE)[:, 7:].min() == 255
    image = Image.fromarray(keyed).quantize(2)
    black = np.asarray(image)[8, 0]
    assert decode(encoded(image, transparency=int(black)), SIZE)[:, 7:].min() == 255
    grey_alpha = Image.fromarray(np.stack([GREY, np.zeros_like(GREY)], 2), "LA")
    assert decode(encoded(grey_alpha), SIZE, 1).min() == 255


def test_cmyk() -> None:
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    raw = encoded(cmyk, "TIFF")
    np.testing.assert_array_equal(decode(raw, SIZE), channels_first(np.asarray(cmyk.convert("RGB"))))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_of_sixteen_bits_the_upper_eight_are_kept(format: str) -> None:
    deep = RANDOM.integers(0, 65_536, (12, 17), dtype=np.uint16)
    found = decode(encoded(Image.fromarray(deep), format), SIZE, 1)
    np.testing.assert_array_equal(found[0], deep >> 8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(deep), format), SIZE, 3)[1], deep >> 8)


def test_sixteen_bits_of_colour() -> None:
    deep = RANDOM.integers(0, 65_536, (12, 17, 3), dtype=np.uint16)
    found = decode(png(deep), SIZE)
    np.testing.assert_array_equal(found, channels_first(deep >> 8))


def png(deep: np.ndarray[Any, Any]) -> bytes:
    """A PNG of three channels of 16 bits, which Pillow can't write."""
    height, width, _ = deep.shape
    lines = b"".join(b"\x00" + line.astype(">u2").tobytes() for line in deep)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_floating_point_and_deeper_ones_are_refused() -> None:
    with pytest.raises(DataError, match="floating point"):
        decode(encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), SIZE)
    with pytest.raises(DataError, match="more than 16 bits"):
        decode(encoded(Image.fromarray(GREY.astype(np.int32) * 1000), "TIFF"), SIZE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    """Top left is red, top right green, bottom left blue once the picture stands upright."""
    upright = np.full((32, 64, 3), 255, np.uint8)
    upright[:16, :32], upright[:16, 32:], upright[16:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # How a camera held so would store it (EXIF 2.32, tag 0x0112).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(np.ascontiguousarray(stored), format, exif=exif.tobytes())
    found = decode(raw, (32, 64)).transpose(1, 2, 0).astype(int)
    for place, colour in (((8, 16), (255, 0, 0)), ((8, 48), (0, 255, 0)), ((24, 16), (0, 0, 255))):
        assert np.abs(found[place] - colour).max() < 40


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unreadable_orientation_is_ignored() -> None:
    raw = encoded(COLOUR, "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert decode(raw, SIZE).shape == (3, 12, 17)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(format: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"moving.{format.lower()}"
    path.write_bytes(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert decode(path, (8, 8))[:, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=5)
    assert animated(path)
    assert animated(path.read_bytes())
    assert not any(map(animated, (encoded(frames[0], format), b"no image", tmp_path / "none", COLOUR, "text", None)))


def test_animations_are_noted(tmp_path: Path) -> None:
    moving = encoded(Image.new("L", (4, 4)), "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    path = tmp_path / "b.gif"
    path.write_bytes(moving)
    assert animations([encoded(GREY), GREY], "image") == []
    (note,) = animations([encoded(GREY), path, moving], "image")
    assert note.startswith(f"images of 'image' with several frames or pages: 2, {path} the first")


def test_resizing_is_bilinear_and_antialiased() -> None:
    """A fine checkerboard becomes grey, not black or white; and torch's own antialiasing gives the same."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    inner = decode(encoded(board), (16, 16), 1)[0, 1:-1, 1:-1].astype(int)
    assert np.abs(inner - 127).max() <= 2
    picture = RANDOM.integers(0, 256, (40, 60), dtype=np.uint8)
    for size in ((10, 20), (23, 31), (55, 90)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(picture)[None, None].double(), size, mode="bilinear", antialias=True, align_corners=False
        )
        assert np.abs(decode(encoded(picture), size, 1)[0] - expected[0, 0].numpy()).max() <= 1.5


def test_crop_and_pad() -> None:
    picture = np.zeros((10, 30), np.uint8)
    picture[:, 10:20] = 200
    assert (decode(encoded(picture), (10, 10), 1, "crop") == 200).all()
    assert (decode(encoded(picture.T), (10, 10), 1, "crop") == 200).all()
    padded = decode(encoded(np.full((10, 30), 200, np.uint8)), (30, 30), 1, "pad")[0]
    np.testing.assert_array_equal(padded, np.pad(np.full((10, 30), 200), ((10, 10), (0, 0))))
    assert decode(encoded(np.full((1, 1000), 9, np.uint8)), (8, 8), 1, "pad").sum() == 8 * 9


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.sampled_from([1, 3]), resize=st.sampled_from(["stretch", "crop", "pad"]), count=st.integers(1, 20),
)  # fmt: skip
def test_alone_and_in_a_batch_the_same(
    shape: tuple[int, int], size: tuple[int, int], channels: Literal[1, 3], resize: Resize, count: int
) -> None:
    arrays = [np.random.default_rng(i).integers(0, 256, (*shape, 3), dtype=np.uint8) for i in range(count)]
    sources: list[Any] = [(encoded(a), a, to_base64(a))[i % 3] for i, a in enumerate(arrays)]
    batch = decode_all(sources, size, channels, resize, threads=2)
    assert (batch.shape, batch.dtype) == ((count, channels, *size), torch.uint8)
    for source, array, found in zip(sources, arrays, batch.numpy()):
        alone = decode(source, size, channels, resize)
        np.testing.assert_array_equal(alone, found)
        np.testing.assert_array_equal(decode(array.tolist(), size, channels, resize), found)
    if resize != "pad":
        white = decode(np.full((*shape, 3), 255, np.uint8), size, channels, resize)
        assert (white == 255).all()


def test_large_sets_lie_in_a_mapped_file() -> None:
    arrays = RANDOM.integers(0, 256, (50, 6, 7), dtype=np.uint8)
    mapped = decode_all(arrays, (6, 7), 1, mapped_bytes=100)
    assert torch.equal(mapped, decode_all(arrays, (6, 7), 1))
    np.testing.assert_array_equal(mapped[:, 0].numpy(), arrays)
    assert torch.equal(mapped.index_select(0, torch.tensor([3, 1])), mapped[[3, 1]])
    mapped[0] = 0


def test_pixel_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    """Small files that claim to be enormous; nothing of their size is allocated."""
    for side, message in ((9_000, "9000 x 9000 pixels"), (30_000, "more than 64,000,000 pixels")):
        path = tmp_path / f"bomb{side}.png"
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + head
        lines = zlib.compress(bytes(1000))
        data = b"IDAT" + lines
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
            + struct.pack(">I", len(lines)) + data + struct.pack(">I", zlib.crc32(data))
        )  # fmt: skip
        with pytest.raises(DataError, match=message) as raised:
            decode(path, SIZE)
        assert path.name in str(raised.value)
    with pytest.raises(DataError, match="pixels"):
        pixels(np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (9_000, 9_000), (0, 0)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("format", sorted(images.FORMATS))
def test_damaged_files_are_named(format: str, tmp_path: Path) -> None:
    """Cut short and with flipped bits, anywhere: a picture or a DataError, and nothing else."""
    whole = bytearray(encoded(COLOUR, format))
    path = tmp_path / "damaged.img"
    places = np.random.default_rng(0).integers(0, len(whole), 60).tolist()
    failed = []
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        for raw in (whole[:place], flipped):
            path.write_bytes(raw)
            try:
                assert decode(path, SIZE).shape == (3, 12, 17)
            except DataError as error:
                failed.append(str(error))
    assert len(failed) > 30
    assert all("damaged.img" in text for text in failed)


def test_no_image_no_file_no_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as raised:
        decode(tmp_path / "none.png", SIZE)
    assert "none.png" in str(raised.value)
    with pytest.raises(DataError, match="can't be read"):
        decode(tmp_path, SIZE)
    for raw in (b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", encoded(COLOUR, "TGA")):
        with pytest.raises(DataError, match="no image") as raised:
            decode(raw, SIZE, where="row 3, column 'image'")
        assert "row 3, column 'image'" in str(raised.value)


def test_the_first_that_fails_is_named() -> None:
    sources: list[Any] = [encoded(GREY)] * 200
    sources[150] = sources[90] = b"no image"
    with pytest.raises(DataError, match="place 90"):
        decode_all(sources, SIZE, where=lambda row: f"place {row}", threads=2)


def test_base64() -> None:
    raw = encoded(COLOUR)
    text = base64.b64encode(raw).decode()
    assert from_base64(text) == from_base64(f"data:image/png;base64,{text}") == raw
    assert from_base64(text[:40] + "\n" + text[40:]) == raw
    assert from_base64(to_base64(raw)) == raw
    np.testing.assert_array_equal(decode(text, SIZE), channels_first(COLOUR))
    # A text of a request is never a path.
    for wrong in ("/etc/passwd", "cat.png", "data:image/png,abc", "a"):
        with pytest.raises(DataError, match="base64"):
            decode(wrong, SIZE)


def test_pixels() -> None:
    np.testing.assert_array_equal(pixels(GREY[..., None]), GREY)
    np.testing.assert_array_equal(pixels(GREY.tolist()), GREY)
    for wrong in ([1, 2], [[0.5]], [[1, 2], [3]], np.zeros((3, 8, 8), np.uint8), "x", None, [["a"]], []):
        with pytest.raises(DataError, match="no pixels"):
            pixels(wrong)
    for beyond in ([[256]], [[-1]]):
        with pytest.raises(DataError, match="beyond 0 to 255"):
            pixels(beyond)


def test_no_room_for_the_mapped_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "_allocate", full)
    with pytest.raises(StorageError, match=r"0.0 GB.*No space left"):
        decode_all([GREY] * 3, SIZE, mapped_bytes=10)
