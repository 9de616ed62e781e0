"""Decoding of image files to tensors."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from imgrec.data.decoding.bit_depth import count_sixteen_bit, is_sixteen_bit
from imgrec.data.decoding.convert import BadImage, from_pil, to_channels
from imgrec.data.decoding.jpeg import ORIENTATION, decode_jpeg
from imgrec.data.decoding.messages import collect_libtiff, damaged_images, decoder_messages, is_collected
from imgrec.data.decoding.pixel_budget import VARIABLE, decoding, max_pixels, reserve
from imgrec.errors import UserError
from imgrec.utils.paths import NotRegularFileError, read_regular

__all__ = ["IMAGE_SUFFIXES", "BadImage", "decode_image", "file_size", "file_state", "from_pil", "readable"]
__all__ += ["to_channels", "upright"]

_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .avif .heic .heif
"""
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""File suffixes of images, in lower case. HEIC is included, so that such files raise an error."""

_WITH_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
_DOUBLE = {"WEBP", "AVIF"}  # their decoders take twice the memory of the others
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def decode_image(source: str | Path | bytes, name: str | None = None) -> Tensor:
    """Return the pixels of an image file, or of its bytes, upright as its EXIF orientation states.

    Colour images, palettes included, have three channels, and transparency is dropped. Grey images have one. 16-bit
    grey is scaled to 8 bits. An animation gives its first frame.

    An image of many pixels first waits until other threads and processes have finished theirs (see
    :mod:`imgrec.data.decoding.pixel_budget`). If a decoder reports a damaged file but returns pixels, a line is logged.

    Args:
        source: Path of the file, or its content.
        name: Id of the image for the log. Defaults to the path.

    Shapes: uint8 ``(channels, height, width)`` with 1 or 3 channels.

    Raises:
        BadImage: If it cannot be read. The message contains the reason.
        UserError: If the environment variable ``IMGREC_MAX_IMAGE_PIXELS`` is not a number.
    """
    with readable(name or ("an image" if isinstance(source, bytes) else str(source))):
        data = source if isinstance(source, bytes) else read_regular(source)
        if not data:
            raise BadImage("the file is empty")
        return upright(*_decode(data))


_PROGRAMS = ("EPS", "WMF")
"""Formats that Pillow hands to another program, which runs the code in the file."""


def _decode(data: bytes) -> tuple[Tensor, int]:
    """Return the pixels as they are stored, and the EXIF orientation."""
    found = decode_jpeg(data)
    if found is not None:
        return torch.from_numpy(found[0]).permute(2, 0, 1), found[1]
    limit = max_pixels()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in _PROGRAMS:
                raise BadImage(f"it is {image.format}, a program and no image: convert it to PNG")
            if image.width * image.height > limit:
                raise BadImage(_too_large(limit))
            if image.format == "TIFF":
                collect_libtiff()
            reserve(image.width * image.height * (2 if image.format in _DOUBLE else 1))
            sixteen_bit = is_sixteen_bit(image)
            image.load()
            if sixteen_bit:
                count_sixteen_bit(image)
            return from_pil(image), _orientation(image)
    except Image.DecompressionBombError:
        raise BadImage(_too_large(limit)) from None
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
            raise BadImage("it is HEIC, which is not read: convert it to JPEG or PNG") from None
        raise


def _too_large(limit: int) -> str:
    return f"it has more pixels than are decoded safely: at most {limit:,} ({VARIABLE} sets another limit)"


def upright(image: Tensor, orientation: int) -> Tensor:
    """Rotate and mirror an image according to its EXIF orientation, from 1 to 8.

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


def file_size(path: str | Path) -> int:
    """Return the size of a file in bytes, or 0 for a missing file, which raises an error when it is read."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path for each of many files takes twice as long
    except OSError:
        return 0


def file_state(path: str | Path) -> bytes:
    """Return size and modification time of a file as 16 bytes, which are zero for a missing file."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return bytes(16)
    return found.st_size.to_bytes(8, "little") + found.st_mtime_ns.to_bytes(8, "little", signed=True)


@contextmanager
def readable(name: str = "an image") -> Iterator[None]:
    """Turn everything that reading and decoding an image can raise into :class:`BadImage`.

    What decoders report about an image that they do decode is logged once. An outer block of this kind, or of
    :func:`imgrec.data.decoding.messages.decoder_messages`, receives it instead.

    Args:
        name: the id of the image, for the log.
    """
    logged = not is_collected()
    with decoding(), decoder_messages() as messages:
        try:
            yield
        except (BadImage, MemoryError, UserError):
            raise
        except Exception as error:  # on damaged bytes Pillow's decoders raise nearly any exception there is
            raise BadImage(_reason(error, messages)) from error
    if logged:
        damaged_images.add(name, messages)


def _reason(error: Exception, messages: Sequence[str]) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not a file"
    if isinstance(error, NotRegularFileError):
        return f"it is {error.kind}, not a file"
    if isinstance(error, PermissionError):
        return "permission to read it is denied"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "it is a symbolic link that leads back to itself"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image in a format that can be read"
    if "truncated" in str(error).lower():
        return "it is truncated: its end is missing"
    detail = messages[-1] if messages and isinstance(error, OSError) else str(error) or type(error).__name__
    return f"it cannot be decoded ({detail})"
