"""Conversion of decoded images to uint8 tensors with one or three channels, in strips of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_STRIP = 1 << 20  # pixels that are converted at the same time
_PALETTE_OR_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}


class BadImage(Exception):  # noqa: N818 - it is a finding about data, which loading deals with, not a programme's error
    """An image that cannot be read.

    Args:
        reason: the cause in a few plain words: ``"the file is empty"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def from_pil(image: Image.Image) -> Tensor:
    """Return the pixels of a Pillow image of any mode: uint8 ``(channels, height, width)`` with 1 or 3 channels.

    In addition to the image and the result, memory contains a strip of about a million pixels.

    Raises:
        BadImage: If the pixels are floating-point numbers or 32-bit integers beyond 16 bits, whose range is unknown.
    """
    if image.mode.startswith("F"):
        raise BadImage("its pixels are floating-point numbers, of which no scale to 8 bits is known")
    colour = image.mode in _PALETTE_OR_COLOUR
    pixels = np.empty((image.height, image.width, 3) if colour else (image.height, image.width), np.uint8)
    for top, bottom in strips(image.height, image.width):
        whole = (top, bottom) == (0, image.height)
        strip = image if whole else image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _eight_bits(strip, colour)
    found = torch.from_numpy(pixels)
    return found.permute(2, 0, 1) if colour else found[None]


def to_channels(image: Tensor, channels: Literal[1, 3]) -> Tensor:
    """Return a grey or colour image with ``channels`` channels.

    Grey is repeated. Colour is weighted as in Pillow (ITU-R 601).

    Shapes: uint8 ``(1 or 3, height, width)`` to uint8 ``(channels, height, width)``.

    >>> to_channels(torch.tensor([[[255]], [[0]], [[0]]], dtype=torch.uint8), 1)
    tensor([[[76]]], dtype=torch.uint8)
    """
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1)
    grey = image.new_empty(1, *image.shape[1:])
    for top, bottom in strips(*image.shape[1:]):
        red, green, blue = image[:, top:bottom].to(torch.int32).unbind(0)
        grey[0, top:bottom] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    return grey


def strips(height: int, width: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield the first row and the row after the last of strips of about a million pixels that cover an image.

    Args:
        height: rows of the image.
        width: columns of the image.
        multiple: number that divides the first row of every strip.

    >>> list(strips(5, 600_000))
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    """
    rows = max(1, _STRIP // max(1, width) // multiple) * multiple
    if height * width <= _STRIP:
        rows = max(height, 1)
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _eight_bits(image: Image.Image, colour: bool) -> NDArray[Any]:
    if image.mode in _SIXTEEN_BITS or image.mode == "I":
        wide = np.array(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise BadImage("its pixels are 32-bit integers, of which no scale to 8 bits is known")
        return (wide * 255 + 32767) // 65535
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about the transparency that is dropped
    mode = "RGB" if colour else "L"
    return np.asarray(image if image.mode == mode else image.convert(mode))
