"""Choice of the cache of decoded images: in memory, on disk, or none."""

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
"""Largest cache that ``auto`` keeps in memory, in bytes."""

_MEMORY_SHARE = 0.25
_MEMORY_PER_PROCESS = 64 << 20
_DESCRIPTION = 2048  # bytes of a cache in addition to images and index
_PROBES = 16


@dataclass(frozen=True)
class Table:
    """The source below all views, and its rows to cache.

    Args:
        base: Source that contains the images.
        rows_of: Row in ``base`` for each row of the view.
        needed: Rows of ``base`` to cache.
        narrow: True if a view determines these rows instead of the data. Defaults to False.
    """

    base: Source
    rows_of: NDArray[np.int64]
    needed: NDArray[np.int64]
    narrow: bool = False

    @classmethod
    def from_source(cls, source: Source, splits: set[str | None]) -> Table:
        """Return the table below ``source``, with the rows whose given split is one of ``splits``.

        The cached rows depend on the splits of the base only. A run with another validation split, fewer classes or
        other labels uses the same cache. For a ``narrow`` view, the rows of the view are cached.
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
    """Open or build the cache of the images of a source. Return ``None`` if images are decoded each time.

    ``auto`` uses an existing cache on disk. Otherwise it uses memory if the images fit into a quarter of the free
    memory and into :data:`MOST_MEMORY`, or into 64 MiB with several processes. Otherwise it uses the disk if the images
    are within the limit of all caches (:func:`imgrec.data.cache.limit.cache_limit`), and otherwise no cache. The
    choice, the size, the location and the reason are logged before anything is written.

    Args:
        table: Images.
        plan: Stored form of each image.
        mode: Value of ``data.cache``.
        probes: Some of the images, from which the size is estimated. Their pixels are not read.
        spec: Spec of the source, which distinguishes changed data from other data.
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

    With several processes, each process would decode and store all images. A cache on disk is decoded once and shared.
    """
    free = free_memory()
    if free is None or process_rank()[1] > 1:
        return _MEMORY_PER_PROCESS
    return int(min(MOST_MEMORY, _MEMORY_SHARE * free))


def _on_disk(
    folder: Path, read: Callable[[int], Tensor], table: Table, plan: CachePlan, spec: Spec, size: int
) -> DecodedImages | None:
    """Open the cache, or build it after removing the least recently used ones. Return ``None`` if this fails."""
    origin = _origin(spec, table, plan)
    try:
        with building(folder, lambda: logger.warning("data.cache: waiting for another process to build %s", folder)):
            if folder.is_dir():
                try:
                    images = DecodedImages.open(folder)
                    mark_used(folder / META)
                    return images
                except BrokenCacheError as error:
                    logger.warning("data.cache: building it again, because it is damaged: %s", error)
            about = {"origin": origin, "plan": str(plan), "source": spec}
            about_index = len(table.needed) * ENTRY.itemsize + _DESCRIPTION
            if not make_room(size + about_index, folder.parent, {folder}):
                logger.warning("data.cache: off, because the other caches are in use and leave no room below the limit")
                return None
            build_on_disk(read, table.needed, plan.side is not None, folder, about)
            images = DecodedImages.open(folder)
    except (OSError, BrokenCacheError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        logger.warning("data.cache: off, because %s cannot be written (%s)", folder, reason)
        return None
    for other in stored_caches(folder.parent):
        if other.meta.get("origin") == origin and other.folder != folder:
            logger.warning("data.cache: deleted the previous cache %s, because the data changed", other.name)
            clear(other)
    make_room(0, folder.parent, {folder})  # the size was an estimate
    return images


def _key(table: Table, plan: CachePlan) -> str:
    """Return the name of a cache, a hash of the images, their state and their stored form."""
    digest = hashlib.blake2b(f"{FORMAT}\0{plan.describe()}\0".encode(), digest_size=16)
    digest.update("\0".join(table.base.ids).encode("utf-8", "backslashreplace"))
    digest.update(table.needed.tobytes())
    for piece in table.base.state():
        digest.update(piece)
    return digest.hexdigest()


def _origin(spec: Spec, table: Table, plan: CachePlan) -> str:
    """Return a hash of the source and the stored form of its images, which does not change with the data."""
    splits = sorted({str(table.base.splits[row]) for row in table.needed.tolist()})
    place: list[Any] = [spec, os.getcwd(), str(data_root()), plan.describe(), splits]  # noqa: PTH109
    if table.narrow:  # other rows do not mean that the data changed
        place += table.needed.tolist()
    return hashlib.blake2b(json.dumps(place, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
