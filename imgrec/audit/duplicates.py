"""Duplicates and near duplicates among the images of a data set."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.audit.findings import Finding, Inventory
from imgrec.audit.messages import DECIDE
from imgrec.audit.perceptual_hash import ORIENTATIONS, cross_pairs, similar_pairs, turn
from imgrec.data.wrappers.corrections import EXCLUDE

logger = logging.getLogger(__name__)

RADIUS = 7
"""Largest number of different bits, of 64, between the hashes of copies.

Measured on 60,000 images of 32 pixels, halved and compressed again at quality 60: less than 1 % differ in more bits.
"""

_MIN_DEVIATION = 4.0  # the hash of an image with a smaller standard deviation of brightness is noise
_MAX_PAIRS = 1000  # pairs in a group of equal images
_MAX_HASH_PAIRS = 50_000  # pairs in a group of images with equal hashes, and of two such groups
_BLOCK = 1 << 14
_ROTATION = ORIENTATIONS.index("rotated by 90 degrees")  # the only relation that is not its own inverse
_MIN_GAIN = 0.02  # a turned copy correlates by this much more than the same image without turning


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that are copies of each other.

    Args:
        left: Position of an image.
        right: Position of the other image.
        relation: Description of the similarity.
        score: Similarity, at most 1. Defaults to 1.
        exact: True if both have the same pixels. Defaults to False.
        certain: False if the similarity is also usual between different images. Defaults to True.
    """

    left: int
    right: int
    relation: str
    score: float = 1.0
    exact: bool = False
    certain: bool = True


