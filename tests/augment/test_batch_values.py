"""Every whole-batch transform against torchvision's functional, sample by sample, on the same parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TV
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from imgrec.augment import (
    add_lighting,
    add_noise,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    affine,
    box_mask,
    erase,
    gaussian_blur,
    grayscale,
    hflip,
    random_crop,
    to_float,
    vflip,
)
from imgrec.augment.affine import Border
from imgrec.augment.crop import PaddingMode


def photos(count: int = 6, height: int = 21, width: int = 26, channels: int = 3) -> Tensor:
    """Smooth colours with noise, uint8."""
    generator = torch.Generator().manual_seed(count)
    rows = torch.linspace(0, 120, height)[:, None] + torch.linspace(0, 80, width)[None]
    noise = torch.randint(0, 55, (count, channels, height, width), generator=generator)
    return (rows + noise).to(torch.uint8)


def numbers(low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5)) * (high - low) + low


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float"])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colors_equal_torchvision(name: str, dtype: str, channels: int) -> None:
    images = photos(channels=channels)
    factors = numbers(-0.5, 0.5, 6) if name == "hue" else numbers(0, 2, 6)
    ours = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }[name]
    found = ours(images if dtype == "uint8" else to_float(images), factors)
    for i, factor in enumerate(factors.tolist()):
        expected = getattr(TV, f"adjust_{name}")(to_float(images[i]), factor)
        torch.testing.assert_close(found[i], expected, rtol=0.0, atol=5e-6)


def test_the_hue_of_pure_and_gray_pixels() -> None:
    corners = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3]])
    images = corners.T.reshape(1, 3, 7, 1)
    found = adjust_hue(images, torch.tensor([1 / 3]))[0, :, :, 0].T
    expected = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3]])
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


def test_gray_equals_torchvision() -> None:
    images = photos()
    expected = TV.rgb_to_grayscale(to_float(images), num_output_channels=3)
    torch.testing.assert_close(grayscale(images), expected, rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("size", [3, 7, 13])
def test_blur_equals_torchvision(size: int) -> None:
    images, sigma = photos(), numbers(0.1, 3.0, 6)
    found = gaussian_blur(images, sigma, size)
    for i in range(6):
        expected = TV.gaussian_blur(to_float(images[i]), [size, size], [float(sigma[i])] * 2)
        torch.testing.assert_close(found[i], expected, rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("size", [(21, 26), (24, 24), (9, 40)])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_affine_equals_torchvision(size: tuple[int, int], interpolation: str) -> None:
    images = photos(8, *size)
    degrees, scale = numbers(-60, 60, 8), numbers(0.6, 1.7, 8)
    translate, shear = numbers(-6, 6, 8, 2).round(), numbers(-25, 25, 8, 2)
    found = affine(images, degrees, translate, scale, shear, interpolation)  # type: ignore[arg-type]
    for i in range(8):
        expected = TV.affine(
            to_float(images[i]),
            angle=float(degrees[i]),
            translate=translate[i].tolist(),
            scale=float(scale[i]),
            shear=shear[i].tolist(),
            interpolation=InterpolationMode(interpolation),
        )
        different = (found[i] - expected).abs() > 1e-4
        if interpolation == "nearest":  # a place half-way between two pixels falls to either
            assert different.float().mean() < 0.01
        else:
            assert not different.any()


@pytest.mark.parametrize("border", ["black", "edge", "reflect"])
def test_affine_moves_by_whole_pixels_as_a_crop_of_the_padded_image(border: Border) -> None:
    images = photos(2, 12, 16)
    move = torch.tensor([[3.0, -2.0], [-1.0, 4.0]])
    zero, one = torch.zeros(2), torch.ones(2)
    found = affine(images, zero, move, one, torch.zeros(2, 2), border=border)
    mode = {"black": "constant", "edge": "edge", "reflect": "symmetric"}[border]
    for image, (right, down), result in zip(to_float(images), move.int().tolist(), found, strict=True):
        wide = np.pad(image.numpy(), ((0, 0), (5, 5), (5, 5)), mode=mode)  # type: ignore[call-overload]
        expected = wide[:, 5 - down : 17 - down, 5 - right : 21 - right]
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_erase_equals_torchvision() -> None:
    images = photos()
    box = torch.tensor([[2, 3, 5, 4], [0, 0, 21, 26], [10, 20, 3, 2], [7, 7, 0, 5], [20, 25, 1, 1], [1, 2, 1, 9]])
    found = erase(images, box, 7)
    assert found.dtype == torch.uint8
    for i, (top, left, height, width) in enumerate(box.tolist()):
        expected = TV.erase(images[i], top, left, height, width, torch.tensor(7, dtype=torch.uint8))
        assert torch.equal(found[i], expected)


def test_a_box_is_clipped_at_the_border() -> None:
    mask = box_mask(torch.tensor([[-2, 4, 5, 9]]), 6, 7)
    expected = torch.zeros(1, 1, 6, 7, dtype=torch.bool)
    expected[:, :, :3, 4:] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crops_are_windows_of_torchvision_padding(mode: PaddingMode, dtype: torch.dtype) -> None:
    images = photos().to(dtype)
    top, left = torch.tensor([0, 1, 2, 3, 6, 4]), torch.tensor([6, 5, 0, 3, 1, 2])
    found = random_crop(images, top, left, 3, mode)
    assert found.dtype == dtype
    for i in range(6):
        wide = TV.pad(images[i], [3], padding_mode=mode)
        assert torch.equal(found[i], TV.crop(wide, int(top[i]), int(left[i]), 21, 26))


def test_flips_of_a_mask_equal_torchvision() -> None:
    images = photos()
    chosen = torch.tensor([True, False, True, True, False, False])
    for ours, theirs in ((hflip, TV.horizontal_flip), (vflip, TV.vertical_flip)):
        for image, flip, result in zip(images, chosen.tolist(), ours(images, chosen), strict=True):
            assert torch.equal(result, theirs(image) if flip else image)


def test_lighting_is_a_step_along_the_principal_components() -> None:
    """Compare with NumPy. The published directions are orthonormal, so a unit step has the published length."""
    images = torch.full((3, 3, 2, 2), 0.5)
    moved = add_lighting(images, torch.eye(3))[:, :, 0, 0].numpy() - 0.5
    assert np.allclose(np.linalg.norm(moved, axis=1), [0.2175, 0.0188, 0.0045], rtol=1e-3)
    assert np.abs(np.corrcoef(moved[0], [0.5675, 0.5808, 0.5836])[0, 1]) > 0.99
    alpha = numbers(-1, 1, 6, 3)
    steps = moved.T @ alpha.numpy().T
    found = add_lighting(photos(), alpha).numpy()
    expected = np.clip(to_float(photos()).numpy() + steps.T[:, :, None, None], 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_noise_is_scaled_and_clipped() -> None:
    images, noise, std = photos(), numbers(-3, 3, 6, 3, 21, 26), numbers(0, 1, 6)
    expected = np.clip(images.numpy() / 255 + noise.numpy() * std.numpy()[:, None, None, None], 0, 1)
    np.testing.assert_allclose(add_noise(images, noise, std).numpy(), expected, atol=1e-6)


def test_a_rotation_by_a_right_angle_is_exact() -> None:
    images = photos(1, 16, 16)
    zero = torch.zeros(1)
    turned = affine(images, zero + 90, torch.zeros(1, 2), zero + 1, torch.zeros(1, 2))
    torch.testing.assert_close(turned, to_float(images).rot90(-1, (2, 3)), rtol=0.0, atol=1e-4)
    assert math.isclose(float(turned.mean()), float(to_float(images).mean()), rel_tol=1e-4)
