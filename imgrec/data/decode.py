"""From the bytes of an image file to a tensor of its pixels."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from imgrec.data.jpeg import ORIENTATION, decode_jpeg

_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .avif .heic .heif
"""
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Endings of files that count as images, in lower case; those of HEIC too, so that these are refused by name."""

_PALETTE_OR_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}
_WITH_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}


class BadImage(Exception):  # noqa: N818 - it is a finding about data, which loading deals with, not a programme's error
    """An image that cannot be read.

    Args:
        reason: why, in a few plain words: ``"the file is empty"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(source: str | Path | bytes) -> Tensor:
    """The pixels of an image file, or of its bytes, upright: as its EXIF orientation says.

    Colour images, palettes included, give three channels, transparency dropped; grey ones give one. 16-bit grey is
    scaled to 8 bits. Of an animation, the first frame.

    Shapes: uint8 ``(channels, height, width)`` with 1 or 3 channels.

    Raises:
        BadImage: it cannot be read; the reason is in plain words.
    """
    with readable():
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if not data:
            raise BadImage("the file is empty")
        found = decode_jpeg(data)
        if found is not None:
            return upright(torch.from_numpy(found[0]).permute(2, 0, 1), found[1])
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return upright(from_pil(image), _orientation(image))
        except UnidentifiedImageError:
            if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
                raise BadImage("it is HEIC, which is not read: convert it to JPEG or PNG") from None
            raise


def upright(image: Tensor, orientation: int) -> Tensor:
    """An image turned and mirrored as its EXIF orientation, from 1 to 8, says.

    >>> upright(torch.tensor([[[1, 2]]]), 6)
    tensor([[[1],
             [2]]])
    """
    if orientation >= 5:
        image = image.transpose(-2, -1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return image.flip([axis for axis, turned in ((-2, rows), (-1, columns)) if turned]) if rows or columns else image


def _orientation(image: Image.Image) -> int:
    if not _WITH_ORIENTATION & image.info.keys():
        return 1
    try:
        found = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged notes of a camera make no image unreadable
        return 1
    return found if 1 <= found <= 8 else 1


def from_pil(image: Image.Image) -> Tensor:
    """The pixels of a Pillow image of any mode: uint8 ``(channels, height, width)`` with 1 or 3 channels.

    Raises:
        BadImage: its pixels are floating-point numbers or 32-bit integers beyond 16 bits, whose range is unknown.
    """
    if image.mode in _SIXTEEN_BITS or image.mode == "I":
        wide = np.array(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise BadImage("its pixels are 32-bit integers, of which no scale to 8 bits is known")
        return torch.from_numpy(((wide * 255 + 32767) // 65535).astype(np.uint8))[None]
    if image.mode.startswith("F"):
        raise BadImage("its pixels are floating-point numbers, of which no scale to 8 bits is known")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about the transparency that is dropped
    if image.mode in _PALETTE_OR_COLOUR:
        return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)
    return torch.from_numpy(np.array(image.convert("L")))[None]


def to_channels(image: Tensor, channels: Literal[1, 3]) -> Tensor:
    """A grey or colour image with ``channels`` channels: grey is repeated, colour weighted as Pillow does (ITU-R 601).

    Shapes: uint8 ``(1 or 3, height, width)`` to uint8 ``(channels, height, width)``.

    >>> to_channels(torch.tensor([[[255]], [[0]], [[0]]], dtype=torch.uint8), 1)
    tensor([[[76]]], dtype=torch.uint8)
    """
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1)
    red, green, blue = image.to(torch.int32).unbind(0)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).to(torch.uint8)[None]


def file_size(path: str | Path) -> int:
    """The size of a file in bytes; 0 where there is no such file, which is found out when it is read."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path for each of many files takes twice as long
    except OSError:
        return 0


def file_state(path: str | Path) -> bytes:
    """Size and time of the last change of a file, as 16 bytes; zeros where there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return bytes(16)
    return found.st_size.to_bytes(8, "little") + found.st_mtime_ns.to_bytes(8, "little", signed=True)


@contextmanager
def readable() -> Iterator[None]:
    """Turns whatever reading and decoding an image can raise into :class:`BadImage`."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly any exception there is
        raise BadImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not a file"
    if isinstance(error, PermissionError):
        return "permission to read it is denied"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "it is a symbolic link that leads back to itself"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image in a format that can be read"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "it has more pixels than are decoded safely"
    if "truncated" in str(error).lower():
        return "it is truncated: its end is missing"
    return f"it cannot be decoded ({str(error) or type(error).__name__})"
