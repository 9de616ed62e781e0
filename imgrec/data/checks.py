"""Checks of the arguments of a data module, and of the first images that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, get_type_hints

from torch import Tensor

from imgrec.data.decoding.image import BadImage
from imgrec.data.sources.base import Source
from imgrec.data.splits.assign import Rows
from imgrec.errors import UserError
from imgrec.utils.signature import check_type, type_name

_SCALARS = (
    "image_size",
    "channels",
    "batch_size",
    "eval_batch_size",
    "val_fraction",
    "test_fraction",
    "split_seed",
    "num_workers",
    "on_bad_image",
    "seed",
    "cache",
    "image_dtype",
)
"""Arguments that are checked by their annotations."""


def check_module_arguments(constructor: Callable[..., Any], arguments: Mapping[str, Any], where: str = "data") -> None:
    """Check the plain arguments of a data module against the annotations of its constructor.

    Args:
        constructor: The constructor.
        arguments: Arguments by name.
        where: Place in the config, for messages.

    Raises:
        UserError: If an argument has another type or is out of its range, or if the fractions add up to 1 or more.
    """
    hints = get_type_hints(constructor, include_extras=True)
    for name in _SCALARS:
        found = check_type(arguments[name], hints[name], f"{where}.{name}")
        if isinstance(arguments[name], str) and not isinstance(found, str):
            raise UserError(f"{where}.{name}: expected {type_name(hints[name])}, got {arguments[name]!r} (str).")
    val, test = arguments["val_fraction"], arguments["test_fraction"]
    if val + test >= 1:
        raise UserError(
            f"{where}.val_fraction and {where}.test_fraction: expected fractions that add up to less than 1, got {val} "
            f"and {test}."
        )


def needs_download(spec: Any) -> bool:
    """Return True if the source of a spec, or a source inside it, downloads data.

    Example:
        >>> needs_download("hub"), needs_download({"name": "concat", "sources": [{"name": "folder", "root": "."}]})
        (True, False)
    """
    if isinstance(spec, str):
        return spec == "hub"
    inside = list(spec.values()) if isinstance(spec, dict) else spec
    itself = isinstance(spec, dict) and (bool(spec.get("download")) or spec.get("name") == "hub")
    return itself or any(needs_download(part) for part in inside if isinstance(part, dict | list))


def first_image(source: Source, rows: Rows) -> tuple[str, Tensor]:
    """Return the id and the pixels of the first readable image of these rows.

    Raises:
        UserError: If none is readable.
    """
    for row in rows:
        try:
            return source.ids[row], source.load(int(row))
        except BadImage as error:
            reason = error.reason
    raise UserError(f"data.source: none of the {len(rows)} training images can be read. The last one: {reason}.")


def decode_some(source: Source, rows: Rows, count: int = 16) -> None:
    """Decode up to ``count`` evenly spaced images, for the statistics of the decoder. Skip unreadable images."""
    for row in rows[:: max(1, len(rows) // count)][:count].tolist():
        with suppress(BadImage):
            source.load(row)


def square_side(name: str, image: Tensor) -> int:
    """Return the side of a square image, in pixels.

    Args:
        name: Id of the image, for the message.
        image: ``(channels, height, width)``.

    Raises:
        UserError: If the image is not square.
    """
    height, width = image.shape[-2:]
    if height != width:
        raise UserError(
            f"data.image_size: expected the side of the square input of the model, because the first image, {name}, "
            f"has {height} x {width} pixels (height x width)."
        )
    return height
