"""Caches of decoded images on this machine: location, list, verification and removal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrec.data.cache.build import building
from imgrec.data.cache.lock import is_held
from imgrec.data.cache.storage import META, BrokenCacheError, DecodedImages, read_meta
from imgrec.data.decoding.image import file_size
from imgrec.errors import UserError


@dataclass(frozen=True)
class StoredCache:
    """Cache folder with its description, or with the reason that it is broken."""

    folder: Path
    meta: dict[str, Any]
    problem: str | None = None

    @property
    def name(self) -> str:
        """Name of the folder, which commands use."""
        return self.folder.name

    @property
    def size(self) -> int:
        """Size of its files, in bytes."""
        return sum(file_size(path) for path in self._files())

    @property
    def last_used(self) -> float:
        """Time of the last use, in seconds since 1970, or 0 for a cache that was removed in the meantime."""
        try:
            return (self.folder / META if self.meta else self.folder).stat().st_mtime
        except OSError:
            return 0.0

    def _files(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if path.is_file()]
        except OSError:  # another process removed it
            return []


def cache_root() -> Path:
    """Return the folder of all caches of decoded images, in ``IMGREC_CACHE`` or ``~/.cache/imgrec``."""
    given = os.environ.get("IMGREC_CACHE")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "imgrec") / "decoded"


def stored_caches(root: Path | None = None) -> list[StoredCache]:
    """Return all caches, broken ones first and the newest last."""
    root = cache_root() if root is None else root
    found = [_stored(folder) for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []
    return sorted(found, key=lambda cache: str(cache.meta.get("created", "")))


def verify(cache: StoredCache) -> Iterator[str]:
    """Yield the defects of a cache. Each image is compared with its checksum."""
    try:
        images = DecodedImages.open(cache.folder)
    except BrokenCacheError as error:
        yield str(error)
        return
    yield from (f"image {slot} is not what was written" for slot in images.damaged())


def clear(cache: StoredCache) -> None:
    """Delete a cache or an incomplete build. Processes that have it open can use it until they end.

    Raises:
        UserError: If another process is building it.
    """
    name = cache.name.removeprefix(".").partition(".building-")[0]

    def refuse() -> None:
        raise UserError(f"the cache {name} is being built by another process")

    with building(cache.folder.with_name(name), refuse):  # it removes incomplete builds
        shutil.rmtree(cache.folder, ignore_errors=cache.name.startswith("."))


def remove_unused_cache(cache: StoredCache) -> bool:
    """Delete a cache unless a process has it open or builds it.

    Returns:
        True if it was deleted.
    """

    def refuse() -> None:
        raise BlockingIOError

    name = cache.name.removeprefix(".").partition(".building-")[0]
    try:
        with building(cache.folder.with_name(name), refuse):
            if not is_held(cache.folder / META):
                shutil.rmtree(cache.folder, ignore_errors=cache.name.startswith("."))
                return True
    except OSError:
        return False
    return False


def _stored(folder: Path) -> StoredCache:
    if folder.name.startswith("."):
        return StoredCache(folder, {}, "an unfinished build")
    try:
        meta = read_meta(folder)
        DecodedImages.open(folder)
    except BrokenCacheError as error:
        return StoredCache(folder, {}, str(error))
    return StoredCache(folder, meta)
