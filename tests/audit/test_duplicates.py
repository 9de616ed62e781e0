from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from imgrec.audit import Inventory, audit
from imgrec.audit.duplicates import exact_groups, exact_pairs, near_pairs
from imgrec.audit.embeddings import embed, similar_features
from imgrec.audit.image_statistics import measure_image
from imgrec.data import Digits, Source, Splits, decode_image, split_source
from imgrec.errors import UserError


class Images(Source):
    """The given images, in two classes: odd rows are of the second class."""

    def __init__(self, images: list[torch.Tensor]) -> None:
        self.images = images
        super().__init__(
            [f"{i:03d}" for i in range(len(images))], [i % 2 for i in range(len(images))], ["a", "b"], in_memory=True
        )

    def load(self, index: int) -> torch.Tensor:
        return self.images[index]


def pictures(count: int, side: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 9, 9, generator=generator) * 255
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic")
    return list(large.clamp(0, 255).to(torch.uint8))


def test_a_large_group_of_copies_has_one_pair_per_copy() -> None:
    image = pictures(1)[0]
    records = np.stack([measure_image(image)] * 200)
    groups = exact_groups(records)
    assert [len(group) for group in groups] == [200]
    assert len(list(exact_pairs(groups))) == 199
    assert near_pairs(records) == []


def test_blank_images_are_no_near_duplicates_of_each_other() -> None:
    blank = [torch.full((3, 40, 40), value, dtype=torch.uint8) for value in range(100, 120)]
    noise = [image + torch.randint(3, image.shape, dtype=torch.uint8) for image in blank]
    assert near_pairs(np.stack([measure_image(image) for image in noise])) == []


def test_similar_images_are_no_near_duplicates(caplog: pytest.LogCaptureFixture) -> None:
    ground = pictures(1)[0].float()
    generator = torch.Generator().manual_seed(3)
    different = [
        (ground + 14 * torch.randn(ground.shape, generator=generator)).clamp(0, 255).byte() for _ in range(300)
    ]
    different = [torch.nn.functional.avg_pool2d(image.float(), 2).byte() for image in different]
    different[200] = different[100].clone()
    different[200][0, 0, 0] ^= 1  # one pixel differs
    pairs = near_pairs(np.stack([measure_image(image) for image in different]))
    assert (100, 200) in {(pair.left, pair.right) for pair in pairs}
    assert len({p for pair in pairs for p in (pair.left, pair.right)}) <= 50
    assert "very similar" in caplog.text
    assert not any(pair.certain for pair in pairs)


def test_images_with_equal_hashes_are_all_compared() -> None:
    image = pictures(1)[0]
    darker = [(image.float() * (1 - i / 100)).byte() for i in range(5)]
    pairs = near_pairs(np.stack([measure_image(each) for each in darker]))
    assert {(pair.left, pair.right) for pair in pairs} == {(i, j) for i in range(5) for j in range(i + 1, 5)}
    assert all(pair.certain for pair in pairs)


def test_the_copy_in_the_lower_split_is_excluded() -> None:
    images = pictures(40)
    # rows 0, 2 and 4: one image of one class in train, val and test. Rows 6 and 8: one image twice in test.
    images[2] = images[4] = images[0]
    images[8] = images[6]
    splits = Splits(*(np.asarray(rows) for rows in ([0, *range(9, 40)], [1, 2], [3, 4, 5, 6, 7, 8])))
    found = audit(Images(images), splits)
    actions = {(found.inventory.id(f.position), f.kind): f.action for f in found.findings if "duplicate" in f.kind}
    assert actions == {
        ("000", "duplicate_across_splits"): "exclude",
        ("002", "duplicate_across_splits"): "exclude",
        ("004", "duplicate_across_splits"): "",
        ("006", "duplicate"): "",
        ("008", "duplicate"): "",
    }


def test_features_find_the_same_pairs_as_all_cosines() -> None:
    features = torch.nn.functional.normalize(torch.randn(70, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    cosines = torch.triu(features @ features.T, 1)
    expected = {(int(i) + 100, int(j) + 100) for i, j in (cosines >= 0.85).nonzero()}
    assert expected
    found = list(similar_features(features, torch.arange(100, 170), 0.85))
    assert {(pair.left, pair.right) for pair in found} == expected
    assert not any(pair.certain for pair in found)


def test_a_pair_is_much_closer_than_other_neighbours() -> None:
    draw = torch.Generator().manual_seed(2)
    alike = torch.ones(60, 64) + 0.2 * torch.randn(60, 64, generator=draw)  # every two have a cosine above 0.9
    alike[7] = alike[3] + 0.02 * torch.randn(64, generator=draw)
    alike[20:30] = alike[20]  # more copies than compared neighbours
    features = torch.nn.functional.normalize(alike, dim=1)
    assert (features @ features.T).min() > 0.9
    found = {(pair.left, pair.right) for pair in similar_features(features, torch.arange(60))}
    assert (3, 7) in found
    assert {i for pair in found - {(3, 7)} for i in pair} == set(range(20, 30))
    assert not list(similar_features(features[:1], torch.arange(1)))
    assert [(p.left, p.right) for p in similar_features(features[[5, 9, 7, 7]], torch.tensor([0, 1, 2, 3]))] == [(2, 3)]


def test_features_have_length_one_and_the_positions_of_their_images() -> None:
    inventory = Inventory.from_splits(Images(pictures(24)), Splits(np.arange(20, 24), np.arange(10), np.arange(10, 20)))
    backbone = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}
    features, positions = embed(inventory, backbone, image_size=32, batch_size=10)
    assert features.shape == (24, 16)
    assert positions.tolist() == list(range(24))
    assert torch.linalg.norm(features.float(), dim=1).numpy() == pytest.approx(1, abs=1e-2)


def test_a_trained_backbone_finds_a_photograph_that_was_cropped() -> None:
    data = os.environ.get("IMGREC_DATA")
    if not data:
        pytest.skip("IMGREC_DATA is not set")
    images = [decode_image(path) for path in sorted((Path(data) / "photos").iterdir())[:24]]
    images = [image.expand(3, -1, -1) for image in images]
    height, width = images[3].shape[1:]
    images[7] = images[3][:, height // 8 :, : 7 * width // 8]
    source = Images(images)
    inventory = Inventory.from_splits(source, Splits(np.arange(8), np.arange(8, 16), np.arange(16, 24)))
    assert near_pairs(np.stack([measure_image(image) for image in images])) == []
    backbone = {"name": "tf_efficientnet_lite0", "weights": str(Path(data) / "weights" / "tf_efficientnet_lite0")}
    (pair,) = similar_features(*embed(inventory, backbone, image_size=160))
    assert (pair.left, pair.right) == (3, 7)
    assert pair.score < 0.95  # different photographs of one object reach this cosine


def test_an_unknown_backbone_raises() -> None:
    with pytest.raises(UserError, match="--embeddings"):
        embed(Inventory.from_splits(Digits(), split_source(Digits())), "resnet18x")
