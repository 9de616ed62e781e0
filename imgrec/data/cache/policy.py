"""Whether images are decoded once, and where they are kept: in memory, on disk, or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from imgrec.data.cache.build import build_in_memory, build_on_disk, building
from imgrec.data.cache.limit import cache_limit, free_space, make_room, readable_size
from imgrec.data.cache.lock import mark_used
from imgrec.data.cache.plan import CachePlan
from imgrec.data.cache.registry import cache_root, clear, stored_caches
from imgrec.data.cache.storage import ENTRY, FORMAT, META, BrokenCacheError, CachedImages, DecodedImages
from imgrec.data.decoding.image import BadImage
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.data.samplers.order import process_rank
from imgrec.data.sources.base import Source, SourceView
from imgrec.registry import Spec
from imgrec.utils.memory import free_memory
from imgrec.utils.paths import data_root

logger = logging.getLogger(__name__)

CacheMode = Literal["auto", "off", "memory", "disk"]

MOST_MEMORY = 4 << 30
"""The largest cache that ``auto`` keeps in memory, in bytes."""

_MEMORY_SHARE = 0.25
_LITTLE = 64 << 20
_DESCRIPTION = 2048  # bytes of a cache besides images and index
_PROBES = 16


@dataclass(frozen=True)
class Table:
    """The source that holds the images, below all views of it, and which of its rows a split may need.

    Args:
        base: where the images are.
        rows_of: for each row of the view its row in ``base``.
        needed: the rows of ``base`` that are to be cached.
        narrow: whether a view, and not the data, says which these are.
    """

    base: Source
    rows_of: NDArray[np.int64]
    needed: NDArray[np.int64]
    narrow: bool = False

    @classmethod
    def of(cls, source: Source, splits: set[str | None]) -> Table:
        """The table below ``source``, with the rows whose given split is one of these.

        What is cached depends on the splits that the base gives alone: a run that carves another part for validation,
        leaves classes out or alters labels finds the same cache. Of a view that is ``narrow``, its own rows are cached.
        """
        rows = np.arange(len(source))
        wanted: NDArray[np.int64] | None = None
        while isinstance(source, SourceView):
            if source.narrow or wanted is not None:
                wanted = source.rows if wanted is None else source.rows[wanted]
            rows, source = source.rows[rows], source.base
        there = range(len(source)) if wanted is None else np.unique(wanted).tolist()
        needed = [row for row in there if source.splits[row] in splits]
        return cls(source, rows, np.asarray(needed, dtype=np.int64), wanted is not None)

    def probe(self) -> list[Tensor]:
        """Return some of the images as tensors on the device ``meta``, which have a shape and no pixels."""
        found = []
        for row in self.needed[:: max(1, len(self.needed) // _PROBES)][:_PROBES].tolist():
            try:
                found.append(torch.empty_like(self.base.load(row), device="meta"))
            except BadImage:
                continue
        return found


def open_cache(
    table: Table, plan: CachePlan, mode: CacheMode, probes: Sequence[Tensor], spec: Spec
) -> CachedImages | None:
    """The images of a source, decoded once; ``None`` where they are to be decoded each time.

    ``auto`` takes a cache on disk that exists. Otherwise it takes memory if the images fit into a quarter of the free
    memory and into :data:`MOST_MEMORY`; in a training with several processes, up to 64 MiB. Otherwise it takes the
    disk if the images are within the limit on all caches (:func:`imgrec.data.cache.limit.cache_limit`), and otherwise
    none. A line in the log contains the choice, the size, the location and the reason, before anything is written.

    Args:
        table: the images.
        plan: what is kept of each.
        mode: ``data.cache``.
        probes: some of the images, from which the size is estimated; their pixels are not read.
        spec: the source's spec, to tell a cache whose data changed from one of other data.
    """
    if mode == "off" or not probes or not len(table.needed):
        return None
    folder = cache_root() / _key(table, plan)
    kept = [plan.apply(image) for image in probes]
    size = int(sum(image.numel() for image in kept) / len(kept) * len(table.needed))
    there = folder.is_dir() and mode in ("auto", "disk")
    where, why = ("disk", "it exists") if there else _choose(mode, size, folder)
    what = f"{len(table.needed):,} images ({plan}), about {readable_size(size)}"
    if where == "off":
        _report(logging.WARNING if mode == "disk" else logging.INFO, f"data.cache: off for {what}: {why}")
        return None

    def read(row: int) -> Tensor:
        with decoding():
            return plan.apply(table.base.load(row))

    if where == "memory":
        _report(logging.INFO, f"data.cache: memory for {what}: {why}")
        images = build_in_memory(read, table.needed, plan.side is not None)
    else:
        level = logging.INFO if there else logging.WARNING
        _report(level, f"data.cache: {'reads' if there else 'writes'} {folder} on disk for {what}: {why}")
        found = _on_disk(folder, read, table, plan, spec, size)
        if found is None:
            return None
        images = found
    slots = np.full(len(table.base), -1, dtype=np.int64)
    slots[table.needed] = np.arange(len(table.needed))
    return CachedImages(images, slots[table.rows_of], lambda row: read(int(table.rows_of[row])))


@rank_zero_only
def _report(level: int, message: str) -> None:
    logger.log(level, "%s", message)


def _choose(mode: CacheMode, size: int, folder: Path) -> tuple[str, str]:
    if mode == "memory":
        return mode, "as requested"
    memory = _memory_share()
    if mode == "auto" and size <= memory:
        return "memory", f"up to {readable_size(memory)} fit"
    limit = cache_limit(folder.parent)
    if size <= min(limit.size, free_space(folder)):
        given = "as requested" if mode == "disk" else f"more than {readable_size(memory)} of memory"
        return "disk", f"{given}. All caches together take at most {readable_size(limit.size)} ({limit.origin})"
    return "off", (
        f"it exceeds the limit of all caches, {readable_size(limit.size)} ({limit.origin}), or the free space in "
        f"{folder.parent}. `imgrec cache limit SIZE` sets another limit, and IMGREC_CACHE another place"
    )


def _memory_share() -> int:
    """Return how many bytes this process may keep in memory.

    With several processes, each would decode and hold all images; a cache on disk is decoded once and shared.
    """
    free = free_memory()
    if free is None or process_rank()[1] > 1:
        return _LITTLE
    return int(min(MOST_MEMORY, _MEMORY_SHARE * free))


def _on_disk(
    folder: Path, read: Callable[[int], Tensor], table: Table, plan: CachePlan, spec: Spec, size: int
) -> DecodedImages | None:
    """Open the cache, or build it after removing the least recently used ones; None if it cannot be written."""
    origin = _origin(spec, table, plan)
    try:
        with building(folder, lambda: logger.warning("data.cache: another process is building %s; waiting", folder)):
            if folder.is_dir():
                try:
                    images = DecodedImages.open(folder)
                    mark_used(folder / META)
                    return images
                except BrokenCacheError as error:
                    logger.warning("data.cache: building it again, it is refused: %s", error)
            about = {"origin": origin, "plan": str(plan), "source": spec}
            about_index = len(table.needed) * ENTRY.itemsize + _DESCRIPTION
            if not make_room(size + about_index, folder.parent, {folder}):
                logger.warning("data.cache: off, because the other caches are in use and leave no room below the limit")
                return None
            build_on_disk(read, table.needed, plan.side is not None, folder, about)
            images = DecodedImages.open(folder)
    except (OSError, BrokenCacheError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        logger.warning("data.cache: off, as %s cannot be written (%s); images are decoded each time", folder, reason)
        return None
    for other in stored_caches(folder.parent):
        if other.meta.get("origin") == origin and other.folder != folder:
            logger.warning("data.cache: the data changed; its old cache %s is deleted", other.name)
            clear(other)
    make_room(0, folder.parent, {folder})  # the size was an estimate
    return images


def _key(table: Table, plan: CachePlan) -> str:
    """What a cache is known by: which images, as they are now, and what is kept of them."""
    digest = hashlib.blake2b(f"{FORMAT}\0{plan.describe()}\0".encode(), digest_size=16)
    digest.update("\0".join(table.base.ids).encode("utf-8", "backslashreplace"))
    digest.update(table.needed.tobytes())
    for piece in table.base.state():
        digest.update(piece)
    return digest.hexdigest()


def _origin(spec: Spec, table: Table, plan: CachePlan) -> str:
    """What stays the same when the data changes: where it is looked for, and what is done to it."""
    splits = sorted({str(table.base.splits[row]) for row in table.needed.tolist()})
    place: list[Any] = [spec, os.getcwd(), str(data_root()), plan.describe(), splits]  # noqa: PTH109
    if table.narrow:  # other rows are no change of the data
        place += table.needed.tolist()
    return hashlib.blake2b(json.dumps(place, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