def exact_groups(records: NDArray[Any]) -> list[list[int]]:
    """Return groups of positions of images with the same pixels, each with two positions or more."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position in np.flatnonzero(records["readable"]).tolist():
        groups[records["digest"][position].tobytes()].append(position)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(records: NDArray[Any], radius: int = RADIUS) -> list[DuplicatePair]:
    """Return pairs of near duplicates: their hashes differ in few bits, and their small versions correlate.

    The required correlation depends on the image size. At 16 pixels a copy of a large image is equal to it, and a
    copy of a small image has lost detail. The required correlation rises from 0.9, if the smaller image has a short
    side of 32 pixels, to 0.98 at 96 pixels.

    It also depends on the data set. Different garments correlate if they are photographed in the same way. If more
    than 5 % of the images, and more than 50, have a copy, the required correlation rises until fewer have one. The
    maximum is 0.998. A warning is logged, and these pairs are not ``certain``.

    Args:
        records: One ``RECORD`` per image.
        radius: Largest number of different bits. See :func:`imgrec.audit.perceptual_hash.similar_pairs`.
            Defaults to 7.
    """
    at = np.flatnonzero(records["readable"] & (records["contrast"] > _MIN_DEVIATION**2))
    if len(at) < 2:
        return []
    left, right, bits = _candidates(records["hash"], at, radius)
    kept = records["digest"][left] != records["digest"][right]
    left, right, bits = left[kept], right[kept], bits[kept]
    alike = _correlations(records["small"], left, right)
    side = np.minimum(records["height"], records["width"])
    kept = alike >= np.interp(np.minimum(side[left], side[right]), [32, 96], [0.9, 0.98])
    left, right, bits, alike = left[kept], right[kept], bits[kept], alike[kept]
    needed = _usual_correlation(left, right, alike, len(at))
    if needed:
        logger.warning("the images are very similar: near duplicates are those with a correlation of %.3f", needed)
    return [
        DuplicatePair(
            int(i), int(j), f"{differ} of 64 bits differ, correlation {score:.3f}", float(score), certain=not needed
        )
        for i, j, differ, score in zip(left, right, bits, alike, strict=True)
        if score >= needed
    ]


def turned_pairs(records: NDArray[Any], radius: int = RADIUS) -> list[DuplicatePair]:
    """Return pairs of images of which one is the other rotated by a multiple of 90 degrees, mirrored, or both.

    The hash of each image is compared with the hashes of the others in six orientations. A pair counts if the small
    versions correlate in that orientation as :func:`near_pairs` requires, and more than without turning.

    Args:
        records: One ``RECORD`` per image.
        radius: Largest number of different bits. Defaults to 7.
    """
    at = np.flatnonzero(records["readable"] & (records["contrast"] > _MIN_DEVIATION**2))
    side = np.minimum(records["height"], records["width"])
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for orientation in range(len(ORIENTATIONS)):
        left, right = cross_pairs(records["hash"][at], records["turned"][at, orientation], radius)
        kept = left != right if orientation == _ROTATION else left < right
        left, right = at[left[kept]], at[right[kept]]
        small = records["small"]
        alike = _correlations(small, left, right, orientation)
        needed = np.interp(np.minimum(side[left], side[right]), [32, 96], [0.9, 0.98])
        kept = (alike >= needed) & (alike > _correlations(small, left, right) + _MIN_GAIN)
        for i, j, score in zip(left[kept].tolist(), right[kept].tolist(), alike[kept].tolist(), strict=True):
            key = min(i, j), max(i, j)
            if score > best.get(key, (0.0, 0))[0]:
                best[key] = score, orientation
    pairs = sorted(best)
    left, right = np.asarray(pairs, np.int64).reshape(-1, 2).T
    scores = np.asarray([best[pair][0] for pair in pairs], np.float32)
    usual = _usual_correlation(left, right, scores, len(at))
    if usual:
        logger.warning("the images are very similar when turned: turned copies have a correlation of %.3f", usual)
    return [
        DuplicatePair(
            i, j, f"{ORIENTATIONS[best[i, j][1]]}, correlation {best[i, j][0]:.3f}", best[i, j][0], certain=not usual
        )
        for i, j in pairs
        if best[i, j][0] >= usual
    ]


def duplicate_findings(pairs: Iterable[DuplicatePair], inventory: Inventory) -> Iterator[Finding]:
    """Yield the findings of duplicate pairs: across splits, across classes, or in the same split and class.

    A finding contains the id of the most similar other image. Its action follows
    :data:`imgrec.audit.messages.RULES`. One image of a group with equal pixels and one label is kept: the one in the
    test split, otherwise the one in validation. A near duplicate with the same label in a higher split is excluded.
    Copies with different labels require the decision of a person.
    """
    others: dict[tuple[bool, int], list[DuplicatePair]] = defaultdict(list)
    for pair in pairs:
        others[pair.exact, pair.left].append(pair)
        others[pair.exact, pair.right].append(replace(pair, left=pair.right, right=pair.left))
    labels = inventory.labels
    contested = {
        position
        for (_, position), found in others.items()
        if any((pair.exact or pair.certain) and labels[pair.right] != labels[position] for pair in found)
    }
    for (exact, position), found in others.items():
        action = EXCLUDE if _is_redundant(position, found, inventory) else ""
        action = DECIDE if position in contested else action
        kind = "duplicate" if exact else "near_duplicate"
        for relation, those in _relations(position, found, inventory).items():
            first = max(those, key=lambda pair: pair.score)
            more = f" and {len(those) - 1} more" if len(those) > 1 else ""
            place = f"{inventory.splits[first.right]}, {inventory.class_name(first.right)}"
            yield Finding(
                position, kind + relation, f"{first.relation} ({place}){more}", first.right, action, first.score
            )


def exact_pairs(groups: Iterable[Sequence[int]]) -> Iterator[DuplicatePair]:
    """Yield every pair of each group of equal images. In a large group, pair each image with the first only."""
    for group in groups:
        for left, right in _pairs_of_group(np.asarray(group), _MAX_PAIRS):
            yield DuplicatePair(left, right, "the same pixels", exact=True)


def _pairs_of_group(group: NDArray[np.int64], max_pairs: int) -> Iterator[tuple[int, int]]:
    rows = group.tolist()
    large = len(rows) ** 2 > 2 * max_pairs
    for i, left in enumerate(rows[:1] if large else rows):
        for right in rows[i + 1 :]:
            yield left, right


def _candidates(
    hashes: NDArray[np.uint64], at: NDArray[np.int64], radius: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of the positions in ``at`` whose hashes differ in at most ``radius`` bits, and the bit counts."""
    order = at[np.argsort(hashes[at], kind="stable")]
    distinct, starts = np.unique(hashes[order], return_index=True)
    members = np.split(order, starts[1:])
    several = np.diff(starts, append=len(order)) > 1
    first, second, bits = similar_pairs(distinct, radius)
    plain = ~(several[first] | several[second])
    found = [
        np.stack([order[starts[first[plain]]], order[starts[second[plain]]], bits[plain].astype(np.int64)], axis=1)
    ]
    equal = [
        (left, right, 0)
        for group in np.flatnonzero(several)
        for left, right in _pairs_of_group(members[group], _MAX_HASH_PAIRS)
    ]
    found.append(np.asarray(equal, np.int64).reshape(-1, 3))
    for i, j, differ in zip(first[~plain].tolist(), second[~plain].tolist(), bits[~plain].tolist(), strict=True):
        one, two = members[i], members[j]
        if len(one) * len(two) > _MAX_HASH_PAIRS:
            one, two = one[:1], two[:1]
        pairs = np.stack(np.meshgrid(one, two, [differ], indexing="ij"), axis=-1)
        found.append(pairs.reshape(-1, 3))
    left, right, bits_of = np.concatenate(found).T
    return np.minimum(left, right), np.maximum(left, right), bits_of


