"""Search for unreadable images before training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from imgrec.data.decoding.image import BadImage
from imgrec.data.sources.base import Source
from imgrec.errors import UserError
from imgrec.utils.progress import progress_bar


def usable_cores() -> int:
    """Return the number of processor cores that this process can use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_bad_images(source: Source, rows: Iterable[int]) -> dict[str, str]:
    """Decode every image of these rows in several threads, and return the reason by id for unreadable ones.

    The result is sorted by id. A progress bar is shown on a terminal if there are many images.
    """
    rows = list(rows)
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:

        def reasons() -> Iterator[str | None]:
            waiting = iter(rows)
            while block := list(islice(waiting, 512)):  # in blocks, so that an interrupt ends it soon
                yield from pool.map(lambda row: _reason(source, row), block)

        for row, reason in zip(rows, progress_bar(reasons(), len(rows), "Checking images"), strict=True):
            if reason is not None:
                bad[source.ids[row]] = reason
    return dict(sorted(bad.items()))


def refuse_bad_images(bad: Mapping[str, str], total: int, at_most: int = 10) -> None:
    """Raise :class:`UserError` with the count, the first ids and the reasons if there are bad images."""
    if not bad:
        return
    lines = [f"  {name}: {reason}" for name, reason in islice(bad.items(), at_most)]
    if len(bad) > at_most:
        lines.append(f"  and {len(bad) - at_most} more")
    raise UserError(
        f"data: {len(bad)} of {total} images cannot be read:\n"
        + "\n".join(lines)
        + "\nMend or remove them, or leave them out of training with `on_bad_image: skip`."
    )


def _reason(source: Source, row: int) -> str | None:
    try:
        source.load(row)
    except BadImage as error:
        return error.reason
    return None
