"""What a data module accepts, as far as it can be told before any data is read."""

from __future__ import annotations

from typing import Any, get_args

from imgrec.data.cache.policy import CacheMode
from imgrec.data.image_dtype import ImageDtype
from imgrec.errors import UserError


def check_arguments(
    *,
    image_size: int | None,
    batch_size: int | str,
    eval_batch_size: int | None,
    channels: int,
    val_fraction: float,
    test_fraction: float,
    num_workers: int | None,
    on_bad_image: str,
    cache: str,
    image_dtype: str,
) -> None:
    """Raise :class:`UserError`, with the place in the config, for a value of a data module that cannot be."""
    if isinstance(batch_size, str) and batch_size != "all":
        raise UserError(f'data.batch_size: a number of images, or "all", got {batch_size!r}.')
    for name, value in {
        "image_size": image_size,
        "batch_size": 1 if isinstance(batch_size, str) else batch_size,
        "eval_batch_size": eval_batch_size,
    }.items():
        if value is not None and value < 1:
            raise UserError(f"data.{name}: must be 1 or more, got {value}.")
    if channels not in (1, 3):
        raise UserError(f"data.channels: accepted are 1 (grey) and 3 (colour), got {channels!r}.")
    if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UserError(
            "data.val_fraction and data.test_fraction: parts of each class, that for validation above 0, together "
            f"below 1; got {val_fraction} and {test_fraction}."
        )
    if num_workers is not None and num_workers < 0:
        raise UserError(f"data.num_workers: must be 0 or more, got {num_workers}.")
    if on_bad_image not in ("skip", "error"):
        raise UserError(f'data.on_bad_image: accepted are "skip" and "error", got {on_bad_image!r}.')
    if cache not in get_args(CacheMode):
        raise UserError(f"data.cache: accepted are {', '.join(get_args(CacheMode))}, got {cache!r}.")
    if image_dtype not in get_args(ImageDtype):
        raise UserError(f"data.image_dtype: expected one of {', '.join(get_args(ImageDtype))}, got {image_dtype!r}.")


def fetches(spec: Any) -> bool:
    """Whether the source that a spec names, or one inside it, downloads something.

    >>> fetches("hub"), fetches({"name": "concat", "sources": [{"name": "folder", "root": "."}]})
    (True, False)
    """
    if isinstance(spec, str):
        return spec == "hub"
    inside = list(spec.values()) if isinstance(spec, dict) else spec
    itself = isinstance(spec, dict) and (bool(spec.get("download")) or spec.get("name") == "hub")
    return itself or any(fetches(part) for part in inside if isinstance(part, dict | list))