def _correlations(
    small: NDArray[np.uint8], left: NDArray[np.int64], right: NDArray[np.int64], orientation: int | None = None
) -> NDArray[np.float32]:
    found = [np.empty(0, np.float32)]
    for start in range(0, len(left), _BLOCK):
        part = slice(start, start + _BLOCK)
        others = small[right[part]] if orientation is None else turn(small[right[part]], orientation)
        found.append((_centred(small[left[part]]) * _centred(others)).sum(1))
    return np.concatenate(found)


def _usual_correlation(
    left: NDArray[np.int64], right: NDArray[np.int64], alike: NDArray[np.float32], images: int
) -> float:
    """Return the correlation that is usual between different images of the set, or 0 if near duplicates are rare."""
    needed = 0.0
    for needed in (0.0, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998):
        kept = alike >= needed
        if len(np.union1d(left[kept], right[kept])) <= max(50, images / 20):
            break
    return needed


def _centred(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = small.reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    scaled: NDArray[np.float32] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return scaled


def _relations(position: int, found: Iterable[DuplicatePair], inventory: Inventory) -> dict[str, list[DuplicatePair]]:
    relations: dict[str, list[DuplicatePair]] = defaultdict(list)
    for pair in found:
        other_split = inventory.splits[pair.right] != inventory.splits[position]
        other_class = inventory.labels[pair.right] != inventory.labels[position]
        if other_split:
            relations["_across_splits"].append(pair)
        if other_class:
            relations["_across_classes"].append(pair)
        if not other_split and not other_class:
            relations[""].append(pair)
    return relations


def _is_redundant(position: int, found: Sequence[DuplicatePair], inventory: Inventory) -> bool:
    ranks, labels = inventory.ranks, inventory.labels
    if ranks[position] == 0:
        return False
    if not found[0].exact:
        same = [pair for pair in found if labels[pair.right] == labels[position]]
        return any(pair.certain and ranks[pair.right] < ranks[position] for pair in same)
    own = (ranks[position], inventory.id(position))
    return any((ranks[pair.right], inventory.id(pair.right)) < own for pair in found)
