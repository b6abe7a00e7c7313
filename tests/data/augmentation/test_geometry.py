"""Moved pixels against flips, rot90, roll, slices and products of maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from reinforge.data.augmentation.geometry import Maps, flips, rotations, still, warp, windows
from reinforge.data.augmentation.options import (
    CropOptions,
    Fill,
    FlipOptions,
    RotateOptions,
    ScaleOptions,
    ShiftOptions,
)
from reinforge.registry import Options
from tests.data.augmentation.pictures import augmented, pictures

SQUARE = pictures(5, 3, 8, 8)
ODD = pictures(4, 1, 9, 7)
NO, YES = np.array([False]), np.array([True])


def through(images: torch.Tensor, maps: Maps, fill: Fill = "black") -> torch.Tensor:
    """All images through one map."""
    return warp(images, np.repeat(maps, len(images), 0), fill)


@pytest.mark.parametrize(
    "options",
    [
        FlipOptions(horizontal=0.0), RotateOptions(degrees=0), ScaleOptions(low=1, high=1),
        CropOptions(area=1, ratio=1), ShiftOptions(by=0.01),
    ],
)  # fmt: skip
def test_no_strength_changes_nothing(options: Options) -> None:
    for images in (SQUARE, ODD):
        assert torch.equal(augmented(images, options), images)


@pytest.mark.parametrize("images", [SQUARE, ODD])
def test_flips(images: torch.Tensor) -> None:
    assert torch.equal(through(images, flips(YES, NO)), images.flip(-1))
    assert torch.equal(through(images, flips(NO, YES)), images.flip(-2))
    both = FlipOptions(horizontal=1.0, vertical=1.0)
    assert torch.equal(augmented(images, both), images.flip((-1, -2)))
    assert torch.equal(augmented(images, both, both), images)


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3])
def test_quarter_turns_are_rot90(quarters: int) -> None:
    maps = rotations(np.array([quarters * np.pi / 2]))
    assert torch.equal(through(SQUARE, maps), torch.rot90(SQUARE, quarters, (-2, -1)))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (2, 0), (-3, 1), (1, -2)])
@pytest.mark.parametrize("fill", ["black", "edge", "reflect"])
def test_shifts_are_rolls_with_filling(x: int, y: int, fill: Fill) -> None:
    for images in (SQUARE, ODD):
        height, width = images.shape[2:]
        mode = {"black": "constant", "edge": "edge", "reflect": "symmetric"}[fill]
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=mode)  # type: ignore[call-overload]
        expected = np.roll(padded, (-y, -x), (2, 3))[:, :, 4 : 4 + height, 4 : 4 + width]
        found = through(images, windows(1.0, 1.0, float(x), float(y)), fill)
        np.testing.assert_array_equal(found.numpy(), expected)


def test_windows_are_slices() -> None:
    """A third of the side, three times as large: every third pixel is one of the slice."""
    images = pictures(2, 3, 12, 15)
    for top, left in ((0, 0), (4, 5), (8, 10), (3, 2)):
        x, y = left + 2.5 - 7.5, top + 2 - 6
        found = through(images, windows(1 / 3, 1 / 3, float(x), float(y)), "edge")
        assert torch.equal(found[:, :, 1::3, 1::3], images[:, :, top : top + 4, left : left + 5])


def test_any_map_against_scipy() -> None:
    """Bilinear, black outside; scipy's maps take (y, x) from the corner."""
    generator = np.random.default_rng(0)
    maps = still(len(SQUARE))
    maps[:, :2] += generator.uniform(-0.5, 0.5, (len(SQUARE), 2, 3))
    found = warp(SQUARE, maps, "black").numpy()
    middle = np.array([3.5, 3.5])
    for image, m, ours in zip(SQUARE.numpy(), maps, found):
        matrix = np.array([[m[1, 1], m[1, 0]], [m[0, 1], m[0, 0]]])
        offset = np.add(middle, m[[1, 0], 2]) - matrix @ middle
        for channel, mine in zip(image.astype(np.float64), ours):
            expected = ndimage.affine_transform(channel, matrix, offset, order=1, mode="grid-constant", cval=0)
            assert np.abs(expected - mine).max() <= 0.5 + 1e-3


