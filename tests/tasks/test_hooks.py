"""One override is one research idea: each hook of a task, overridden alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from imgrec import BaseTask, Batch, ClassificationTask, DataFacts, ImageDataModule, StepOutput
from imgrec.regularizers import RegularizerSum

Fit = Callable[..., Any]
Metrics = Callable[[Tensor, Tensor], dict[str, float]]


class Flat(nn.Module):
    """A linear network that is no imgrec Classifier."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1).float() / 255)
        return logits


class Own(BaseTask):
    """A task from nothing but the abstract hooks."""

    def build_model(self, facts: DataFacts) -> nn.Module:
        return Flat(facts.channels * facts.image_size**2, facts.num_classes)

    def build_loss(self, facts: DataFacts) -> nn.Module:
        return nn.CrossEntropyLoss()

    def build_metrics(self, facts: DataFacts) -> Metrics:
        return lambda logits, targets: {"acc": float((logits.argmax(1) == targets).float().mean())}

    def model_step(self, batch: Batch) -> StepOutput:
        images = batch.images.flatten(1).float()
        return StepOutput(batch.images, batch.targets, self.model(batch.images), images, self.current_epoch)


def test_four_hooks_make_a_task_that_learns(fit: Fit) -> None:
    task, trainer = fit(
        Own(optimizer={"name": "adamw", "lr": 0.01}, schedule="constant"), max_epochs=2, limit_train_batches=1.0
    )
    assert float(trainer.callback_metrics["val/acc"]) > 0.8
    assert task.hparams["facts"]["image_size"] == 16


def test_a_task_without_its_hooks_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseTask()  # type: ignore[abstract]


def test_build_model(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Wide(ClassificationTask):
        def build_model(self, facts: DataFacts) -> Any:
            model = super().build_model(facts)
            model.head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, facts.num_classes))
            return model

    before: list[Tensor] = []

    class Keep(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            before.append(pl_module.model.head[2].weight.detach().clone())

    task, _ = fit(Wide(tiny_backbone, normalize="half"), callbacks=[Keep()])
    assert not torch.equal(task.model.head[2].weight, before[0])
    assert task(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_build_loss(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Constant(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return logits.mean() * 0 + 7

    class Task(ClassificationTask):
        def build_loss(self, facts: DataFacts) -> nn.Module:
            assert facts.class_names[3] == "3"
            return Constant()

    _, trainer = fit(Task(tiny_backbone, normalize="half"))
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(7)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(7)


def test_build_regularizers(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Features(nn.Module):
        def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
            return output.features.square().mean()

    class Task(ClassificationTask):
        def build_regularizers(self, facts: DataFacts) -> RegularizerSum:
            return RegularizerSum([Features()], [0.5], names=["features"])

    _, trainer = fit(Task(tiny_backbone, normalize="half"))
    assert float(trainer.callback_metrics["train/reg/features"]) > 0


def test_build_metrics(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Task(ClassificationTask):
        def build_metrics(self, facts: DataFacts) -> Metrics:
            usual = super().build_metrics(facts)
            return lambda logits, targets: usual(logits, targets) | {"images": float(len(targets))}

    _, trainer = fit(Task(tiny_backbone, normalize="half"))
    assert float(trainer.callback_metrics["val/images"]) == 179
    assert "val/ece" in trainer.callback_metrics


def test_configure_optimizers(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Task(ClassificationTask):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adagrad(self.parameters(), lr=0.125)

    task, trainer = fit(Task(tiny_backbone, normalize="half"))
    assert isinstance(trainer.optimizers[0], torch.optim.Adagrad)
    assert trainer.lr_scheduler_configs == []
    assert task.progress == 0.0  # the number of steps is this hook's to know


def test_model_step(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    """Training, validation, test and prediction share one overridden step."""
    seen: list[tuple[bool, int]] = []

    class Inverted(ClassificationTask):
        def model_step(self, batch: Batch) -> StepOutput:
            seen.append((self.training, len(batch)))
            return super().model_step(Batch(255 - batch.images, batch.targets, batch.ids))

    task, trainer = fit(Inverted(tiny_backbone, normalize="half"), limit_val_batches=1)
    assert seen == [(True, 64)] * 3 + [(False, 64)]
    trainer.test(task, datamodule=trainer.datamodule, verbose=False)
    outputs = trainer.predict(task, datamodule=trainer.datamodule)
    assert sum(len(o.targets) for o in outputs) == 179
    assert all(isinstance(o, StepOutput) for o in outputs)
    plain = task.eval()(outputs[0].images).detach()
    torch.testing.assert_close(outputs[0].logits, plain)


def test_compute_loss(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Confident(ClassificationTask):
        """The example in the docstring of the class."""

        def compute_loss(self, output: StepOutput) -> Tensor:
            return super().compute_loss(output) - 0.1 * output.logits.softmax(1).amax(1).mean()

    _, plain = fit(ClassificationTask(tiny_backbone, normalize="half"), limit_train_batches=1)
    _, own = fit(Confident(tiny_backbone, normalize="half"), limit_train_batches=1)
    less = float(plain.callback_metrics["train/loss"]) - float(own.callback_metrics["train/loss"])
    assert 0.01 <= less <= 0.1


def test_an_argument_of_ones_own_is_a_hyperparameter(fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Any) -> None:
    class Scaled(ClassificationTask):
        def __init__(self, scale: float = 1.0, **rest: Any) -> None:
            super().__init__(**rest)
            self.scale = scale

        def compute_loss(self, output: StepOutput) -> Tensor:
            return self.scale * super().compute_loss(output)

    task, trainer = fit(Scaled(scale=3.0, backbone=tiny_backbone, normalize="half"))
    assert task.hparams["scale"] == 3.0
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = Scaled.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.scale == 3.0
    assert again.hparams["backbone"] == tiny_backbone
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), again.parameters(), strict=True))


def test_overfitting_one_batch_brings_the_loss_down(tiny_backbone: dict[str, Any], fit: Fit) -> None:
    data = ImageDataModule("digits", image_size=16, channels=1, batch_size=32, num_workers=0)
    task = ClassificationTask(
        tiny_backbone, optimizer={"name": "adamw", "lr": 0.02}, schedule="constant", normalize="half"
    )
    _, trainer = fit(task, data, overfit_batches=1, max_epochs=80, limit_train_batches=None, check_val_every_n_epoch=80)
    assert float(trainer.callback_metrics["train/loss"]) < 0.1
    assert float(trainer.callback_metrics["train/acc"]) == 1.0
