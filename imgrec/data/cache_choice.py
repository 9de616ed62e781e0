"""Whether images are decoded once, and where they are kept: in memory, on disk, or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from imgrec.data.cache import FORMAT, BrokenCacheError, CachedImages, DecodedImages
from imgrec.data.cache_build import build_in_memory, build_on_disk, building
from imgrec.data.cache_plan import CachePlan
from imgrec.data.cache_store import cache_root, clear, stored_caches
from imgrec.data.decode import BadImage
from imgrec.data.pixel_budget import decoding
from imgrec.data.source import Source
from imgrec.data.view import View
from imgrec.files import data_root
from imgrec.registry import Spec

logger = logging.getLogger(__name__)

CacheMode = Literal["auto", "off", "memory", "disk"]

SMALL = 64 << 20
"""Decoded images of up to this many bytes are kept in memory: decoding them takes about a second."""

_FREE_SHARE = 0.5
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
        while isinstance(source, View):
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


def cached_images(
    table: Table, plan: CachePlan, mode: CacheMode, probes: Sequence[Tensor], spec: Spec
) -> CachedImages | None:
    """The images of a source, decoded once; ``None`` where they are to be decoded each time.

    ``auto`` takes a cache on disk that is there already; else memory for up to :data:`SMALL` bytes; else the disk,
    where the cache takes no more than half of what is free; else none. One line in the log says which and why.

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
    where, why = ("disk", "it is there") if there else _choose(mode, size, folder)
    what = f"{len(table.needed):,} images ({plan}), about {_readable(size)}"
    if where == "off":
        _say(f"data.cache: off for {what}: {why}")
        return None

    def read(row: int) -> Tensor:
        with decoding():
            return plan.apply(table.base.load(row))

    if where == "memory":
        _say(f"data.cache: memory for {what}: {why}")
        images = build_in_memory(read, table.needed, plan.side is not None)
    else:
        _say(f"data.cache: {folder} on disk for {what}: {why}")
        found = _on_disk(folder, read, table, plan, spec)
        if found is None:
            return None
        images = found
    slots = np.full(len(table.base), -1, dtype=np.int64)
    slots[table.needed] = np.arange(len(table.needed))
    return CachedImages(images, slots[table.rows_of], lambda row: read(int(table.rows_of[row])))


@rank_zero_only
def _say(message: str) -> None:
    logger.info(message)


def _choose(mode: CacheMode, size: int, folder: Path) -> tuple[str, str]:
    if mode != "auto":
        return mode, "as asked for"
    if size <= SMALL:
        return "memory", f"up to {_readable(SMALL)}"
    free = _free(folder)
    if size <= _FREE_SHARE * free:
        return "disk", f"more than {_readable(SMALL)}, and {_readable(free)} are free"
    return "off", f"only {_readable(free)} are free in {folder.parent}; IMGREC_CACHE names another place"


def _on_disk(
    folder: Path, read: Callable[[int], Tensor], table: Table, plan: CachePlan, spec: Spec
) -> DecodedImages | None:
    """Open the cache, or build it; ``None`` where it cannot be written."""
    origin = _origin(spec, table, plan)
    try:
        with building(folder, lambda: logger.warning("data.cache: another process is building %s; waiting", folder)):
            if folder.is_dir():
                try:
                    return DecodedImages.open(folder)
                except BrokenCacheError as error:
                    logger.warning("data.cache: building it again, it is refused: %s", error)
            about = {"origin": origin, "plan": str(plan), "source": spec}
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


def _free(folder: Path) -> int:
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _readable(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
