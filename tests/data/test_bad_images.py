from __future__ import annotations

import logging
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from imgrec.data import ImageDataModule, decode_image
from imgrec.errors import UserError
from imgrec.types import Batch
from tests.data.helpers import Writer, epoch, folder, is_same, ready


def with_bad_images(classes: Writer) -> tuple[Path, dict[str, str]]:
    """Return folders with three kinds of bad images in each split, and the reasons by id."""
    root = classes({f"{split}/{name}": 8 for split in ("train", "val", "test") for name in "ab"}, suffix=".jpg")
    reasons = {}
    for split in ("train", "val", "test"):
        whole = (root / split / "a" / "000.jpg").read_bytes()
        for name, data, reason in (
            ("a/001.jpg", whole[: len(whole) // 2], "it is truncated: its end is missing"),
            ("a/002.jpg", b"", "the file is empty"),
            ("b/007.jpg", b"some text", "it is not an image in a format that can be read"),
        ):
            (root / split / name).write_bytes(data)
            reasons[f"{split}/{name}"] = reason
    return root, reasons


def reasons_in(reasons: dict[str, str], split: str) -> dict[str, str]:
    return {name: reason for name, reason in reasons.items() if name.startswith(split)}


def test_a_bad_training_image_is_replaced_by_the_next_good_one(classes: Writer) -> None:
    root, reasons = with_bad_images(classes)
    module = ready(folder(root), batch_size=4)
    batches = epoch(module)
    assert [len(b) for b in batches] == [4, 4, 4, 4]
    assert dict(pair for b in batches for pair in b.skipped) == reasons_in(reasons, "train")
    names = sorted(i for b in batches for i in b.ids)
    good = [f"train/{c}/{i:03d}.jpg" for c in "ab" for i in range(8)]
    # 003 replaces 001 and 002 of a, the first of all replaces the last of b
    expected = [n for n in good if n not in reasons] + ["train/a/003.jpg"] * 2 + ["train/a/000.jpg"]
    assert names == sorted(expected)
    assert is_same(batches, epoch(module))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_bad_evaluation_image_is_left_out(classes: Writer, split: str) -> None:
    root, reasons = with_bad_images(classes)
    module = ready(folder(root), eval_batch_size=5)
    batches = list(getattr(module, f"{split}_dataloader")())
    names = [i for b in batches for i in b.ids]
    assert names == [
        f"{split}/{c}/{i:03d}.jpg" for c in "ab" for i in range(8) if f"{split}/{c}/{i:03d}.jpg" not in reasons
    ]
    assert dict(pair for b in batches for pair in b.skipped) == reasons_in(reasons, split)


def test_a_batch_without_any_good_image_is_empty(classes: Writer) -> None:
    root, _ = with_bad_images(classes)
    module = ready(folder(root), eval_batch_size=1)
    empty = [b for b in module.val_dataloader() if not len(b)]
    assert len(empty) == 3
    assert all(b.images.shape == (0, 3, 12, 12) and b.images.dtype == torch.uint8 and b.ids == () for b in empty)
    assert all(b.targets.shape == (0,) and b.targets.dtype == torch.int64 for b in empty)


def test_each_skipped_image_is_logged_once(classes: Writer, caplog: pytest.LogCaptureFixture) -> None:
    root, reasons = with_bad_images(classes)
    module = ready(folder(root), batch_size=4)
    with caplog.at_level(logging.WARNING, "imgrec.data"):
        for _ in range(2):
            for batch in [*epoch(module), *module.val_dataloader()]:
                assert module.on_before_batch_transfer(batch, 0) is batch
    assert module.skipped == {**reasons_in(reasons, "train"), **reasons_in(reasons, "val")}
    for name in module.skipped:
        assert caplog.text.count(name) == 1


def test_on_bad_image_error_refuses_to_start(classes: Writer) -> None:
    root, reasons = with_bad_images(classes)
    with pytest.raises(UserError, match=r"data: 9 of 48 images cannot be read:") as error:
        ready(folder(root), on_bad_image="error")
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in str(error.value)
    for name in reasons:
        (root / name).unlink()
    assert ready(folder(root), on_bad_image="error").split_sizes() == {"train": 13, "val": 13, "test": 13}


def test_no_readable_training_image_at_all(classes: Writer) -> None:
    root = classes({"a": 8, "b": 8})
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 12 training images can be read.*the file is empty"):
        ready(folder(root))


def test_raw_images_by_id(classes: Writer) -> None:
    root, _ = with_bad_images(classes)
    module = ready(folder(root), image_size=8)
    found = module.load_images(["test/b/003.jpg", "test/a/002.jpg", "nothing"])
    assert found[0] is not None
    assert torch.equal(found[0], decode_image(root / "test/b/003.jpg"))
    assert found[1:] == [None, None]


def test_the_trainer_moves_our_batches_and_lets_us_count(classes: Writer) -> None:
    root, reasons = with_bad_images(classes)
    module = ImageDataModule(folder(root), batch_size=4, num_workers=0)

    class Counting(pl.LightningModule):
        seen: list[str]

        def on_test_start(self) -> None:
            self.seen = []

        def test_step(self, batch: Batch, batch_idx: int) -> None:
            self.seen += batch.ids

        def predict_step(self, batch: Batch, batch_idx: int) -> tuple[str, ...]:
            return batch.ids

    model = Counting()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(model, module, verbose=False)
    assert len(model.seen) == 13
    assert module.skipped == reasons_in(reasons, "test")
    predicted = trainer.predict(model, module)
    assert predicted is not None
    assert [i for ids in predicted for i in ids] == model.seen
