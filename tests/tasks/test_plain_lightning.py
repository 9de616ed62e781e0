"""Tasks with plain DataLoaders, the data module with a plain LightningModule, and outputs made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from imgrec import ClassificationTask, ImageDataModule, StepOutput, UserError
from imgrec.losses import LOSSES
from imgrec.regularizers import REGULARIZERS
from tests.tasks.conftest import TINY

TINY_TASK: dict[str, Any] = {"backbone": TINY, "optimizer": {"name": "adamw", "lr": 0.01}, "normalize": "half"}


def digits(dtype: torch.dtype = torch.uint8) -> TensorDataset:
    found = load_digits()
    images = torch.tensor(found.images).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    images = (images * 255 / 16).to(dtype) if dtype == torch.uint8 else (images / 16).to(dtype)
    return TensorDataset(images, torch.tensor(found.target))


def trainer(**arguments: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", logger=False, **quiet, **arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_task_trains_from_a_plain_loader(dtype: torch.dtype, tmp_path: Path) -> None:
    data = digits(dtype)
    train, test = Subset(data, range(1200)), Subset(data, range(1200, 1797))
    pl.seed_everything(0, verbose=False)
    task = ClassificationTask(**TINY_TASK, num_classes=10)
    fitting = trainer(max_epochs=6)
    fitting.fit(task, DataLoader(train, batch_size=32, shuffle=True), DataLoader(test, batch_size=100))
    (metrics,) = fitting.test(task, DataLoader(test, batch_size=100), verbose=False)
    assert metrics["test/acc"] > 0.7
    assert task.predictions is not None
    assert len(task.predictions.ids) == len(test)
    assert task.facts is not None
    assert task.facts.class_names == tuple("0123456789")
    outputs = fitting.predict(task, DataLoader(test, batch_size=100))
    logits = torch.cat([each.logits for each in outputs])  # type: ignore[union-attr]
    assert logits.shape == (597, 10)
    correct = (logits.argmax(1) == data.tensors[1][1200:]).float().mean()
    assert float(correct) == pytest.approx(metrics["test/acc"])
    images = data.tensors[0][1200:1204]
    torch.testing.assert_close(task.eval()(images), logits[:4], atol=1e-4, rtol=1e-4)
    fitting.save_checkpoint(tmp_path / "plain.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "plain.ckpt")
    torch.testing.assert_close(loaded.eval()(images), task.eval()(images))


def test_class_names_come_from_the_data_set() -> None:
    data = digits()
    data.classes = [f"digit {k}" for k in range(10)]  # type: ignore[attr-defined]  # as data sets of torchvision
    task = ClassificationTask(**TINY_TASK)
    trainer(max_epochs=1, limit_train_batches=2).fit(task, DataLoader(Subset(data, range(64)), batch_size=16))
    assert task.facts is not None
    assert task.facts.class_names[3] == "digit 3"


def test_a_task_has_an_untrained_model_without_a_trainer() -> None:
    task = ClassificationTask(**TINY_TASK, class_names=["cat", "dog"])
    assert task(torch.zeros(3, 1, 16, 16)).shape == (3, 2)
    with pytest.raises(UserError, match="expected facts of the data before the model is built"):
        ClassificationTask(**TINY_TASK)(torch.zeros(3, 1, 16, 16))


class Words(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return {"image": torch.zeros(1, 16, 16), "label": 0}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(1, 16, 12), torch.tensor(0))])


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (digits(), {}, "model.num_classes: expected the number of classes"),
        (Words(), {"num_classes": 2}, "expected pairs of an image tensor and a label, got dict"),
        (Stream(), {"num_classes": 2}, r"images: expected \(1 or 3, size, size\), got \(1, 16, 12\)"),
    ],
)
def test_invalid_data_has_one_error(data: Any, arguments: dict[str, Any], message: str) -> None:
    task = ClassificationTask(**TINY_TASK, **arguments)
    with pytest.raises(UserError, match=message):
        trainer(max_epochs=1).fit(task, DataLoader(data, batch_size=4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3, "class_names": ["a", "b"]}, "num_classes: expected 2"),
        ({"class_names": ["a", "a"]}, "class_names: expected one or more different names"),
        ({"num_classes": 0}, "class_names: expected one or more"),
    ],
)
def test_invalid_classes_have_one_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassificationTask(**TINY_TASK, **arguments)


class Plain(pl.LightningModule):
    """A LightningModule that does not use imgrec."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        loss = nn.functional.cross_entropy(self.net(images), targets)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def test_the_data_module_serves_a_plain_module() -> None:
    module = Plain()
    data = ImageDataModule("digits", image_size=16, channels=1, num_workers=0, image_dtype="float32")
    trainer(max_epochs=3).fit(module, datamodule=data)
    assert module.losses[-1] < 0.5 * module.losses[0]


def test_losses_and_regularizers_accept_an_output_made_by_hand() -> None:
    output = StepOutput(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3))
    assert float(LOSSES.build("focal")(output.logits, output.targets)) > 0
    penalty = REGULARIZERS.build("confidence")
    assert torch.isfinite(penalty(output, nn.Linear(2, 2)))
