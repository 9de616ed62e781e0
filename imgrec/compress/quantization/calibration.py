"""The images from which the ranges of int8 are read: whether they will do, and in which batches they go."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError

FEWEST = 32
"""So many images at least: with fewer the largest activations are a matter of chance."""

Images = NDArray[np.uint8] | NDArray[np.float32]


def check_calibration(images: Images, shape: tuple[int, int, int], where: str = "calibration") -> None:
    """Raise where a network cannot be calibrated on some images.

    Args:
        images: ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
        shape: ``(C, H, W)`` that the network takes; 0 for any length.
        where: the place, for messages.

    Raises:
        UserError: they are too few, or of another shape or type.
    """
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"{where}: expected images (N, C, H, W), uint8 or float32 in [0, 1], got {images.dtype} {images.shape}"
        )
    if any(own not in (0, given) for own, given in zip(shape, images.shape[1:], strict=True)):
        said, given = (" x ".join(str(length or "any") for length in each) for each in (shape, images.shape[1:]))
        raise UserError(f"{where}: the network takes images of {said}, and these are {given}")
    if len(images) < FEWEST:
        raise UserError(f"{where}: {len(images)} images are too few to read the ranges of int8 from; give {FEWEST}")


def unit_batches(images: Images, size: int) -> Iterator[NDArray[np.float32]]:
    """Batches of at most ``size`` images, float32 in [0, 1]; the others stay as they are.

    >>> [batch.shape for batch in unit_batches(np.zeros((3, 1, 2, 2), np.uint8), 2)]
    [(2, 1, 2, 2), (1, 1, 2, 2)]
    """
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        yield batch.astype(np.float32) / np.float32(255) if batch.dtype == np.uint8 else batch.astype(np.float32)
