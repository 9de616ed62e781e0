"""Thumbnails for figures and pages, loaded and reduced one by one to limit the memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from imgrec.augment.resize import resize_to
from imgrec.data.decoding.pixel_budget import decoding

LONGEST = 1024
"""Longest side, in pixels, of an image in a picture or on a page."""


def load_reduced(data: Any, ids: Iterable[str], longest: int = LONGEST) -> list[Tensor | None]:
    """Return images of a data module, each reduced to a longest side. Smaller images are unchanged.

    Args:
        data: Data module with a method ``load_images``.
        ids: Ids of the images.
        longest: Longest side, in pixels, at least 1. Defaults to 1024.

    Shapes: uint8 ``(1 or 3, height, width)``, or ``None`` for an unreadable image.
    """
    found: list[Tensor | None] = []
    for name in ids:
        with decoding():
            (image,) = data.load_images([name])
            found.append(None if image is None else _reduce(image, longest))
    return found


def _reduce(image: Tensor, longest: int) -> Tensor:
    height, width = image.shape[-2:]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return resize_to(image, max(1, round(scale * height)), max(1, round(scale * width)))
