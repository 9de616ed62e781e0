"""Errors of a task for other data and other checkpoints, raised before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec import ClassificationTask, DataFacts, ImageDataModule, UserError
from imgrec.errors import SpecError
from imgrec.tasks.compatibility import check_same_classes, check_state_dict

Fit = Callable[..., Any]


@pytest.fixture
def checkpoint(fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Path) -> Path:
    """A checkpoint of the tiny network on the digits."""
    _, trainer = fit(ClassificationTask(tiny_backbone, normalize="half"), limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "digits.ckpt")
    return tmp_path / "digits.ckpt"


class Snapshot(ClassificationTask):
    """A task that stores the weights that it was built with."""

    def configure_model(self) -> None:
        super().configure_model()
        if not hasattr(self, "built"):
            self.built = [p.detach().clone() for p in self.parameters()]

    def untouched(self) -> bool:
        return all(torch.equal(a, b) for a, b in zip(self.parameters(), self.built, strict=True))


@pytest.mark.parametrize("weights_only", [True, None])
def test_a_checkpoint_of_other_classes_is_refused_before_anything_changes(
    checkpoint: Path, fit: Fit, tiny_backbone: dict[str, Any], weights_only: bool | None
) -> None:
    import pytorch_lightning as pl

    data = ImageDataModule(
        {"name": "torchvision", "dataset": "FakeData", "options": {"num_classes": 3, "size": 60}},
        image_size=16,
        channels=1,
        batch_size=8,
        num_workers=0,
    )
    task = Snapshot(tiny_backbone, normalize="half")
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(UserError) as refused:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=weights_only)
    message = str(refused.value)
    assert message.startswith("the checkpoint was trained on 10 classes (0, 1, 2, 3, 4, ...), the data has 3 classes (")
    assert message.endswith("Use data with the same classes in the same order.")
    assert "\n" not in message
    assert task.untouched()
    assert trainer.global_step == 0


def test_data_of_other_classes_is_refused_by_a_trained_task(checkpoint: Path, fit: Fit) -> None:
    task = ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True)
    before = [p.detach().clone() for p in task.parameters()]
    facts = task.facts
    data = ImageDataModule(
        {"name": "torchvision", "dataset": "FakeData", "options": {"num_classes": 3, "size": 60}},
        image_size=16,
        channels=1,
        batch_size=8,
        num_workers=0,
    )
    with pytest.raises(UserError, match=r"this model was trained on 10 classes .* the data has 3 classes"):
        fit(task, data)
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), before, strict=True))
    assert task.facts == facts


def test_images_of_other_channels_are_refused(checkpoint: Path, fit: Fit) -> None:
    task = ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True)
    data = ImageDataModule("digits", image_size=16, channels=3, num_workers=0)
    with pytest.raises(UserError, match=r"^this model: expected images of 1 channel\(s\), got 3\.$"):
        fit(task, data)


def test_a_trained_task_resumes_with_images_of_another_size(checkpoint: Path, fit: Fit) -> None:
    task = ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True)
    data = ImageDataModule("digits", image_size=24, channels=1, batch_size=64, num_workers=0)
    fit(task, data)
    assert task.facts is not None
    assert task.facts.image_size == task.hparams["facts"]["image_size"] == 24


@pytest.mark.parametrize(
    ("backbone", "head", "said"),
    [
        ({"channels": [16, 8, 8, 8]}, "linear", "have another shape (first: model.backbone.network"),
        ({"layers": [2, 1, 1, 1]}, "linear", "are missing (first: model.backbone.network.layer1.1"),
        ({}, "cosine", "2 are unknown (first: model.head.linear.bias)"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_before_anything_changes(
    checkpoint: Path, tiny_backbone: dict[str, Any], digits: ImageDataModule, backbone: Any, head: str, said: str
) -> None:
    import pytorch_lightning as pl

    task = Snapshot({**tiny_backbone, **backbone}, head=head, normalize="half")
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(UserError, match=r"^The checkpoint is of another architecture\. Of its ") as refused:
        trainer.fit(task, datamodule=digits, ckpt_path=checkpoint, weights_only=True)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert task.untouched()
    with pytest.raises(UserError, match="another architecture"):
        ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True, backbone="test_resnet")


def test_the_messages_count_the_differences() -> None:
    a, b = torch.zeros(2), torch.zeros(3)
    check_state_dict({"x": a, "y": b}, {"x": a.clone(), "y": b})
    with pytest.raises(UserError) as refused:
        check_state_dict({"x": a, "y": a, "z": a}, {"x": b, "y": a, "w": a, "v": a})
    assert str(refused.value) == (
        "The checkpoint is of another architecture. Of its 3 tensors, "
        "1 have another shape (first: x (2,), expected (3,)), 2 are missing (first: v), 1 are unknown (first: z)."
    )
    facts = DataFacts(("a", "b"), (1, 1), 8)
    check_same_classes(facts, DataFacts(("a", "b"), (5, 9), 16), "this model")
    with pytest.raises(UserError, match="same classes in the same order"):
        check_same_classes(facts, DataFacts(("b", "a"), (1, 1), 8), "this model")


def test_a_task_without_facts_raises(tiny_backbone: dict[str, Any]) -> None:
    task = ClassificationTask(tiny_backbone)
    with pytest.raises(UserError, match=r"expected facts of the data before the model is built"):
        task.configure_model()


def test_a_schedule_requires_a_last_step(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"Set trainer\.max_epochs or trainer\.max_steps"):
        fit(ClassificationTask(tiny_backbone, normalize="half"), max_epochs=-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet81"}, r'^model\.backbone: no backbone is called "resnet81"\. Did you mean "resnet'),
        ({"head": {"name": "linear", "drop": 0.1}}, r'^model\.head: .*no argument "drop".*"dropout"'),
        ({"loss": "focl"}, r'^model\.loss: no loss is called "focl"\. Did you mean "focal"'),
        ({"loss": ["focal", {"name": "focal", "gamma": "x"}]}, r"^model\.loss\[1\]\.gamma: expected float"),
        ({"regularizers": {"name": "l2"}}, r"^model\.regularizers.*weight"),
        ({"optimizer": {"name": "adamw", "lr": "fast"}}, r"^model\.optimizer\.lr: expected float"),
        ({"schedule": {"name": "cosine", "warmup": 2.0}}, r"^model\.schedule\.warmup: expected float in"),
        ({"normalize": "imagnet"}, r'^model\.normalize: .*"imagenet"'),
    ],
)
def test_an_invalid_spec_raises_when_the_task_is_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClassificationTask(**arguments)
