from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, features
from scipy.ndimage import laplace  # type: ignore[import-untyped]

from imgrec.audit.file_formats import format_of_content, format_of_name
from imgrec.audit.image_statistics import measure_image


def colour(seed: int, height: int = 40, width: int = 30) -> torch.Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_mean_and_mean_square_match_the_pixels() -> None:
    image = colour(0)
    record = measure_image(image)
    pixels = image.double() / 255
    assert record["mean"] == pytest.approx(pixels.mean((1, 2)).numpy(), abs=1e-12)
    assert record["square"] == pytest.approx((pixels**2).mean((1, 2)).numpy(), abs=1e-12)
    assert [int(record[name]) for name in ("height", "width", "channels")] == [40, 30, 3]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = colour(1)
    grey = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")).astype(float)
    record = measure_image(image)
    assert record["laplacian"] == pytest.approx(laplace(grey)[1:-1, 1:-1].var(), rel=1e-4)
    assert record["contrast"] == pytest.approx(grey.var(), rel=1e-4)
    low, high = np.quantile(grey, [0.01, 0.99], method="inverted_cdf")
    assert (record["low"], record["high"]) == (low, high)


def test_a_grey_image_has_the_record_of_the_equal_colour_image() -> None:
    grey = colour(2)[:1]
    one, three = measure_image(grey), measure_image(grey.expand(3, -1, -1))
    for name in ("digest", "hash", "small", "colour", "laplacian", "mean", "square"):
        assert one[name].tobytes() == three[name].tobytes(), name
    assert one["colour"] == 0


def test_colour_is_the_distance_of_the_channels() -> None:
    image = colour(3)
    distance = (image.amax(0).int() - image.amin(0).int()).float().mean()
    assert measure_image(image)["colour"] == pytest.approx(float(distance), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 2, 500), (1, 600, 2), (3, 700, 520)])
def test_any_shape_can_be_measured(shape: tuple[int, int, int]) -> None:
    record = measure_image(torch.randint(256, shape, dtype=torch.uint8))
    assert (int(record["height"]), int(record["width"])) == shape[1:]
    assert np.isfinite(record["laplacian"])
    assert np.isfinite(record["contrast"])


def test_shape_counts_for_equal_pixels() -> None:
    assert (
        measure_image(torch.zeros(1, 4, 6, dtype=torch.uint8))["digest"]
        != measure_image(torch.zeros(1, 6, 4, dtype=torch.uint8))["digest"]
    )


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "PPM", "AVIF"])
def test_formats_are_detected_by_their_first_bytes(name: str) -> None:
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(buffer, name)
    expected = "PNM" if name == "PPM" else name
    assert format_of_content(buffer.getvalue()[:16]) == expected
    assert format_of_name(f"x.{name.lower()}") == expected
    assert format_of_content(b"") is None
    assert format_of_name("x.txt") is None
