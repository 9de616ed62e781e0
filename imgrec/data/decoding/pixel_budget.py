"""A limit on the pixels of one image, and on the pixels that are decoded at the same time."""

from __future__ import annotations

import logging
import math
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from PIL import Image

from imgrec.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

VARIABLE = "IMGREC_MAX_IMAGE_PIXELS"
"""Environment variable with the largest number of pixels of an image, and of all images decoded at the same time."""

SLOTS = 16
"""Number of equal parts of the limit. An image of at most one part is not counted."""

_PATIENCE = 60.0  # seconds until a process that is stopped no longer blocks the others
_PAUSE = 0.01

Release = Callable[[], None]


def max_pixels() -> int:
    """Return the largest number of pixels of an image that is decoded.

    The default is the number above which Pillow refuses an image, about 179 million.

    Raises:
        UserError: If the environment variable ``IMGREC_MAX_IMAGE_PIXELS`` is not a number of 1 or more.
    """
    given = os.environ.get(VARIABLE)
    accepted = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None
    if not given:
        return accepted or 1 << 62
    limit = _parse(given)
    if accepted is not None and limit > accepted:
        Image.MAX_IMAGE_PIXELS = -(-limit // 2)  # the limit of the user exceeds that of Pillow
    return limit


@contextmanager
def decoding() -> Iterator[None]:
    """Keep the reservation of a decoded image until the block ends.

    Put the block around decoding an image and reducing it, and keep only the reduced image. The thread holds the
    reservation of one image at a time: a second image in the same block replaces the first. Blocks may be nested. The
    outermost block ends the reservation.
    """
    _thread.depth += 1
    try:
        yield
    finally:
        _thread.depth -= 1
        if not _thread.depth:
            _release()


def reserve(pixels: int) -> None:
    """Wait until an image of this size may be decoded. Call it inside a :func:`decoding` block.

    All threads and processes of one user on one machine share :func:`max_pixels`. One image is always admitted.

    Args:
        pixels: Number of pixels, height times width.
    """
    _release()
    part = max(1, max_pixels() // SLOTS)
    if pixels > part and _thread.depth:
        _thread.release = _acquire(min(SLOTS, math.ceil(pixels / part)))


class _Thread(threading.local):
    depth = 0
    release: Release | None = None


_thread = _Thread()


def _release() -> None:
    release, _thread.release = _thread.release, None
    if release is not None:
        release()


def _acquire(slots: int) -> Release:
    _in_process.acquire(slots)
    try:
        held = _acquire_files(slots)
    except BaseException:
        _in_process.release(slots)
        raise

    def release() -> None:
        for descriptor in held:
            _close(descriptor)
        _in_process.release(slots)

    return release


class _Slots:
    """The slots that the threads of this process hold."""

    def __init__(self) -> None:
        self.free = SLOTS
        self.changed = threading.Condition()

    def acquire(self, slots: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.free >= slots)
            self.free -= slots

    def release(self, slots: int) -> None:
        with self.changed:
            self.free += slots
            self.changed.notify_all()


_in_process = _Slots()
_descriptors: set[int] = set()


def _acquire_files(slots: int) -> list[int]:
    """Lock this many slots against other processes. The kernel frees the slots of a process that was killed."""
    folder = _folder() if fcntl is not None else None
    if folder is None:
        return []
    held: dict[int, int] = {}
    door: int | None = None
    deadline = time.monotonic() + _PATIENCE
    try:
        while len(held) < slots:
            if door is None:  # one process at a time collects slots, so that no two wait for each other
                door = _lock(folder / "door")
            for number in range(SLOTS if door is not None else 0):
                if number not in held and len(held) < slots and (found := _lock(folder / str(number))) is not None:
                    held[number] = found
            if len(held) < slots:
                if time.monotonic() > deadline:
                    logger.warning("large images: decoding without a reservation, because other processes keep theirs")
                    break
                time.sleep(_PAUSE)
    except OSError:  # no such locks on this file system: the limit holds for this process alone
        pass
    finally:
        if door is not None:
            _close(door)
    return list(held.values())


def _folder() -> Path | None:
    """Return the folder of the lock files, which belongs to this user alone, or ``None`` if it cannot be created."""
    user = os.getuid()
    path = Path(tempfile.gettempdir()) / f"imgrec-large-images-{user}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError:
        return None
    return path if stat.S_ISDIR(found.st_mode) and found.st_uid == user else None


def _lock(path: Path) -> int | None:
    """Return the descriptor of a locked file, or ``None`` if another process or thread has locked it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    _descriptors.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _close(descriptor)
        return None
    except OSError:
        _close(descriptor)
        raise
    return descriptor


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    os.close(descriptor)


def _after_fork() -> None:
    """Drop the reservations of the parent process, which a forked process must not keep locked."""
    global _in_process
    for descriptor in list(_descriptors):
        _close(descriptor)
    _in_process = _Slots()
    _thread.depth, _thread.release = 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@lru_cache(maxsize=8)
def _parse(given: str) -> int:
    try:
        limit = int(float(given))
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise UserError(f"{VARIABLE}: expected a number of pixels, 1 or more, got {given!r}.")
    return limit
