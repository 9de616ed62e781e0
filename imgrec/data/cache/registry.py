"""Where caches lie on this machine, which there are, and how they are cleared away."""

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
    """A cache folder: what it says of itself, or what is wrong with it."""

    folder: Path
    meta: dict[str, Any]
    problem: str | None = None

    @property
    def name(self) -> str:
        """The folder's name, by which commands know it."""
        return self.folder.name

    @property
    def size(self) -> int:
        """What its files take, in bytes."""
        return sum(file_size(path) for path in self._files())

    @property
    def last_used(self) -> float:
        """Time of the last use, in seconds since 1970; 0 for a cache that was removed meanwhile."""
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
    """The folder of all caches of decoded images, below ``IMGREC_CACHE``, else below ``~/.cache/imgrec``."""
    given = os.environ.get("IMGREC_CACHE")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "imgrec") / "decoded"


def stored_caches(root: Path | None = None) -> list[StoredCache]:
    """All caches, the newest last; those that are not whole come first and say why."""
    root = cache_root() if root is None else root
    found = [_stored(folder) for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []
    return sorted(found, key=lambda cache: str(cache.meta.get("created", "")))


def verify(cache: StoredCache) -> Iterator[str]:
    """Everything that is wrong with a cache: each image is compared with its checksum."""
    try:
        images = DecodedImages.open(cache.folder)
    except BrokenCacheError as error:
        yield str(error)
        return
    yield from (f"image {slot} is not what was written" for slot in images.damaged())


def clear(cache: StoredCache) -> None:
    """Delete a cache, or what a killed build left; processes that have it open keep it until they end.

    Raises:
        UserError: it is being built at the moment.
    """
    name = cache.name.removeprefix(".").partition(".building-")[0]

    def refuse() -> None:
        raise UserError(f"the cache {name} is being built by another process")

    with building(cache.folder.with_name(name), refuse):  # it takes leftovers of killed builds away
        shutil.rmtree(cache.folder, ignore_errors=cache.name.startswith("."))


def remove_unused(cache: StoredCache) -> bool:
    """Delete a cache unless a process has it open or builds it; return True if it was deleted."""

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
        return StoredCache(folder, {}, "a build that is going on, or was killed")
    try:
        meta = read_meta(folder)
        DecodedImages.open(folder)
    except BrokenCacheError as error:
        return StoredCache(folder, {}, str(error))
    return StoredCache(folder, meta)
