"""Images of every split have one dtype and range, with any augmentation and any LightningModule."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from imgrec import ClassificationTask
from imgrec.augment import AUGMENTATIONS, BatchRandom, Transform
from imgrec.augment.base import BatchTransform
from imgrec.data import ImageDataModule
from imgrec.errors import UserError
from imgrec.types import Batch


class SometimesFloat(BatchTransform):
    """Model that returns floats in some batches only."""

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        return images.float() / 255 if draws.uniform()[0] > 0.5 else images


class FloatSample(Transform):
    """Breaks the contract: a transform of single images must return uint8."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return image.float() / 255


class Foreign(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Tensor]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen["train"].append(batch.images)
        return self.weight * 1.0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["val"].append(batch.images)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["test"].append(batch.images)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["predict"].append(batch.images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Bytes(Foreign):
    image_dtype = "uint8"


def images_of(data: ImageDataModule, module: pl.LightningModule) -> dict[str, list[Tensor]]:
    """Return the images of two batches of training and of validation, as a step receives them."""
    found: dict[str, list[Tensor]] = {}
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        batches = list(islice(loader, 2))
        data.trainer = SimpleNamespace(training=split == "train", lightning_module=module)  # type: ignore[assignment]
        found[split] = [data.on_after_batch_transfer(batch, 0).images for batch in batches]
        data.trainer = None
    return found


def assert_range(images: list[Tensor], dtype: torch.dtype) -> None:
    top = 255 if dtype == torch.uint8 else 1
    assert {batch.dtype for batch in images} == {dtype}
    assert all(batch.min() >= 0 and top / 2 < batch.max() <= top for batch in images)


@pytest.mark.parametrize("name", [*AUGMENTATIONS.names(), f"{__name__}.SometimesFloat"])
def test_every_augmentation_leaves_all_splits_with_one_dtype_and_range(name: str) -> None:
    data = ImageDataModule("digits", train_transforms=[name], batch_size=32, num_workers=0, seed=0)
    data.setup()
    for module, accepted in ((Foreign(), {torch.float32}), (Bytes(), {torch.uint8}), (Task(), None)):
        found = images_of(data, module)
        dtype = found["train"][0].dtype
        assert accepted is None or dtype in accepted
        for split in found.values():
            assert_range(split, dtype)


def Task() -> pl.LightningModule:  # noqa: N802 - in the place of a class
    return ClassificationTask("resnet18")


def test_tasks_receive_bytes_unless_training_can_return_floats() -> None:
    for mix, dtype in (("cutmix", torch.uint8), ("mixup", torch.float32)):
        data = ImageDataModule("digits", train_transforms=["hflip", mix], num_workers=0)
        data.setup()
        for split in images_of(data, Task()).values():
            assert_range(split, dtype)


@pytest.mark.parametrize("transforms", [[], ["mixup"]])
@pytest.mark.parametrize(
    ("model", "given", "dtype"),
    [(Foreign, "auto", torch.float32), (Bytes, "auto", torch.uint8), (Bytes, "float32", torch.float32)],
)
def test_a_trainer_with_a_foreign_module(transforms: list[Any], model: type[Foreign], given: Any, dtype: Any) -> None:
    data = ImageDataModule("digits", train_transforms=transforms, num_workers=0, image_dtype=given)
    module = model()
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    trainer.predict(module, data)
    assert all(module.seen.values())
    for images in module.seen.values():
        assert_range(images, dtype)
    expected = torch.stack([data.source.load(row) for row in data.splits.val[:64].tolist()]).expand(-1, 3, -1, -1)
    assert torch.equal(module.seen["val"][0], expected if dtype == torch.uint8 else expected.float() / 255)


def test_wrong_requests_are_rejected() -> None:
    with pytest.raises(UserError, match=r"data\.image_dtype: expected Literal\['auto', 'uint8', 'float32'\]"):
        ImageDataModule("digits", image_dtype="float16")  # type: ignore[arg-type]
    data = ImageDataModule("digits", num_workers=0)
    data.setup()

    class Misspelled(Foreign):
        image_dtype = "flaot32"

    module = Misspelled()
    with pytest.raises(UserError, match=r"Misspelled\.image_dtype: expected one of .* Did you mean \"float32\""):
        images_of(data, module)


def test_a_transform_of_single_images_that_returns_floats_is_rejected() -> None:
    data = ImageDataModule("digits", train_transforms=[f"{__name__}.FloatSample"], num_workers=0)
    with pytest.raises(UserError, match=r"data\.train_transforms: expected uint8 .*FloatSample.*, got torch\.float32"):
        data.setup()


def test_the_example_of_the_page_on_data_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class PlainModule" in each]
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["data"].trainer.global_step == found["data"].trainer.num_training_batches > 20
