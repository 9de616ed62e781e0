"""A bar for work on many images: where someone is looking, and where there are enough of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MANY = 2000


def shown(items: Iterator[T], total: int, what: str) -> Iterator[T]:
    """The same items; a bar on a terminal, else one line in the log, says how far they are where there are many.

    Args:
        items: one an image.
        total: how many there will be.
        what: what is being done: ``"Checking images"``.
    """
    if total < _MANY:
        return items
    if not sys.stderr.isatty():
        logger.info("%s: %d", what, total)
        return items
    from rich.progress import track

    from imgrec.utils.console import PlainConsole

    return iter(track(items, what, total=total, console=PlainConsole(stderr=True), transient=True))
