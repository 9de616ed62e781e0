"""Check and batching of calibration images for int8."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError

FEWEST = 32
"""Smallest number of images. With fewer, the largest activations depend on chance."""

Images = NDArray[np.uint8] | NDArray[np.float32]


def check_calibration(images: Images, shape: tuple[int, int, int], where: str = "calibration") -> None:
    """Raise if a network cannot be calibrated on some images.

    Args:
        images: Images, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
        shape: Input shape ``(C, H, W)`` of the network, with 0 for any length.
        where: Key, for messages.

    Raises:
        UserError: If there are too few images, or their shape or type is wrong.
    """
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"{where}: expected images (N, C, H, W), uint8 or float32 in [0, 1], got {images.dtype} {images.shape}"
        )
    if any(own not in (0, given) for own, given in zip(shape, images.shape[1:], strict=True)):
        expected, given = (" x ".join(str(length or "any") for length in each) for each in (shape, images.shape[1:]))
        raise UserError(f"{where}: expected images of {expected}, got {given}.")
    if len(images) < FEWEST:
        raise UserError(f"{where}: expected at least {FEWEST} images, got {len(images)}.")


def unit_batches(images: Images, size: int) -> Iterator[NDArray[np.float32]]:
    """Yield batches of at most ``size`` images, converted to float32 in [0, 1].

    Example:
        >>> [batch.shape for batch in unit_batches(np.zeros((3, 1, 2, 2), np.uint8), 2)]
        [(2, 1, 2, 2), (1, 1, 2, 2)]
    """
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        yield batch.astype(np.float32) / np.float32(255) if batch.dtype == np.uint8 else batch.astype(np.float32)
