"""Images for calibration: which they are, and that they are never of the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.data import ImageDataModule
from imgrec.data.calibration import calibration_images
from imgrec.errors import UserError


@pytest.fixture
def data() -> ImageDataModule:
    module = ImageDataModule("digits", image_size=16, channels=1)
    module.setup()
    return module


@pytest.mark.parametrize("split", ["train", "val"])
def test_they_are_of_their_split_as_evaluation_sees_them(data: ImageDataModule, split: Any) -> None:
    drawn = calibration_images(data, 40, split)
    rows = {"train": data.splits.train, "val": data.splits.val}[split]
    assert set(drawn.ids) <= {data.source.ids[row] for row in rows}
    assert len(set(drawn.ids)) == 40
    assert drawn.images.shape == (40, 1, 16, 16)
    assert drawn.images.dtype == torch.uint8
    if split == "val":
        seen = {
            name: image for batch in data.val_dataloader() for name, image in zip(batch.ids, batch.images, strict=True)
        }
        assert all(torch.equal(seen[name], image) for name, image in zip(drawn.ids, drawn.images, strict=True))


def test_they_are_the_same_each_time_and_more_are_those_and_others(data: ImageDataModule) -> None:
    few, more = (calibration_images(data, count) for count in (40, 60))
    assert more.ids[:40] == few.ids
    assert calibration_images(data, 40, seed=1).ids != few.ids
    assert len({int(data.source.targets[data.source.ids.index(name)]) for name in more.ids}) == 10


def test_never_of_the_test_split(data: ImageDataModule) -> None:
    with pytest.raises(UserError, match="expected the split train or val"):
        calibration_images(data, 40, cast(Any, "test"))


def test_more_than_there_are_is_rejected(data: ImageDataModule) -> None:
    there = len(data.splits.val)
    with pytest.raises(UserError, match=f"expected at most {there} images of the split val, got {there + 1}"):
        calibration_images(data, there + 1, "val")


def test_unreadable_images_are_skipped(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            pixels = np.full((8, 8, 3), 5 * i, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    data = ImageDataModule({"name": "folder", "root": str(tmp_path)}, image_size=8)
    data.setup()
    chosen = calibration_images(data, 10).ids
    (tmp_path / chosen[3]).write_bytes(b"broken")
    again = calibration_images(data, 10)
    assert chosen[3] not in again.ids
    assert again.ids[:9] == (*chosen[:3], *chosen[4:])
    with pytest.raises(UserError, match="can be read"):
        calibration_images(data, len(data.splits.train))
