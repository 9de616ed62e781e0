from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TV
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from imgrec.augment import (
    AUGMENTATIONS,
    build_transforms,
    center_crop,
    check_transforms,
    pad,
    random_box,
    random_resized_crop,
    resize_short_side,
    resize_to,
)
from imgrec.augment.crop import PaddingMode
from imgrec.augment.resize import Interpolation
from imgrec.errors import SpecError, UserError
from imgrec.utils.seeding import position_generator

SIZES = [(40, 60), (61, 37), (32, 32), (17, 90)]


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth colour with noise: a resize of noise alone would hide shifts."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, 150, height)[:, None] + torch.linspace(0, 80, width)[None]
    noise = torch.randint(0, 25, (channels, height, width), generator=generator)
    return (rows[None] + noise).to(torch.uint8)


def box_figures(boxes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the area, width over height, top and left of boxes (top, left, height, width)."""
    return [boxes[:, 2] * boxes[:, 3], boxes[:, 3] / boxes[:, 2], boxes[:, 0], boxes[:, 1]]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_equals_torchvision(interpolation: Interpolation, size: tuple[int, int], antialias: bool) -> None:
    image = photo(*size)
    expected = TV.resize(image, [24], InterpolationMode(interpolation), antialias=antialias)
    found = resize_short_side(image, 24, interpolation, antialias)
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= 1  # torchvision may round through floats


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_antialiased_resize_is_close_to_pillow(interpolation: Interpolation) -> None:
    image = photo(200, 260)
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((65, 50), resample)
    expected = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)
    assert (resize_to(image, 50, 65, interpolation).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [*SIZES, (20, 20), (24, 25), (25, 24), (10, 40), (23, 9)])
def test_center_crop_equals_torchvision_and_pads_smaller_images(size: tuple[int, int]) -> None:
    image = photo(*size)
    assert torch.equal(center_crop(image, 24), TV.center_crop(image, [24, 24]))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("widths", [(4, 4, 4, 4), (1, 0, 3, 2), (30, 17, 25, 40)])
def test_pad_equals_numpy(mode: PaddingMode, widths: tuple[int, int, int, int]) -> None:
    image = photo(9, 13)
    left, top, right, bottom = widths
    expected = np.pad(image.numpy(), ((0, 0), (top, bottom), (left, right)), mode=mode)
    assert np.array_equal(pad(image, left, top, right, bottom, mode).numpy(), expected)


def test_random_resized_crop_equals_torchvision_on_the_same_box() -> None:
    image = photo(50, 70)
    for number in range(20):
        box = random_box(50, 70, (0.08, 1.0), (0.75, 4 / 3), position_generator(number))
        found = random_resized_crop(image, 32, position_generator(number))
        expected = TV.resized_crop(image, *box, size=[32, 32], antialias=True)
        assert (found.int() - expected.int()).abs().max() <= 1


def test_random_box_is_distributed_as_torchvisions() -> None:
    """Area and shape against torchvision's own draws, by the two-sample Kolmogorov-Smirnov distance."""
    from torchvision.transforms import RandomResizedCrop as Theirs

    image = torch.empty(3, 120, 160)
    generator = torch.Generator().manual_seed(0)
    ours = np.array([random_box(120, 160, (0.2, 0.9), (0.6, 1.8), generator) for _ in range(2000)], dtype=float)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([Theirs.get_params(image, [0.2, 0.9], [0.6, 1.8]) for _ in range(2000)], dtype=float)
    for first, second in zip(box_figures(ours), box_figures(theirs), strict=True):
        points = np.concatenate([first, second])
        ranks = [np.searchsorted(np.sort(side), points, "right") / 2000 for side in (first, second)]
        distance = np.abs(ranks[0] - ranks[1]).max()
        assert distance < 1.95 * (2 / 2000) ** 0.5  # 0.1 %


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [((10, 200), (0.75, 4 / 3), (10, 13)), ((200, 10), (0.75, 4 / 3), (13, 10)), ((30, 30), (1.0, 1.0), (30, 30))],
)
def test_a_box_that_never_fits_is_the_largest_central_one(
    size: tuple[int, int], ratio: tuple[float, float], expected: tuple[int, int]
) -> None:
    top, left, height, width = random_box(*size, (1.0, 1.0), ratio, position_generator(0))
    assert (height, width) == expected
    assert abs(2 * top + height - size[0]) <= 1
    assert abs(2 * left + width - size[1]) <= 1


