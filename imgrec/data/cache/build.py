"""Building a cache of decoded images: by several threads, in bounded memory, whole or not at all."""

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
"""Largest number of images that one thread decodes before it hands them over."""

_CHUNK_BYTES = 32 << 20
"""Bytes of decoded images in a chunk, and in an eighth of the chunks that wait to be written."""


def build_in_memory(read: Read, rows: NDArray[np.int64], planar: bool) -> DecodedImages:
    """Decode these rows into memory that worker processes share.

    Args:
        read: what is kept of a row: uint8 ``(channels, height, width)``. Raises :class:`BadImage`.
        rows: which rows, in the order of their slots.
        planar: whether to store channel by channel.
    """
    block = bytearray()
    index, bad = _pack(read, rows, planar, block.extend)
    data = torch.frombuffer(block, dtype=torch.uint8) if block else torch.empty(0, dtype=torch.uint8)
    return DecodedImages(data, index, bad, planar)


def build_on_disk(read: Read, rows: NDArray[np.int64], planar: bool, folder: Path, about: dict[str, Any]) -> None:
    """Decode these rows into ``folder``, which is there in the end, whole, or as it was before.

    Args:
        read: likewise.
        rows: likewise.
        planar: likewise.
        folder: the cache's folder; an old one is replaced.
        about: what the cache is to say of itself besides: ``origin``, ``plan``.

    Raises:
        OSError: the disk is full, or the place cannot be written to; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.building-"))
    try:
        with (aside / IMAGES).open("wb") as file:
            index, bad = _pack(read, rows, planar, file.write)
            size = file.tell()
            _settle(file)
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
                _settle(file)
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)  # mkdtemp's folders are the owner's alone
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def building(folder: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Only one process at a time is inside for a folder; what a killed builder left behind is removed.

    Args:
        folder: the cache's folder.
        waiting: called where another process is inside, before waiting for it.

    Raises:
        OSError: the place cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            import fcntl
        except (
            ImportError
        ):  # no such locks on Windows: two builders build twice, and one of them puts its work in place
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
    """Yield the bytes, shape and checksum of each row, or why it cannot be read; in order, a few chunks ahead.

    The larger the images are, the fewer of them are decoded ahead.
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
            while begin < len(rows) and len(waiting) < (ahead if begin else 1):  # the first chunk shows their size
                end = min(len(rows), begin + (size if begin else 1))
                waiting.append(pool.submit(chunk, begin, end))
                begin = end
            found = waiting.popleft().result()
            largest = max([largest, *(len(image[0]) for image in found if not isinstance(image, str))])
            yield from found
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # an interrupt, or a full disk, ends it soon


def _settle(file: Any) -> None:
    """Wait until the disk has it, so that no rename can come before."""
    file.flush()
    os.fsync(file.fileno())
