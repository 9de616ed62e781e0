"""Rendering of self-contained HTML pages, and embedded images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

ImageLoader = Callable[[list[str]], Sequence[NDArray[np.uint8] | None]]
"""Function of sample ids that returns their images: uint8 ``(height, width, 3)`` or ``(height, width)``.

It returns ``None`` for an id without an image.
"""

_THUMBNAIL = 264  # pixels: twice the width on the page
_TINY = 96  # pixels: smaller images are enlarged without interpolation


def render_page(package: str, template: str, content: Mapping[str, Any]) -> str:
    """Render a page that requires no network and no other file. Values of ``content`` are escaped.

    Args:
        package: Package that contains the template, such as ``"imgrec.reports"``.
        template: File name of the template. It includes ``page.css`` and ``page.js`` of ``imgrec.reports``.
        content: Variables of the template.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        folder = files("imgrec.reports" if name.startswith("page.") else package)
        return folder.joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=FunctionLoader(source)
    )
    return environment.get_template(template).render(content)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Encode pixels ``(height, width)``, ``(height, width, 3)`` or ``(height, width, 4)`` as the data URI of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnail(image: NDArray[np.uint8], side: int = _THUMBNAIL) -> str:
    """Return a small version of an image as a data URI.

    A tiny image is encoded unchanged as PNG. A larger image is resized and encoded as JPEG.

    Args:
        image: Pixels as uint8 of shape ``(height, width, 3)``, ``(height, width, 1)`` or ``(height, width)``.
        side: Longer side of a resized image, in pixels. Defaults to 264.
    """
    from PIL import Image

    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if is_tiny(image):
        return png_uri(image)
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def is_tiny(image: NDArray[np.uint8]) -> bool:
    """Return True if an image is so small that a page enlarges its pixels."""
    return bool(max(image.shape[:2]) < _TINY)
