"""What the HTML pages share: one look, one template engine, images that are part of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

_THUMBNAIL = 264  # pixels: twice the width that a page shows
_TINY = 96  # pixels: below this the single pixels are shown


def render_page(package: str, template: str, content: Mapping[str, Any]) -> str:
    """A page that needs no network and no other file; what comes from ``content`` is escaped.

    Args:
        package: the package that the template lies in: ``"imgrec.reports"``.
        template: the name of its file; it includes ``page.css`` and ``page.js``, which all pages share.
        content: what the template asks for.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        place = files("imgrec.reports" if name.startswith("page.") else package)
        return place.joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=FunctionLoader(source)
    )
    return environment.get_template(template).render(content)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Pixels ``(height, width)``, ``(height, width, 3)`` or ``(height, width, 4)`` as the data URI of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnail(image: NDArray[np.uint8], side: int = _THUMBNAIL) -> str:
    """The data URI of a small version of an image: a tiny one as it is, in PNG; a larger one made smaller, in JPEG.

    Args:
        image: uint8 ``(height, width, 3)``, ``(height, width, 1)`` or ``(height, width)``.
        side: the long side of what is larger, in pixels.
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
    """Whether an image has so few pixels that a page shows each of them."""
    return bool(max(image.shape[:2]) < _TINY)
