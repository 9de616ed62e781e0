"""The first training images: the default image size, and a sample for statistics of decoding."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from imgrec.data.decoding.image import BadImage
from imgrec.data.sources.base import Source
from imgrec.data.splits import Rows
from imgrec.errors import UserError


def first_image(source: Source, rows: Rows) -> tuple[str, Tensor]:
    """The id of the first of these rows that can be read, and its image.

    Raises:
        UserError: none can.
    """
    for row in rows:
        try:
            return source.ids[row], source.load(int(row))
        except BadImage as error:
            reason = error.reason
    raise UserError(f"data.source: none of the {len(rows)} training images can be read; the last one: {reason}.")


def decode_some(source: Source, rows: Rows, count: int = 16) -> None:
    """Decode up to ``count`` of these rows, evenly spaced, for what decoding counts. Unreadable images are ignored."""
    for row in rows[:: max(1, len(rows) // count)][:count].tolist():
        with suppress(BadImage):
            source.load(row)


def square_side(name: str, image: Tensor) -> int:
    """The side of a square image, in pixels.

    Raises:
        UserError: it is no square.
    """
    height, width = image.shape[-2:]
    if height != width:
        raise UserError(
            f"data.image_size: give the side of the square image that the model takes; the first image, {name}, "
            f"has {height} x {width} pixels (height x width)."
        )
    return height