def test_every_entry_has_a_one_line_summary() -> None:
    assert all(entry.summary.endswith(".") for entry in AUGMENTATIONS)


@pytest.mark.parametrize("size", SIZES)
def test_the_default_brings_any_image_to_the_model(size: tuple[int, int]) -> None:
    image = photo(*size)
    expected = TV.center_crop(TV.resize(image, [24], antialias=True), [24, 24])
    assert (build_transforms(None, image_size=24)(image).int() - expected.int()).abs().max() <= 1


def test_the_usual_evaluation_at_224_resizes_to_256_first() -> None:
    specs: list[str | dict[str, object]] = [
        {"name": "resize", "scale": 1.143, "interpolation": "bicubic"},
        "center_crop",
    ]
    image = photo(300, 400)
    resized = TV.resize(image, [256], InterpolationMode.BICUBIC, antialias=True)
    found = build_transforms(specs, image_size=224)(image)
    assert (found.int() - TV.center_crop(resized, [224, 224]).int()).abs().max() <= 1


def test_a_result_of_the_wrong_size_raises_an_error_with_a_hint() -> None:
    pipeline = build_transforms(["resize"], "data.train_transforms", image_size=20)
    with pytest.raises(UserError, match=r"data\.train_transforms: .*20 x 20.*20 x 30.*center_crop") as error:
        pipeline(photo(20, 30))
    assert "squash" in str(error.value)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["resize", "squosh"], r'data\.t\[1\]: no augmentation is called "squosh"\. Did you mean "squash"'),
        ("cifar", r"data\.t: expected a transform of single images, got random_crop \(of the preset cifar\)"),
        (["resize", "mixup"], r"data\.t\[1\]"),
        ("hflipp", r'data\.t: .*"hflip"'),
        ([{"name": "hflip", "q": 1}], r'data\.t\[0\]: the augmentation "hflip" has no argument "q"'),
        ([{"name": "hflip", "p": 1.5}], r"data\.t\[0\]\.p: expected float in \[0, 1\], got 1\.5"),
        ([{"name": "random_crop", "padding": -1}], r"data\.t\[0\]\.padding: expected int >= 0"),
        ([{"name": "random_crop", "padding": "four"}], r"data\.t\[0\]\.padding: expected int >= 0, got 'four'"),
        ([{"name": "random_crop", "padding_mode": "mirror"}], r"data\.t\[0\]\.padding_mode"),
        (
            [{"name": "random_resized_crop", "scale": [1.0, 0.5]}],
            r"data\.t\[0\]: scale: expected \(min, max\)",
        ),
        (
            [{"name": "random_resized_crop", "ratio": [0.0, 0.5]}],
            r"data\.t\[0\]\.ratio: expected tuple\[float > 0",
        ),
        ([{"name": "resize", "scale": 0}], r"data\.t\[0\]\.scale: expected float > 0"),
        ([3], r"data\.t\[0\]: expected the name of a augmentation|expected the name"),
    ],
)
def test_a_wrong_spec_is_rejected_before_any_image_is_read(specs: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_transforms(specs, "data.t")  # type: ignore[arg-type]


def test_numbers_from_a_yaml_list_become_a_range() -> None:
    check_transforms([{"name": "random_resized_crop", "scale": [0.5, 1], "ratio": [1, 1]}])
    pipeline = build_transforms([{"name": "random_resized_crop", "scale": [1, 1], "ratio": [1, 1]}], image_size=20)
    assert torch.equal(pipeline(photo(20, 20)), photo(20, 20))
