"""A perceptual hash of 64 bits, and the search for hashes with a small Hamming distance."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

HASH_SIDE = 32
"""Side, in pixels, of the hashed grey image."""

_CHUNKS = 4
_CHUNK_BITS = 64 // _CHUNKS
_BLOCK = 1 << 21  # pairs compared in one step, about 50 MB


def _basis() -> NDArray[np.float32]:
    """Return the DCT-II basis of ``HASH_SIDE`` samples for the lowest frequencies, one row per frequency."""
    frequencies, samples = np.mgrid[:11, :HASH_SIDE]
    basis: NDArray[np.float32] = np.cos(np.pi * frequencies * (2 * samples + 1) / (2 * HASH_SIDE)).astype(np.float32)
    return basis


def _lowest_frequencies() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the 64 lowest pairs of frequencies without the constant."""
    rows, columns = np.mgrid[:11, :11]
    order = np.lexsort((rows.ravel(), (rows**2 + columns**2).ravel()))[1:65]
    return rows.ravel()[order], columns.ravel()[order]


_BASIS = _basis()
_ROWS, _COLUMNS = _lowest_frequencies()
_MIRROR_SIGNS = np.where(np.arange(11) % 2, -1, 1).astype(np.float32)


ORIENTATIONS = (
    "mirrored left to right",
    "mirrored top to bottom",
    "rotated by 180 degrees",
    "mirrored along the diagonal",
    "mirrored along the other diagonal",
    "rotated by 90 degrees",
)
"""Relations of two orientations of an image. A rotation by 270 degrees is one by 90 degrees of the other image."""


