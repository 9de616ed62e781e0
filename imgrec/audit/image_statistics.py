"""Measurements of one image: a record of 450 bytes with all values that an audit requires."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imgrec.audit.perceptual_hash import HASH_SIDE, ORIENTATIONS, perceptual_hash, turned_hashes
from imgrec.data.decoding.convert import strips

SMALL_SIDE = 16
"""Side, in pixels, of the stored grey image, for comparisons."""

GREY = 1.0
"""Mean distance of the channels, in 0..255, below which an image is grey, independent of its colour mode."""

_WORK_SIDE = 256  # classifiers use no finer detail, and the cost of a photograph stays that of a small image

RECORD = np.dtype(
    [
        ("readable", np.bool_),
        ("height", np.int32),
        ("width", np.int32),
        ("channels", np.uint8),
        ("digest", "V16"),  # of the decoded pixels
        ("hash", np.uint64),
        ("turned", np.uint64, (len(ORIENTATIONS),)),  # the hashes of its other orientations
        ("small", np.uint8, (SMALL_SIDE, SMALL_SIDE)),
        ("low", np.uint8),  # the brightness below which 1 % of the pixels are
        ("high", np.uint8),  # the brightness above which 1 % of the pixels are
        ("contrast", np.float32),  # the variance of the brightness
        ("laplacian", np.float32),  # the variance of its Laplacian
        ("colour", np.float32),  # the mean distance between the strongest and the weakest channel
        ("mean", np.float64, (3,)),  # of each channel, in [0, 1] (a grey image counts as three equal channels)
        ("square", np.float64, (3,)),  # the mean of the squares
    ]
)
"""Measurements of an image. Brightness is in 0..255 (ITU-R 601)."""

_LEVELS = np.arange(256) / 255


def measure_image(image: Tensor) -> NDArray[Any]:
    """Measure an image and return one ``RECORD``.

    Sharpness is measured by the variance of the Laplacian.

    Args:
        image: Image, uint8 ``(1 or 3, height, width)``.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR,
    10.1109/ICPR.2000.903548.
    """
    channels, height, width = image.shape
    pixels = image.numpy()
    equal = channels == 1 or (np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[1], pixels[2]))
    factor = max(1, min(height, width) // _WORK_SIDE)
    grey, counts, colour = _planes(pixels, factor, not equal)
    shares = counts / (height * width)
    below = np.cumsum(grey.histogram())
    low, high = np.searchsorted(below, [0.01 * below[-1], 0.99 * below[-1]])
    work = np.asarray(grey if factor == 1 else grey.reduce(factor)).astype(np.float32)
    hashed = np.asarray(grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR))
    sums = hashed.astype(np.uint16)
    sums = sums[0::2] + sums[1::2]
    record = np.zeros((), RECORD)
    record["readable"] = True
    record["height"], record["width"], record["channels"] = height, width, channels
    record["digest"] = np.void(_digest(pixels[:1] if equal else pixels))
    record["hash"] = perceptual_hash(hashed)
    record["turned"] = turned_hashes(hashed)
    record["small"] = (sums[:, 0::2] + sums[:, 1::2] + 2) >> 2
    record["low"], record["high"] = low, high
    record["contrast"], record["laplacian"] = _variance(work), _laplacian(work)
    record["colour"] = colour
    record["mean"] = shares @ _LEVELS
    record["square"] = shares @ _LEVELS**2
    return record


def _planes(image: NDArray[np.uint8], factor: int, coloured: bool) -> tuple[Image.Image, NDArray[np.int64], float]:
    """Return the grey image, the histogram of each channel, and the mean distance of the channels.

    A large image is converted in strips, so that no second copy of its colours is in memory.
    """
    channels, height, width = image.shape
    parts = list(strips(height, width, factor))
    grey = Image.new("L", (width, height)) if len(parts) > 1 else None
    counts = np.zeros((channels, 256), np.int64)
    distance, measured = 0, 0
    for top, bottom in parts:
        pixels = image[0, top:bottom] if channels == 1 else image[:, top:bottom].transpose(1, 2, 0)
        strip = Image.fromarray(np.ascontiguousarray(pixels))
        counts += np.asarray(strip.histogram(), np.int64).reshape(channels, 256)
        if coloured:
            found = _distance(strip if factor == 1 else strip.reduce(factor))
            distance += int(found.sum(dtype=np.int64))
            measured += found.size
        light = strip.convert("L") if channels == 3 else strip
        if grey is None:
            grey = light
        else:
            grey.paste(light, (0, top))
    assert grey is not None
    return grey, counts, distance / measured if measured else 0.0


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    """Return a hash of shape and pixels. A grey image has the same hash as the equal image with three channels."""
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=16)
    for plane in pixels:
        for top, bottom in strips(*plane.shape):
            digest.update(np.ascontiguousarray(plane[top:bottom]).data)
    return digest.digest()


def _laplacian(grey: NDArray[np.float32]) -> float:
    """Return the variance of the Laplacian, which is 4 x pixel - sum of the four neighbours."""
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return _variance(4 * grey[1:-1, 1:-1] - around)


def _variance(values: NDArray[np.float32]) -> float:
    flat = values.ravel()
    flat = flat - flat.mean(dtype=np.float64).astype(np.float32)
    return float(flat @ flat) / len(flat)


def _distance(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the distance between the strongest and the weakest channel of each pixel."""
    red, green, blue = (np.asarray(channel) for channel in picture.split())
    strongest = np.maximum(np.maximum(red, green), blue)
    distance: NDArray[np.uint8] = strongest - np.minimum(np.minimum(red, green), blue)
    return distance
