from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from imgrec.data import SOURCES, ImageDataModule
from imgrec.errors import SpecError, UserError
from imgrec.trust import opening

LABELS = [row % 2 for row in range(40)]


def pixels(channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Return 40 images ``(40, 8, 8, channels)``."""
    return np.random.default_rng(seed).integers(0, 256, (40, 8, 8, channels), dtype=np.uint8)


class Squares(Dataset[Any]):
    """Map-style dataset of Pillow images, without an attribute for the labels."""

    classes = ("cat", "dog")

    def __init__(self, count: int = 40, seed: int = 0) -> None:
        self.images = pixels(seed=seed)[:count]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= len(self):
            raise IndexError
        return Image.fromarray(self.images[index]), index % 2


def ready(source: Any, **arguments: Any) -> ImageDataModule:
    data = ImageDataModule(source, **{"num_workers": 0, "batch_size": 8, **arguments})
    data.setup()
    return data


@pytest.mark.parametrize("kind", ["hwc", "chw", "float", "tensor", "tensor dataset", "dataset", "spec"])
def test_every_form_of_the_same_images_has_the_same_pixels_and_labels(kind: str) -> None:
    images = pixels()
    first = images.transpose(0, 3, 1, 2)
    sources: dict[str, Any] = {
        "hwc": (images, LABELS),
        "chw": (first, np.asarray(LABELS)),
        "float": (first.astype(np.float32) / 255, LABELS),
        "tensor": (torch.from_numpy(first.copy()), torch.tensor(LABELS)),
        "tensor dataset": TensorDataset(torch.from_numpy(images), torch.tensor(LABELS)),
        "dataset": Squares(),
        "spec": {"name": "dataset", "dataset": {"name": f"{__name__}.Squares", "count": 40}},
    }
    data = ready(sources[kind])
    assert data.split_sizes() == {"train": 32, "val": 4, "test": 4}
    assert data.facts.class_names == (("cat", "dog") if kind in ("dataset", "spec") else ("0", "1"))
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]
    seen = {name: (image, int(t)) for b in batches for name, image, t in zip(b.ids, b.images, b.targets, strict=True)}
    assert sorted(seen) == [f"{row:06d}" for row in range(40)]
    for name, (image, target) in seen.items():
        assert torch.equal(image, torch.from_numpy(first[int(name)]))
        assert target == LABELS[int(name)]


def test_a_subset_keeps_the_ids_and_labels_of_its_dataset() -> None:
    source = SOURCES.build({"name": "dataset", "dataset": Subset(Squares(), list(range(39, 9, -1)))})
    assert source.ids[:2] == ["000039", "000038"]
    assert source.targets[:2].tolist() == [1, 0]


def test_several_datasets_are_the_splits() -> None:
    data = ImageDataModule.from_datasets(Squares(), test_dataset=Squares(10, seed=1), batch_size=8, num_workers=0)
    data.setup()
    assert data.split_sizes() == {"train": 36, "val": 4, "test": 10}
    assert {name.partition("/")[0] for batch in data.test_dataloader() for name in batch.ids} == {"test"}
    assert next(iter(data.train_dataloader())).ids[0].startswith("train/")
    with pytest.raises(UserError, match="predict_dataset: expected None"):
        ImageDataModule.from_datasets(Squares(), predict_dataset=Squares())
    with pytest.raises(UserError, match="train_dataset: expected a torch Dataset, got None"):
        ImageDataModule.from_datasets(val_dataset=Squares())


def test_text_labels_missing_labels_and_several_labels() -> None:
    words: list[Any] = ["dog", "cat", None, *["dog", "cat"] * 10]
    source = SOURCES.build({"name": "dataset", "dataset": (pixels()[: len(words)], words)})
    assert source.class_names == ("cat", "dog")
    assert len(source) == len(words) - 1
    assert "000002" not in source.ids
    marked = np.asarray(LABELS)
    marked[3] = -1
    assert len(SOURCES.build({"name": "dataset", "dataset": (pixels(), marked)})) == 39
    table = np.asarray([[1, row % 2] for row in range(40)])
    several = SOURCES.build({"name": "dataset", "dataset": (pixels(), table), "class_names": ["a", "b"]})
    assert several.multi_label
    assert several.targets[1].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((40, 3, 8, 3), np.uint8), r"layout: expected chw or hwc for images of the shape \(3, 8, 3\)"),
        (np.zeros((40, 8, 8, 4), np.uint8), r"images: expected 1 or 3 channels, first or last, got .*\(8, 8, 4\)"),
        (np.zeros((40, 8, 8), np.int64), r"images: expected uint8, or floats in \[0, 1\], got int64"),
        (torch.randn(40, 3, 8, 8), r"images: expected floats in \[0, 1\], got -.*Remove a normalization"),
        (np.full((40, 8, 8), np.nan), r"images: expected floats in \[0, 1\], got nan"),
        (np.zeros((40, 64), np.uint8), r"images: expected \(images, height, width\), or four dimensions"),
        (np.zeros((39, 8, 8), np.uint8), r"labels: expected one label for each of 39 images, got 40"),
    ],
)
def test_wrong_arrays_are_rejected(images: Any, message: str) -> None:
    with pytest.raises(SpecError, match=rf"data\.source: {message}"):
        ready((images, LABELS))


def test_an_ambiguous_layout_can_be_given() -> None:
    images = np.zeros((40, 3, 8, 3), np.uint8)
    source = SOURCES.build({"name": "dataset", "dataset": (images, LABELS), "layout": "hwc"})
    assert source.load(0).shape == (3, 3, 8)


def test_wrong_objects_are_rejected_by_the_constructor() -> None:
    class Endless(IterableDataset[Any]):
        """Dataset without a length."""

        def __iter__(self) -> Iterator[Any]:
            return iter([])

    with pytest.raises(UserError, match=r"data\.source: dataset: expected a torch Dataset with __getitem__.*Endless"):
        ImageDataModule(Endless())
    with pytest.raises(UserError, match=r"data\.cache: expected auto, memory or off for a torch Dataset, got disk"):
        ready(Squares(), cache="disk")

    class Normalized(Squares):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return torch.randn(3, 8, 8), index % 2

    with pytest.raises(UserError, match=r"data\.source: images: expected floats in \[0, 1\]"):
        ready(Normalized())


class Foreign(pl.LightningModule):
    """LightningModule that is not a task of imgrec."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(192, 2)
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        self.seen.append(images)
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_foreign_module_trains_and_its_checkpoint_holds_plain_data(tmp_path: Path) -> None:
    data = ImageDataModule(source=Squares(), batch_size=8, num_workers=0)
    model = Foreign()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(model, data)
    assert all(images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1 for images in model.seen)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["datamodule_hyper_parameters"]["source"]
    assert stored["dataset"] == {"name": "python_object", "type": f"{__name__}.Squares", "length": 40}
    with pytest.raises(UserError, match=r"data\.source\.dataset: .*Squares with 40 images\)\. Pass the object"):
        ImageDataModule.load_from_checkpoint(path)
    again = ImageDataModule.load_from_checkpoint(path, source=Squares())
    again.setup()
    assert again.split_table().digest == data.split_table().digest
    trainer.fit(Foreign(), again, ckpt_path=path)  # nothing is left to train, and nothing is refused


def test_received_data_names_no_dataset_class() -> None:
    with opening("received"), pytest.raises(UserError, match="--trust"):
        ImageDataModule({"name": "dataset", "dataset": {"name": "not_imported_yet.Squares"}})
