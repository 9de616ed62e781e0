"""Recall and precision of the search for rotated and mirrored copies in real images."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from imgrec.audit.duplicates import near_pairs, turned_pairs
from imgrec.audit.image_statistics import measure_image
from imgrec.audit.perceptual_hash import HASH_SIDE, ORIENTATIONS, cross_pairs, perceptual_hash, turn, turned_hashes
from imgrec.data import decode_image


def test_the_hashes_are_those_of_the_turned_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HASH_SIDE, HASH_SIDE), dtype=np.uint8)
    expected = [np.fliplr(image), np.flipud(image), np.rot90(image, 2), image.T, np.rot90(image.T, 2)]
    for orientation, turned in enumerate(expected):
        assert np.array_equal(turn(image, orientation), turned), ORIENTATIONS[orientation]
    assert any(np.array_equal(turn(image, 5), np.rot90(image, k)) for k in (1, 3))
    found = turned_hashes(image)
    for orientation in range(len(ORIENTATIONS)):
        exact = perceptual_hash(np.ascontiguousarray(turn(image, orientation)))
        assert bin(int(found[orientation]) ^ exact).count("1") <= 1  # a coefficient of 0 within rounding


def test_cross_pairs_are_all_pairs() -> None:
    draw = np.random.default_rng(0)
    hashes, others = (draw.integers(0, 2**63, 200, dtype=np.uint64) for _ in range(2))
    others[:50] = hashes[:50] ^ (np.uint64(1) << draw.integers(0, 64, 50, dtype=np.uint64))
    others[50] = hashes[3]
    expected = np.argwhere(np.bitwise_count(hashes[:, None] ^ others[None]) <= 7)
    assert len(expected) >= 51
    assert np.array_equal(np.stack(cross_pairs(hashes, others, 7), axis=1), expected)


def compressed(image: torch.Tensor, quality: int = 80) -> torch.Tensor:
    pixels = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(buffer, "JPEG", quality=quality)
    return decode_image(buffer.getvalue())


def photographs() -> list[torch.Tensor]:
    data = os.environ.get("IMGREC_DATA")
    if not data:
        pytest.skip("IMGREC_DATA is not set")
    files = sorted((Path(data) / "photos").iterdir())[:120]
    return [decode_image(path) for path in files]


def digits() -> list[torch.Tensor]:
    images = load_digits().images[:300]
    large = torch.nn.functional.interpolate(torch.from_numpy(images)[:, None], size=(32, 32), mode="bicubic")
    return list((large * 15.9).clamp(0, 255).to(torch.uint8))


def add_turned_copies(images: list[torch.Tensor]) -> tuple[np.ndarray, dict[tuple[int, int], str]]:
    """Add one copy of every second image, in turn in each orientation, half the size and compressed again."""
    expected: dict[tuple[int, int], str] = {}
    rows = list(images)
    for number, image in enumerate(images[::2]):
        orientation = number % (len(ORIENTATIONS) + 1)
        if orientation == len(ORIENTATIONS):
            copy, relation = torch.rot90(image, 3, (1, 2)), "rotated by 90 degrees"
        else:
            copy = torch.from_numpy(np.ascontiguousarray(turn(image.numpy(), orientation)))
            relation = ORIENTATIONS[orientation]
        if min(copy.shape[1:]) >= 64:
            copy = torch.nn.functional.interpolate(
                copy[None].float(), scale_factor=0.5, antialias=True, mode="bilinear"
            )
            copy = copy[0].round().to(torch.uint8)
        expected[2 * number, len(rows)] = relation
        rows.append(compressed(copy))
    return np.stack([measure_image(image) for image in rows]), expected


@pytest.mark.parametrize(("images", "recall", "precision"), [(photographs, 0.97, 0.97), (digits, 0.97, 0.97)])
def test_turned_copies_of_real_images_are_found(images: object, recall: float, precision: float) -> None:
    records, expected = add_turned_copies(images())  # type: ignore[operator]
    found = {(pair.left, pair.right): pair.relation.partition(",")[0] for pair in turned_pairs(records)}
    hit = [pair for pair in expected if pair in found]
    print(f"recall {len(hit) / len(expected):.3f}, precision {len(hit) / max(len(found), 1):.3f} of {len(found)}")
    assert len(hit) >= recall * len(expected)
    assert len(hit) >= precision * len(found)
    assert sum(found[pair] == expected[pair] for pair in hit) >= 0.98 * len(hit)
    plain = {(pair.left, pair.right) for pair in near_pairs(records)}
    assert len(plain & set(expected)) <= 0.2 * len(expected)  # the default search does not find them