def test_neighbours_are_sampled_once() -> None:
    """Turned by 30 and by -30 degrees, a picture is what it was, which two samplings would blur."""
    turn, back = rotations(np.array([np.pi / 6])), rotations(np.array([-np.pi / 6]))
    assert torch.equal(through(SQUARE, turn @ back), SQUARE)
    assert not torch.equal(through(through(SQUARE, turn), back), SQUARE)
    listed = augmented(SQUARE, RotateOptions(degrees=30), ShiftOptions(by=0.3), FlipOptions(), seed=3)
    apart = augmented(SQUARE, RotateOptions(degrees=30, fill="edge"), ShiftOptions(by=0.3), FlipOptions(), seed=3)
    assert not torch.equal(listed, apart)


def test_order_is_that_of_the_list() -> None:
    """First shifted, then mirrored; the other way round gives another picture."""
    images = pictures(1, 1, 8, 8)
    shift, mirror = windows(1.0, 1.0, 2.0, 0.0), flips(YES, NO)
    shifted = through(images, shift)
    assert torch.equal(through(images, shift @ mirror), shifted.flip(-1))
    assert not torch.equal(through(images, mirror @ shift), shifted.flip(-1))


def test_some_rows_mirrored_some_turned() -> None:
    maps = np.concatenate([still(1), flips(YES, NO), rotations(np.array([np.pi / 2])), flips(NO, YES), still(1)])
    found = warp(SQUARE, maps, "black")
    expected = [SQUARE[0], SQUARE[1].flip(-1), torch.rot90(SQUARE[2], 1, (-2, -1)), SQUARE[3].flip(-2), SQUARE[4]]
    assert torch.equal(found, torch.stack(expected))


def test_draws() -> None:
    """How often, how far: a white middle tells where it went."""
    rows = 4_000
    images = torch.zeros(rows, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    found = augmented(images, ShiftOptions(by=0.25, probability=0.5))
    places = found.flatten(1).argmax(1)
    x, y = places % 9 - 4, places // 9 - 4
    stayed = float(((x == 0) & (y == 0)).float().mean())
    # Rounded, 2.25 pixels to either side are five places, the outer ones 3/18 each, the others 4/18.
    assert stayed == pytest.approx(0.5 + 0.5 * (4 / 18) ** 2, abs=0.03)
    for values in (x, y):
        counts = torch.bincount(values[(x != 0) | (y != 0)] + 2, minlength=5)
        assert len(counts) == 5
        assert float(counts[0]) == pytest.approx(rows / 2 * 3 / 18, rel=0.15)
    mirrored = augmented(pictures(1, 1, 2, 2).expand(rows, -1, -1, -1), FlipOptions(horizontal=0.3))
    changed = (mirrored != pictures(1, 1, 2, 2)).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.03)


def test_crops_stay_inside() -> None:
    """With a picture of one colour nothing else can come in; and the share of its area is as asked."""
    white = torch.full((500, 1, 16, 24), 255, dtype=torch.uint8)
    assert torch.equal(augmented(white, CropOptions(area=0.1, ratio=3)), white)
    ramp = torch.linspace(0, 240, 24).round().to(torch.uint8).expand(500, 1, 16, 24)
    found = augmented(ramp, CropOptions(area=0.25, ratio=1)).float()
    share = (found[:, 0, 8, 22] - found[:, 0, 8, 1]) / (ramp[0, 0, 8, 22].float() - ramp[0, 0, 8, 1])
    assert float(share.min()) == pytest.approx(0.5, abs=0.03)
    assert float(share.square().mean()) == pytest.approx(0.625, abs=0.03)
