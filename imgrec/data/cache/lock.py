"""Locks of caches in use: a process holds a shared lock on every cache that it has open."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

fcntl: Any = None
with suppress(ImportError):  # Windows: an open cache cannot be deleted there in any case
    fcntl = import_module("fcntl")


def hold(path: Path) -> BinaryIO | None:
    """Open a file and hold a shared lock on it until the returned file is closed.

    Returns:
        The open file, or None on systems and file systems without such locks.

    Raises:
        BlockingIOError: If another process is about to delete it.
        OSError: If there is no such file.
    """
    if fcntl is None:
        return None
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:  # a file system without locks
        file.close()
        return None
    return file


def is_held(path: Path) -> bool:
    """Return True if any process, this one included, holds a lock on the file or if that cannot be determined."""
    if fcntl is None or not path.exists():
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def mark_used(path: Path) -> None:
    """Set the time of the last use of a cache, the modification time of one of its files, to now."""
    with suppress(OSError):  # a cache on a read-only disk
        os.utime(path)
