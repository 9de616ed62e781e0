"""JPEG decoding by libjpeg-turbo if the package simplejpeg is installed: the pixels of Pillow in less time."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgrec.data.decoding.pixel_budget import max_pixels, reserve

ORIENTATION = 0x0112
"""EXIF tag of the orientation of the camera."""

_START, _SCAN, _APPLICATION_1 = 0xD8, 0xDA, 0xE1
_KNOWN_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


class Header(NamedTuple):
    """Header of a JPEG file. ``components`` is 1 for grey and 3 for colour."""

    height: int
    width: int
    components: int
    orientation: int


def decode_jpeg(data: bytes) -> tuple[NDArray[np.uint8], int] | None:
    """Return the pixels, uint8 ``(height, width, 1 or 3)``, and the EXIF orientation, from 1 to 8.

    Return ``None`` if simplejpeg is not installed or if Pillow must decode the file. Pillow decodes other
    formats, damaged and CMYK files, other bit depths, files above the limit of pixels, and other orientation tags.
    """
    turbo = _simplejpeg()
    header = read_header(data) if turbo is not None and data[:2] == b"\xff\xd8" else None
    if header is None or header.height * header.width > max_pixels():
        return None
    reserve(header.height * header.width)
    try:
        return turbo.decode_jpeg(data, "GRAY" if header.components == 1 else "RGB"), header.orientation
    except ValueError:  # Pillow accepts more files and reports the reason for the others
        return None


def read_header(data: bytes) -> Header | None:
    """Return the header of a JPEG file of a common kind, or ``None`` for other files.

    >>> read_header(b"no JPEG") is None
    True
    """
    size: tuple[int, int, int] | None = None
    orientation = 1
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in _WITHOUT_LENGTH:
            place += 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _SCAN:
            return Header(*size, orientation) if size is not None and size[2] in (1, 3) else None
        if marker in _OTHER_FRAMES:
            return None
        if marker in _KNOWN_FRAMES and end <= len(data) and end >= place + 10:
            if data[place + 4] != 8:
                return None
            height = int.from_bytes(data[place + 5 : place + 7], "big")
            size = (height, int.from_bytes(data[place + 7 : place + 9], "big"), data[place + 9])
        if marker == _APPLICATION_1:
            content = data[place + 4 : end]
            if b"tiff:Orientation" in content:
                return None
            if content.startswith(b"Exif\0\0"):
                orientation = _orientation(content)
        place = end
    return None


def _orientation(content: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(content)
        found = int(exif.get(ORIENTATION, 1))
    except Exception:  # damaged notes of a camera make no image unreadable
        return 1
    return found if 1 <= found <= 8 else 1


@cache
def _simplejpeg() -> Any:
    try:
        return import_module("simplejpeg")
    except ImportError:
        return None
