"""Construction of a cache of decoded images by several threads in bounded memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgrec.data.bad_images import usable_cores
from imgrec.data.cache.storage import ENTRY, FORMAT, IMAGES, INDEX, META, DecodedImages
from imgrec.data.decoding.image import BadImage
from imgrec.utils.progress import progress_bar

Read = Callable[[int], Tensor]
Write = Callable[[bytes], object]

_CHUNK = 32
"""Largest number of images in a chunk, which one thread decodes."""

_CHUNK_BYTES = 32 << 20
"""Size of the decoded images of a chunk, and an eighth of the size of the chunks that wait to be written."""


def build_in_memory(read: Read, rows: NDArray[np.int64], planar: bool) -> DecodedImages:
    """Decode these rows into memory that worker processes share.

    Args:
        read: Function that returns the stored image of a row, uint8 ``(channels, height, width)``, or raises
            :class:`BadImage`.
        rows: Rows in the order of their slots.
        planar: True to store one channel after the other.
    """
    block = bytearray()
    index, bad = _pack(read, rows, planar, block.extend)
    data = torch.frombuffer(block, dtype=torch.uint8) if block else torch.empty(0, dtype=torch.uint8)
    return DecodedImages(data, index, bad, planar)


def build_on_disk(read: Read, rows: NDArray[np.int64], planar: bool, folder: Path, about: dict[str, Any]) -> None:
    """Decode these rows into ``folder``, through a temporary folder that is renamed at the end.

    Args:
        read: See :func:`build_in_memory`.
        rows: See :func:`build_in_memory`.
        planar: See :func:`build_in_memory`.
        folder: Folder of the cache. An existing one is replaced.
        about: Further entries of the description of the cache: ``origin``, ``plan``.

    Raises:
        OSError: If the disk is full, or if the folder cannot be written. The temporary folder is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.building-"))
    try:
        with (aside / IMAGES).open("wb") as file:
            index, bad = _pack(read, rows, planar, file.write)
            size = file.tell()
            _sync(file)
        table = io.BytesIO()
        np.save(table, index, allow_pickle=False)
        meta = {
            "format": FORMAT,
            "images": len(rows),
            "bytes": size,
            "index_checksum": hashlib.blake2b(table.getvalue(), digest_size=16).hexdigest(),
            "bad": {str(slot): reason for slot, reason in bad.items()},
            "planar": planar,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **about,
        }
        for name, content in ((INDEX, table.getvalue()), (META, json.dumps(meta, indent=1).encode())):
            with (aside / name).open("wb") as file:
                file.write(content)
                _sync(file)
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)  # mkdtemp creates a folder that only the owner can read
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def building(folder: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Lock the folder of a cache for one process at a time, and remove the files of interrupted builds.

    Args:
        folder: Folder of the cache.
        waiting: Function that is called if another process has the lock, before waiting for it.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks: two processes build the cache, and one result is used
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.parent.glob(f".{folder.name}.building-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _pack(read: Read, rows: NDArray[np.int64], planar: bool, write: Write) -> tuple[NDArray[Any], dict[int, str]]:
    index = np.zeros(len(rows), ENTRY)
    bad: dict[int, str] = {}
    offset = 0
    found = progress_bar(_decoded(read, rows, planar), len(rows), "Decoding images for the cache")
    for slot, image in enumerate(found):
        if isinstance(image, str):
            bad[slot] = image
            continue
        content, (channels, height, width), crc = image
        write(content)
        index[slot] = (offset, height, width, channels, crc)
        offset += len(content)
    return index, bad


Image = tuple[bytes, tuple[int, int, int], int]


def _decoded(read: Read, rows: NDArray[np.int64], planar: bool) -> Iterator[Image | str]:
    """Yield the bytes, shape and checksum of each row in order, or the reason for which it cannot be read.

    A few chunks are decoded in advance. The number of these images decreases with their size.
    """

    def one(row: int) -> Image | str:
        try:
            image = read(row)
        except BadImage as error:
            return error.reason
        channels, height, width = image.shape
        content = (image if planar else image.permute(1, 2, 0)).contiguous().numpy().tobytes()
        return content, (channels, height, width), zlib.crc32(content)

    def chunk(begin: int, end: int) -> list[Image | str]:
        return [one(row) for row in rows[begin:end].tolist()]

    threads = min(8, usable_cores())
    largest = 1
    begin = 0
    waiting: deque[Future[list[Image | str]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        while begin < len(rows) or waiting:
            size = max(1, min(_CHUNK, _CHUNK_BYTES // largest))
            ahead = max(1, min(2 * threads, 8 * _CHUNK_BYTES // (size * largest)))
            while begin < len(rows) and len(waiting) < (ahead if begin else 1):  # the first chunk determines the size
                end = min(len(rows), begin + (size if begin else 1))
                waiting.append(pool.submit(chunk, begin, end))
                begin = end
            found = waiting.popleft().result()
            largest = max([largest, *(len(image[0]) for image in found if not isinstance(image, str))])
            yield from found
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # after an interrupt or an error


def _sync(file: Any) -> None:
    """Wait until a file is on disk, so that it is complete before the folder is renamed."""
    file.flush()
    os.fsync(file.fileno())
