"""The limit on the total size of all caches of decoded images, and removal of the least recently used ones."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from imgrec.data.cache.registry import StoredCache, cache_root, remove_unused_cache, stored_caches
from imgrec.errors import ResourceError, UserError
from imgrec.utils.paths import write_text

logger = logging.getLogger(__name__)

VARIABLE = "IMGREC_CACHE_LIMIT"
"""The environment variable with the limit. It takes precedence over the stored one."""

DEFAULT = "50%"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]?i?b?)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class CacheLimit:
    """The limit, in bytes, and its origin: ``"the default, 50%"``."""

    size: int
    origin: str


def cache_limit(root: Path | None = None) -> CacheLimit:
    """Return the limit on the total size of the caches in a folder.

    It is given by the environment variable ``IMGREC_CACHE_LIMIT``, otherwise by ``imgrec cache limit SIZE``. The
    default is half of the disk space that is free or taken by the caches.

    Args:
        root: the folder of the caches, default :func:`imgrec.data.cache_root`.

    Raises:
        UserError: If the environment variable or the stored limit is no size.
    """
    root = cache_root() if root is None else root
    given = os.environ.get(VARIABLE)
    if given:
        return CacheLimit(_bytes(given, root, VARIABLE), f"{VARIABLE}={given}")
    try:
        stored = _file(root).read_text(encoding="utf-8").strip()
    except OSError:
        return CacheLimit(_bytes(DEFAULT, root, "default"), f"the default, {DEFAULT}")
    return CacheLimit(_bytes(stored, root, str(_file(root))), f"imgrec cache limit {stored}")


def store_limit(text: str, root: Path | None = None) -> None:
    """Store the limit for later runs.

    Args:
        text: the size, for example ``20GB``, ``500MiB`` or ``30%`` of the disk space that is free or taken by caches.
        root: the folder of the caches.

    Raises:
        UserError: If ``text`` is no size.
        ResourceError: If it cannot be stored.
    """
    root = cache_root() if root is None else root
    _bytes(text, root, "imgrec cache limit")
    try:
        write_text(_file(root), f"{text.strip()}\n")
    except OSError as error:
        raise ResourceError(f"{_file(root)} cannot be written: {error.strerror or error}.") from error


def make_room(size: int, root: Path | None = None, keep: Container[Path] = ()) -> bool:
    """Remove the least recently used caches until ``size`` further bytes are within the limit.

    A cache that a process has open is never removed.

    Args:
        size: Size of the new cache, in bytes.
        root: Folder of the caches. Defaults to :func:`imgrec.data.cache.registry.cache_root`.
        keep: Folders of caches that are not removed. Defaults to none.

    Returns:
        True if the total, including ``size``, is within the limit now.
    """
    root = cache_root() if root is None else root
    limit = cache_limit(root)
    found = stored_caches(root)
    total = sum(cache.size for cache in found) + size
    for cache in sorted(found, key=lambda cache: cache.last_used):
        if total <= limit.size or size > limit.size:
            break
        removed = cache.size
        if cache.folder in keep or not remove_unused_cache(cache):
            continue
        total -= removed
        logger.warning(
            "data.cache: removed %s (%s), the least recently used cache, to remain within %s (%s)",
            cache.name,
            readable_size(removed),
            readable_size(limit.size),
            limit.origin,
        )
    return total <= limit.size


def used_space(root: Path | None = None) -> int:
    """Return the total size of all caches, in bytes."""
    return sum(cache.size for cache in stored_caches(root))


def free_space(folder: Path) -> int:
    """Return the free disk space at a folder, which need not exist yet, in bytes."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def parse_limit(text: str) -> tuple[float, bool]:
    """Return a size in bytes and False, or a fraction and True for a percentage.

    Raises:
        UserError: If it is no size.

    >>> parse_limit("1.5 GiB"), parse_limit("20kB"), parse_limit("30%")
    ((1610612736.0, False), (20000.0, False), (0.3, True))
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[2] == "%" and float(match[1]) > 100):
        raise UserError(f"expected a size such as 20GB, 500MiB or 30% (at most 100%), got {text!r}.")
    if match[2] == "%":
        return float(match[1]) / 100, True
    unit = match[2].lower()
    base = 1024 if "i" in unit else 1000
    return float(match[1]) * base ** _POWERS[unit.rstrip("ib")], False


def readable_size(size: float) -> str:
    """Return a size as text, in MiB or GiB.

    >>> readable_size(3 * 2**30), readable_size(2**20)
    ('3.0 GiB', '1.0 MiB')
    """
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def describe_total(caches: list[StoredCache]) -> str:
    """Return the number and size of the caches, and the limit, as one line."""
    limit = cache_limit()
    total = readable_size(sum(cache.size for cache in caches))
    return f"{len(caches)} in {cache_root()}: {total} of at most {readable_size(limit.size)} ({limit.origin})"


def _file(root: Path) -> Path:
    return root.parent / "cache-limit.txt"


def _bytes(text: str, root: Path, place: str) -> int:
    try:
        size, is_share = parse_limit(text)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    return int(size * (free_space(root) + used_space(root)) if is_share else size)
