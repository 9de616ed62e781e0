"""What is measured of one image: everything an audit needs, in 400 bytes, so that no pixel has to be kept."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imgrec.audit.hashing import HASH_SIDE, perceptual_hash

SMALL_SIDE = 16
"""The side, in pixels, of the grey image that is kept for comparing."""

GREY = 1.0
"""The mean distance of the channels, in 0..255, below which an image is grey, whatever its file says."""

_WORK_SIDE = 256  # detail finer than this is no concern of a classifier; and a photo costs no more than a small image

RECORD = np.dtype(
    [
        ("readable", np.bool_),
        ("height", np.int32),
        ("width", np.int32),
        ("channels", np.uint8),
        ("digest", "V16"),  # of the decoded pixels
        ("hash", np.uint64),
        ("small", np.uint8, (SMALL_SIDE, SMALL_SIDE)),
        ("low", np.uint8),  # the brightness below which 1 % of the pixels are
        ("high", np.uint8),  # the brightness above which 1 % of the pixels are
        ("contrast", np.float32),  # the variance of the brightness
        ("laplacian", np.float32),  # the variance of its Laplacian
        ("colour", np.float32),  # the mean distance between the strongest and the weakest channel
        ("mean", np.float64, (3,)),  # of each channel, in units of [0, 1]; a grey image counts as three equal channels
        ("square", np.float64, (3,)),  # the mean of the squares
    ]
)
"""The measurements of an image; brightness is in 0..255, after ITU-R 601."""

_LEVELS = np.arange(256) / 255


def measure(image: Tensor) -> NDArray[Any]:
    """The measurements of an image, as one ``RECORD``.

    Args:
        image: uint8 ``(1 or 3, height, width)``.

    Source, of the variance of the Laplacian as a measure of sharpness: Pech-Pacheco et al. 2000, "Diatom autofocusing
    in brightfield microscopy: a comparative study", ICPR, 10.1109/ICPR.2000.903548.
    """
    channels, height, width = image.shape
    planes = image.contiguous().numpy()
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy() if channels == 3 else planes[0])
    grey = picture.convert("L") if channels == 3 else picture
    shares = np.asarray(picture.histogram(), np.float64).reshape(channels, 256) / (height * width)
    below = np.cumsum(grey.histogram())
    low, high = np.searchsorted(below, [0.01 * below[-1], 0.99 * below[-1]])
    factor = max(1, min(height, width) // _WORK_SIDE)
    work = np.asarray(grey if factor == 1 else grey.reduce(factor)).astype(np.float32)
    coloured = channels == 3 and not (np.array_equal(planes[0], planes[1]) and np.array_equal(planes[1], planes[2]))
    hashed = np.asarray(grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR))
    sums = hashed.astype(np.uint16)
    sums = sums[0::2] + sums[1::2]
    record = np.zeros((), RECORD)
    record["readable"] = True
    record["height"], record["width"], record["channels"] = height, width, channels
    record["digest"] = np.void(_digest(planes if coloured else planes[:1]))
    record["hash"] = perceptual_hash(hashed)
    record["small"] = (sums[:, 0::2] + sums[:, 1::2] + 2) >> 2
    record["low"], record["high"] = low, high
    record["contrast"], record["laplacian"] = _variance(work), _laplacian(work)
    record["colour"] = _colour(picture if factor == 1 else picture.reduce(factor)) if coloured else 0
    record["mean"] = shares @ _LEVELS
    record["square"] = shares @ _LEVELS**2
    return record


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    """A hash of shape and pixels: a grey image has that of the coloured one that looks the same."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return digest.digest()


def _laplacian(grey: NDArray[np.float32]) -> float:
    """The variance of the difference between a pixel and the mean of its four neighbours, times four."""
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return _variance(4 * grey[1:-1, 1:-1] - around)


def _variance(values: NDArray[np.float32]) -> float:
    flat = values.ravel()
    flat = flat - flat.mean(dtype=np.float64).astype(np.float32)
    return float(flat @ flat) / len(flat)


def _colour(picture: Image.Image) -> float:
    red, green, blue = (np.asarray(channel) for channel in picture.split())
    strongest = np.maximum(np.maximum(red, green), blue)
    return float((strongest - np.minimum(np.minimum(red, green), blue)).mean())
