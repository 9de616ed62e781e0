"""Progress of work on many images: a bar on a terminal, otherwise a line in the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MANY = 2000


def progress_bar(items: Iterator[T], total: int, title: str) -> Iterator[T]:
    """Return the same items, with a progress bar on a terminal or a line in the log for 2,000 items or more.

    Args:
        items: Items, one per image.
        total: Number of items.
        title: Description of the work, for example ``"Checking images"``.
    """
    if total < _MANY:
        return items
    if not sys.stderr.isatty():
        logger.info("%s: %d", title, total)
        return items
    from rich.progress import track

    from imgrec.utils.console import PlainConsole

    return iter(track(items, title, total=total, console=PlainConsole(stderr=True), transient=True))
