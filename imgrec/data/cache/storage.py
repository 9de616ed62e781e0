"""Decoded images, packed into one block of bytes: in memory, or in a file that is mapped into it."""

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
"""One row of the index; an image that could not be read has 0 channels."""


class BrokenCacheError(UserError):
    """A cache folder that is not whole, or not one of ours."""


class DecodedImages:
    """Images behind one another in one block of uint8, with an index of where each one begins.

    In a uniform block all readable images have one shape, and are stored channel by channel, so that a batch is one
    copy. Otherwise they are stored pixel by pixel, which resizing is fastest on.

    Args:
        data: all bytes, uint8 ``(bytes,)``.
        index: one :data:`ENTRY` an image.
        bad: why images that are not there could not be read, by slot.
        planar: whether the images are stored channel by channel.
        folder: the folder that ``data`` is mapped from, if any.
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
        """A copy of one image: uint8 ``(channels, height, width)``. Raises :class:`BadImage`."""
        if slot in self.bad:
            raise BadImage(self.bad[slot])
        offset, height, width, channels, _ = self.index[slot].tolist()
        image = self.data[offset : offset + channels * height * width]
        if self.planar:
            return image.view(channels, height, width).clone()
        return image.view(height, width, channels).clone().permute(2, 0, 1)

    def gather(self, slots: NDArray[np.int64]) -> Tensor | None:
        """A copy of several images of one shape; ``None`` where shapes differ, or one could not be read."""
        if self._all is None or (self.bad and not self.bad.keys().isdisjoint(slots.tolist())):
            return None
        return self._all.index_select(0, self._place[torch.from_numpy(slots)])

    def damaged(self) -> Iterator[int]:
        """The slots whose bytes are not those that were written."""
        for slot, (offset, height, width, channels, crc) in enumerate(self.index.tolist()):
            if channels and zlib.crc32(self.data[offset : offset + channels * height * width].numpy().data) != crc:
                yield slot

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The images of a cache folder, mapped into memory.

        Sizes and the index's checksum are compared; the images' own checksums are not: see :meth:`damaged`. As long as
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
        if self.folder is not None:  # a worker process maps the file itself
            state["data"] = state["_all"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.folder is not None:
            self.__dict__.update(type(self).open(self.folder).__dict__)


class CachedImages:
    """The rows of a source, taken out of decoded images; rows that are not there are read from the source.

    Args:
        images: what is at hand.
        slots: int64, for each row of the source its slot in ``images``, or -1.
        read: reads what the cache would hold of a row. Raises :class:`BadImage`.
    """

    def __init__(self, images: DecodedImages, slots: NDArray[np.int64], read: Callable[[int], Tensor]) -> None:
        self.images = images
        self.slots = slots
        self._read = read

    def load(self, index: int) -> Tensor:
        """The image of a row. Raises :class:`BadImage`."""
        slot = int(self.slots[index])
        return self._read(index) if slot < 0 else self.images.load(slot)

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:
        """The images of rows at once; ``None`` where they have no common shape, or are not all there."""
        slots = self.slots[rows]
        return None if (slots < 0).any() else self.images.gather(slots)


def read_meta(folder: Path) -> dict[str, Any]:
    """What a cache says about itself.

    Raises:
        BrokenCacheError: there is nothing that can be read, or it is of another format.
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
        warnings.simplefilter("ignore", UserWarning)  # that it is not writable: nothing writes to it, load() copies
        return torch.from_numpy(np.memmap(path, np.uint8, "r"))
