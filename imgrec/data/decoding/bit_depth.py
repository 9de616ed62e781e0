"""A warning for images with 16 bits per value that use 12 or fewer: scaling to 8 bits leaves few gray levels."""

from __future__ import annotations

import logging
from threading import Lock
from typing import Any, NamedTuple

from PIL import Image

logger = logging.getLogger(__name__)

_LIMIT = 1 << 12


class Counts(NamedTuple):
    """Number of decoded images with 16-bit storage, how many use 12 bits or fewer, and the largest value of these."""

    total: int = 0
    narrow: int = 0
    highest: int = 0


class SixteenBitCounter:
    """Thread-safe counter of the images with 16-bit storage that this process decoded."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = Counts()

    def add(self, highest: int) -> None:
        """Count an image with 16-bit storage whose largest value is ``highest``, in [0, 65535]."""
        with self._lock:
            total, narrow, most = self._counts
            is_narrow = highest < _LIMIT
            self._counts = Counts(total + 1, narrow + is_narrow, max(most, highest) if is_narrow else most)

    def reset(self) -> None:
        """Reset all counts to zero."""
        with self._lock:
            self._counts = Counts()

    @property
    def counts(self) -> Counts:
        """The counts since the last reset."""
        return self._counts


sixteen_bit = SixteenBitCounter()
"""The counter that decoding uses."""


def is_sixteen_bit(image: Image.Image) -> bool:
    """Return True if an image is stored with 16 bits per value. Call it before its pixels are loaded.

    Pillow keeps the upper 8 bits of colour images.
    """
    return image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def count_sixteen_bit(image: Image.Image) -> None:
    """Count an image for which :func:`is_sixteen_bit` was true, after its pixels are loaded."""
    found: Any = image.getextrema()
    if isinstance(found[0], tuple):
        sixteen_bit.add(256 * max(high for _, high in found[:3]) + 255)
    else:
        sixteen_bit.add(int(found[1]))


def warn_of_few_levels(counts: Counts) -> bool:
    """Log a warning if images with 16-bit storage use 12 bits or fewer.

    Returns:
        True if the warning was logged.
    """
    if not counts.narrow:
        return False
    logger.warning(
        "data: %d of %d decoded images with 16-bit storage have no value above %d (%d bits). The full range of 16 bits "
        "is scaled to 8 bits, which leaves them %d gray levels. Rescale the files to the full range.",
        counts.narrow,
        counts.total,
        counts.highest,
        max(1, counts.highest.bit_length()),
        round(counts.highest * 255 / 65535) + 1,
    )
    return True