def turn(images: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return images ``(..., side, side)`` in one of :data:`ORIENTATIONS`, by its number."""
    if orientation >= 3:
        images = images.swapaxes(-1, -2)
    if orientation in (1, 2, 4, 5):
        images = images[..., ::-1, :]
    if orientation in (0, 2, 4):
        images = images[..., ::-1]
    return images


def turned_hashes(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the hash of an image in each of :data:`ORIENTATIONS`: uint64 ``(6,)``.

    Mirroring an image changes the signs of its odd frequencies. Transposing it transposes its spectrum.

    Args:
        grey: Grey image. See :func:`perceptual_hash`.
    """
    spectrum = _BASIS @ grey.astype(np.float32) @ _BASIS.T
    found = []
    for orientation in range(len(ORIENTATIONS)):
        turned = spectrum.T if orientation >= 3 else spectrum
        down, across = orientation in (1, 2, 4, 5), orientation in (0, 2, 4)
        signs = (_MIRROR_SIGNS[:, None] if down else 1) * (_MIRROR_SIGNS[None, :] if across else 1)
        found.append(_bits(turned * signs))
    return np.asarray(found, np.uint64)


def perceptual_hash(grey: NDArray[np.uint8]) -> int:
    """Return a hash of 64 bits that is robust to resizing and compression: the signs of the lowest frequencies.

    In contrast to the source, the coefficients of the discrete cosine transform are compared with zero instead of
    their median.

    Args:
        grey: Image reduced by area averaging to grey values ``(HASH_SIDE, HASH_SIDE)``.

    Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions".
    """
    return _bits(_BASIS @ grey.astype(np.float32) @ _BASIS.T)


def _bits(spectrum: NDArray[np.float32]) -> int:
    return int.from_bytes(np.packbits(spectrum[_ROWS, _COLUMNS] > 0).tobytes(), "little")


def similar_pairs(
    hashes: NDArray[np.uint64], radius: int, max_pairs: int = 20_000_000
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Return all pairs of different hashes with a Hamming distance of at most ``radius``, by multi-index hashing.

    Two hashes that differ in ``radius`` bits differ in at most ``radius // 4`` bits in one of their four quarters.
    Each quarter is therefore looked up with every combination of this number of flipped bits. Only the hashes found
    in this way are compared.

    Args:
        hashes: N different hashes.
        radius: Largest number of different bits. From 8 the search takes ten times as long, from 12 even longer.
        max_pairs: Approximate number of pairs at which the search ends with a warning. Defaults to 20 million.

    Returns:
        Positions i < j of the pairs and the number of different bits, sorted by i, then j.

    Source: Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing", arXiv:1307.2982.

    >>> [found.tolist() for found in similar_pairs(np.array([0b0, 0b111, 2**40 - 1], np.uint64), 3)]
    [[0], [1], [3]]
    """
    found = [np.empty(0, np.int64)]
    total, count = len(hashes), 0
    for chunk in range(_CHUNKS):
        keys = _chunk(hashes, chunk)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for mask in _masks(radius // _CHUNKS):
            probes = keys ^ np.uint16(mask)
            first, last = np.searchsorted(ordered, probes, "left"), np.searchsorted(ordered, probes, "right")
            for left, right in _expand_ranges(first, last):
                right = order[right]
                kept = left < right
                left, right = left[kept], right[kept]
                near = np.bitwise_count(hashes[left] ^ hashes[right]) <= radius
                found.append(left[near] * total + right[near])
                count += len(found[-1])
                if count > max_pairs:
                    found = [np.unique(np.concatenate(found))]
                    count = len(found[0])
            if count > max_pairs:
                logger.warning("the images are too similar: only %d pairs of near duplicates are compared", count)
                return _decode_pairs(found, hashes)
    return _decode_pairs(found, hashes)


def cross_pairs(
    hashes: NDArray[np.uint64], candidates: NDArray[np.uint64], radius: int, max_pairs: int = 20_000_000
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of a hash and a candidate with a Hamming distance of at most ``radius``.

    Args:
        hashes: N hashes, which may be equal.
        candidates: M hashes.
        radius: Largest number of different bits. See :func:`similar_pairs`.
        max_pairs: Number of pairs at which the search ends with a warning. Defaults to 20 million.

    Returns:
        Positions in ``hashes`` and in ``candidates``.
    """
    codes = [np.empty(0, np.int64)]
    count, total = 0, max(len(candidates), 1)
    for chunk in range(_CHUNKS):
        keys, queries = _chunk(hashes, chunk), _chunk(candidates, chunk)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for mask in _masks(radius // _CHUNKS):
            probes = queries ^ np.uint16(mask)
            first, last = np.searchsorted(ordered, probes, "left"), np.searchsorted(ordered, probes, "right")
            for right, position in _expand_ranges(first, last):
                left = order[position]
                near = np.bitwise_count(hashes[left] ^ candidates[right]) <= radius
                codes.append(left[near] * total + right[near])
                count += len(codes[-1])
            if count > max_pairs:
                logger.warning("the images are too similar: only %d pairs of turned copies are compared", count)
                break
        if count > max_pairs:
            break
    left, right = np.divmod(np.unique(np.concatenate(codes)), total)
    return left, right


def _decode_pairs(
    found: list[NDArray[np.int64]], hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    codes = np.unique(np.concatenate(found))
    left, right = np.divmod(codes, max(len(hashes), 1))
    return left, right, np.bitwise_count(hashes[left] ^ hashes[right])


def _chunk(hashes: NDArray[np.uint64], chunk: int) -> NDArray[np.uint16]:
    """Return every fourth bit of the hashes. Each quarter then contains low and high frequencies."""
    bits = np.unpackbits(hashes.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)[:, chunk::_CHUNKS]
    packed: NDArray[np.uint16] = np.packbits(bits, axis=1).view("<u2")[:, 0].astype(np.uint16)
    return packed


def _masks(bits: int) -> list[int]:
    return [sum(1 << i for i in chosen) for n in range(bits + 1) for chosen in combinations(range(_CHUNK_BITS), n)]


def _expand_ranges(
    first: NDArray[np.int64], last: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Expand ranges ``first[i]:last[i]`` to pairs (i, position), in blocks of bounded size."""
    counts = last - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
        here = counts[start:stop]
        left = np.repeat(np.arange(start, stop), here)
        offset = np.arange(len(left)) - np.repeat(ends[start:stop] - here - before, here)
        yield left, first[left] + offset
        start = stop
