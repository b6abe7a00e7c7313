"""Noise, covered rectangles and colours, against their formulas."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy import ndimage

from reinforge.data.augmentation.colour import colour_matrices, recoloured
from reinforge.data.augmentation.options import ColourOptions, EraseOptions, NoiseOptions
from tests.data.augmentation.pictures import augmented, pictures

ONES, ZEROS = np.ones(3), np.zeros(3)


def test_noise() -> None:
    grey = torch.full((50, 3, 16, 16), 128, dtype=torch.uint8)
    assert torch.equal(augmented(grey, NoiseOptions(deviation=0)), grey)
    noise = augmented(grey, NoiseOptions(deviation=0.1, probability=0.5)).double() - 128
    changed = noise.flatten(1).any(1)
    assert 10 <= int(changed.sum()) <= 40
    values = noise[changed]
    assert float(values.mean()) == pytest.approx(0, abs=0.6)
    assert float(values.std()) == pytest.approx(25.5, rel=0.03)
    # Clipped, not wrapped around.
    assert int(augmented(torch.full_like(grey, 250), NoiseOptions(deviation=0.05)).min()) > 150
    # Every pixel and channel has its own.
    assert abs(float(np.corrcoef(values[:, 0].flatten(), values[:, 1].flatten())[0, 1])) < 0.1


def test_large_pictures_are_changed_a_few_at_a_time_and_no_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(7, 3, 20, 20)
    options = (NoiseOptions(), ColourOptions(hue=0.1))
    whole = augmented(images, *options)
    monkeypatch.setattr("reinforge.data.augmentation.blocks.BLOCK", 2_500)
    assert torch.equal(augmented(images, *options), whole)


def test_erase() -> None:
    white = torch.full((2_000, 2, 20, 30), 255, dtype=torch.uint8)
    options = EraseOptions(low=0.1, high=0.3, ratio=2, value=7, probability=0.75)
    found = augmented(white, options)
    assert set(found.unique().tolist()) == {7, 255}
    covered = found[:, 0] == 7
    assert torch.equal(covered, found[:, 1] == 7)
    area = covered.double().mean((1, 2))
    assert float((area > 0).double().mean()) == pytest.approx(0.75, abs=0.03)
    there = area[area > 0]
    assert float(there.mean()) == pytest.approx(0.2, abs=0.01)
    assert 0.08 < float(there.min()) < 0.12
    assert 0.28 < float(there.max()) < 0.32
    for mask in covered[:50].numpy():
        if mask.any():
            (rows, columns), = ndimage.find_objects(mask.astype(int))  # fmt: skip
            assert mask[rows, columns].all()
            high, wide = (rows.stop - rows.start) / 20, (columns.stop - columns.start) / 30
            assert 1 / 2.3 < high / wide < 2.3
    # Anywhere, and no side is preferred.
    often = covered.double().mean(0)
    assert bool((often > 0).all())
    assert float((often - often.flip((0, 1))).abs().max()) < 0.07
    assert torch.equal(augmented(white, EraseOptions(probability=0.0)), white)


def test_colours_by_hand() -> None:
    """Each factor, alone and in order, for one pixel after the other."""
    images = pictures(3, 3, 5, 4)
    factors = [np.array(v) for v in ([0.8, 1.0, 1.3], [1.2, 0.7, 1.0], [0.0, 1.5, 1.0], [0.1, -0.3, 0.5])]
    found = recoloured(images, *factors).numpy()
    grey = np.array([0.299, 0.587, 0.114])
    for n, (b, c, s, h) in enumerate(zip(*factors)):
        x = b * images[n].numpy().astype(np.float64).transpose(1, 2, 0)
        mean = (x @ grey).mean()
        x = mean + c * (x - mean)
        g = (x @ grey)[..., None]
        x = g + s * (x - g)
        for i, j in np.ndindex(5, 4):
            y, first, second = colorsys.rgb_to_yiq(*x[i, j])
            turned = (first + 1j * second) * np.exp(2j * np.pi * h)
            # colorsys clips to 0..1, so its inverse is of no use for 0..255.
            matrix = np.array([colorsys.rgb_to_yiq(*unit) for unit in np.eye(3)]).T
            rgb = np.linalg.solve(matrix, [y, turned.real, turned.imag])
            # Its constants are of two digits, ours of four.
            np.testing.assert_allclose(found[n, :, i, j], np.clip(rgb, 0, 255), atol=4.5 if h else 0.51)


def test_colours_keep_grey() -> None:
    matrices = colour_matrices(np.array([0.3, 1.0, 2.0]), np.array([0.2, 0.5, -0.4]))
    np.testing.assert_allclose(matrices @ np.ones(3), 1, atol=1e-12)
    np.testing.assert_allclose(
        np.array([0.299, 0.587, 0.114]) @ matrices, np.tile([0.299, 0.587, 0.114], (3, 1)), atol=1e-12
    )
    np.testing.assert_allclose(colour_matrices(ONES, ONES), np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(colour_matrices(ONES, ZEROS), np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)


def test_grey_images_have_brightness_and_contrast() -> None:
    grey = pictures(3, 1, 6, 6)
    factors = np.array([0.5, 1.0, 1.4]), np.array([1.5, 0.5, 1.0])
    coloured = recoloured(grey.expand(-1, 3, -1, -1).contiguous(), *factors, np.array([0.1, 2.0, 1.0]), ONES / 3)
    found = recoloured(grey, *factors, ONES, ZEROS)
    assert int((found.int() - coloured.int()).abs().max()) <= 1


def test_no_strength_changes_no_colour() -> None:
    images = pictures(4, 3, 5, 5)
    nothing = ColourOptions(brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.equal(augmented(images, nothing), images)
    assert torch.equal(augmented(images, ColourOptions(probability=0.0)), images)


def test_how_far_colours_go() -> None:
    grey = torch.full((3_000, 1, 2, 2), 100, dtype=torch.uint8)
    found = augmented(grey, ColourOptions(brightness=0.2, contrast=0.5), seed=1)[:, 0, 0, 0].double()
    assert (float(found.min()), float(found.max())) == (80, 120)
    assert float(found.mean()) == pytest.approx(100, abs=1)
    assert float(found.std()) == pytest.approx(40 / 12**0.5, rel=0.05)
