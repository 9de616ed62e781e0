"""Decoded images in one block of bytes, in memory or in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgrec.data.cache.lock import hold
from imgrec.data.decoding.image import BadImage
from imgrec.errors import UserError

FORMAT = 1
IMAGES, INDEX, META = "images.bin", "index.npy", "meta.json"
ENTRY = np.dtype([("offset", "<u8"), ("height", "<u4"), ("width", "<u4"), ("channels", "u1"), ("crc", "<u4")])
"""Row of the index. An unreadable image has 0 channels."""


class BrokenCacheError(UserError):
    """Cache folder that is incomplete, or that is not a cache."""


class DecodedImages:
    """Images in one block of uint8 with an index of their offsets.

    If all readable images have one shape, they are stored with the channels first, so that a batch is one copy.
    Otherwise they are stored with the channels last, for which resizing is fastest.

    Args:
        data: All bytes, uint8 ``(bytes,)``.
        index: One :data:`ENTRY` per image.
        bad: Reasons of unreadable images by slot.
        planar: True if the channels are first.
        folder: Folder of the memory-mapped file. Defaults to none.
    """

    def __init__(
        self, data: Tensor, index: NDArray[Any], bad: dict[int, str], planar: bool, folder: Path | None = None
    ) -> None:
        self.data = data
        self.index = index
        self.bad = bad
        self.planar = planar
        self.folder = folder
        self._lock: BinaryIO | None = None
        shapes = np.unique(index[index["channels"] > 0][["channels", "height", "width"]])
        self._all: Tensor | None = None
        if planar and len(shapes) == 1:
            self._all = data.view(-1, *(int(side) for side in shapes[0]))
            self._place = torch.from_numpy((index["offset"] // max(1, self._all[:1].numel())).astype(np.int64))

    def __len__(self) -> int:
        return len(self.index)

    def load(self, slot: int) -> Tensor:
        """Return a copy of an image: uint8 ``(channels, height, width)``. Raise :class:`BadImage` if there is none."""
        if slot in self.bad:
            raise BadImage(self.bad[slot])
        offset, height, width, channels, _ = self.index[slot].tolist()
        image = self.data[offset : offset + channels * height * width]
        if self.planar:
            return image.view(channels, height, width).clone()
        return image.view(height, width, channels).clone().permute(2, 0, 1)

    def gather(self, slots: NDArray[np.int64]) -> Tensor | None:
        """Return a copy of several images, or ``None`` if their shapes differ or if one is unreadable."""
        if self._all is None or (self.bad and not self.bad.keys().isdisjoint(slots.tolist())):
            return None
        return self._all.index_select(0, self._place[torch.from_numpy(slots)])

    def damaged(self) -> Iterator[int]:
        """Yield the slots whose bytes differ from their checksum."""
        for slot, (offset, height, width, channels, crc) in enumerate(self.index.tolist()):
            if channels and zlib.crc32(self.data[offset : offset + channels * height * width].numpy().data) != crc:
                yield slot

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the images of a cache folder as a memory map.

        Sizes and the checksum of the index are verified. :meth:`damaged` verifies those of the images. As long as
        the returned object exists, the cache counts as in use and is not removed to make room for another one.

        Raises:
            BrokenCacheError: If the folder is not a complete cache. The message contains the reason.
        """
        try:
            lock = hold(folder / META)
        except OSError as error:
            raise BrokenCacheError(f"{folder / META} cannot be read: {error.strerror}") from error
        meta = read_meta(folder)
        index_bytes = _read(folder / INDEX)
        if hashlib.blake2b(index_bytes, digest_size=16).hexdigest() != meta["index_checksum"]:
            raise BrokenCacheError(f"{folder / INDEX} is not what was written")
        index = np.load(folder / INDEX, allow_pickle=False)
        data = _mapped(folder / IMAGES, meta["bytes"])
        bad = {int(slot): str(reason) for slot, reason in meta["bad"].items()}
        found = cls(data, index, bad, bool(meta["planar"]), folder)
        found._lock = lock
        return found

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__) | {"_lock": None}
        if self.folder is not None:  # a worker process maps the file again
            state["data"] = state["_all"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.folder is not None:
            self.__dict__.update(type(self).open(self.folder).__dict__)


class CachedImages:
    """Rows of a source from decoded images. Missing rows are read from the source.

    Args:
        images: Decoded images.
        slots: int64: slot of each row of the source in ``images``, or -1.
        read: Function that reads the image of a missing row.
    """

    def __init__(self, images: DecodedImages, slots: NDArray[np.int64], read: Callable[[int], Tensor]) -> None:
        self.images = images
        self.slots = slots
        self._read = read

    def load(self, index: int) -> Tensor:
        """Return the image of a row. Raise :class:`BadImage` if it is unreadable."""
        slot = int(self.slots[index])
        return self._read(index) if slot < 0 else self.images.load(slot)

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the images of several rows, or ``None`` if shapes differ or if one is missing."""
        slots = self.slots[rows]
        return None if (slots < 0).any() else self.images.gather(slots)


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the description of a cache.

    Raises:
        BrokenCacheError: If it is missing, incomplete or of another format.
    """
    try:
        meta = json.loads(_read(folder / META))
        if meta["format"] != FORMAT:
            raise BrokenCacheError(f"{folder} has the format {meta['format']}, not {FORMAT}")
        if {"bytes", "index_checksum", "bad", "planar", "origin", "plan", "created"} - meta.keys():
            raise BrokenCacheError(f"{folder / META} is not complete")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, BrokenCacheError):
            raise
        raise BrokenCacheError(f"{folder / META} cannot be read: {error}") from error
    return dict(meta)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenCacheError(f"{path} cannot be read: {error.strerror}") from error


def _mapped(path: Path, size: int) -> Tensor:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise BrokenCacheError(f"{path} cannot be read: {error.strerror}") from error
    if found != size:
        raise BrokenCacheError(f"{path} has {found} bytes instead of {size}")
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the memory map is read-only, and load() copies
        return torch.from_numpy(np.memmap(path, np.uint8, "r"))
