"""Results and logged values of a step, and the predictions and means of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec import Batch, ClassificationTask, ImageDataModule, StepOutput
from imgrec.errors import UserError
from imgrec.tasks import PredictionSet
from imgrec.tasks.epoch_metrics import classification_metrics
from imgrec.tasks.epoch_predictions import EpochBuffer, RunningMeans
from imgrec.types import DataFacts

Fit = Callable[..., Any]


class Recording(ClassificationTask):
    """A task that stores output and total loss of every training step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.outputs: list[StepOutput] = []
        self.totals: list[Tensor] = []

    def model_step(self, batch: Batch) -> StepOutput:
        output = super().model_step(batch)
        if self.training:
            self.outputs.append(output)
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        total = super().training_step(batch, batch_idx)
        self.totals.append(total.detach())
        return total


class Gradients(pl.Callback):
    """Callback that stores the gradients of the last step by parameter name."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.found = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- training


def test_the_total_is_the_loss_and_the_weighted_penalties(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    regularizers = [{"name": "l2", "weight": 0.01}, {"name": "l1", "weight": 0.001, "ramp": [0.0, 1.0]}]
    task, trainer = fit(Recording(backbone=tiny_backbone, normalize="half", regularizers=regularizers))
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert figures["train/loss"] == pytest.approx(float(torch.stack(task.totals).mean()), rel=1e-6)
    assert {name for name in figures if name.startswith("train/reg/")} == {"train/reg/l2", "train/reg/l1"}
    losses = [F.cross_entropy(o.logits, o.targets) for o in task.outputs]
    plain = float(torch.stack(losses).mean().detach())
    penalties = figures["train/reg/l2"] + figures["train/reg/l1"]
    assert figures["train/loss"] == pytest.approx(plain + penalties, rel=1e-5)
    assert penalties > 0
    first = float(task.totals[0]) - float(losses[0].detach())
    l2_alone = sum(float(p.detach().square().sum()) for p in task.parameters() if p.ndim > 1)
    assert 0 < first < 0.02 * l2_alone  # the ramp begins at nothing
    right = [(o.logits.argmax(1) == o.targets).float().mean() for o in task.outputs]
    assert figures["train/acc"] == pytest.approx(float(torch.stack(right).mean()), abs=1e-6)


def test_without_a_regularizer_there_is_no_penalty(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    _, trainer = fit(ClassificationTask(tiny_backbone, normalize="half"))
    assert not [name for name in trainer.callback_metrics if name.startswith("train/reg")]


def test_accuracy_on_mixed_labels_is_not_training_accuracy(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Mixed(ClassificationTask):
        def model_step(self, batch: Batch) -> StepOutput:
            output = super().model_step(batch)
            if not self.training:
                return output
            soft = 0.7 * F.one_hot(batch.targets, 10).float() + 0.3 * F.one_hot(batch.targets.roll(1), 10).float()
            return replace(output, targets=soft)

    _, trainer = fit(Mixed(tiny_backbone, normalize="half"))
    assert "train/loss" in trainer.callback_metrics
    assert "train/acc" not in trainer.callback_metrics
    assert "val/acc" in trainer.callback_metrics


@pytest.mark.parametrize(("every", "accumulate", "steps"), [(2, 1, [1, 3, 5]), (2, 2, [1]), (0, 1, [])])
def test_the_loss_of_a_step_is_logged_at_the_steps_of_loggers(
    fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Any, every: int, accumulate: int, steps: list[int]
) -> None:
    from imgrec.callbacks import MetricsLogger
    from imgrec.runs.metrics_csv import read_metrics

    task = Recording(backbone=tiny_backbone, normalize="half")
    fit(
        task,
        limit_train_batches=6,
        limit_val_batches=0,
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        logger=MetricsLogger(tmp_path),
    )
    found = read_metrics(tmp_path / "metrics.csv")
    assert ("train/loss_step" in found) == bool(steps)
    if steps:
        assert found["train/loss_step"].steps.tolist() == steps
        expected = [float(task.totals[accumulate * step + accumulate - 1]) for step in steps]
        assert found["train/loss_step"].values.tolist() == pytest.approx(expected, rel=1e-6)
    assert found["train/loss"].values.tolist() == pytest.approx([float(torch.stack(task.totals).mean())], rel=1e-6)


def test_progress_increases_from_zero_to_one_in_optimizer_steps(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    seen: list[float] = []
    rates: list[float] = []

    class Watching(ClassificationTask):
        def compute_loss(self, output: StepOutput) -> Tensor:
            seen.append(self.progress)
            rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
            return super().compute_loss(output)

    task, _ = fit(
        Watching(
            tiny_backbone,
            normalize="half",
            optimizer={"name": "sgd", "lr": 0.5},
            schedule={"name": "step", "milestones": [0.5]},
        ),
        max_epochs=2,
        limit_train_batches=4,
        accumulate_grad_batches=2,
    )
    assert task.total_steps == 4
    assert seen == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert task.progress == 1.0
    assert rates == pytest.approx([0.5] * 4 + [0.05] * 4)


def test_gradients_are_on_in_training_and_off_in_evaluation(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    seen: set[tuple[bool, bool, bool]] = set()

    class Watching(ClassificationTask):
        def model_step(self, batch: Batch) -> StepOutput:
            output = super().model_step(batch)
            seen.add((self.training, torch.is_grad_enabled(), output.logits.requires_grad))
            return output

    gradients = Gradients()
    task, trainer = fit(Watching(tiny_backbone, normalize="half"), callbacks=[gradients])
    trainer.predict(task, datamodule=trainer.datamodule)
    assert seen == {(True, True, True), (False, False, False)}
    assert torch.is_grad_enabled()
    assert set(gradients.found) == {name for name, _ in task.named_parameters()}
    for name, gradient in gradients.found.items():
        assert torch.isfinite(gradient).all(), name
        assert (gradient != 0).any(), name


# ---------------------------------------------------------------- auxiliary classifiers


def test_auxiliary_logits_have_a_weight_in_the_loss() -> None:
    facts = DataFacts(("a", "b", "c", "d"), (1, 1, 1, 1), image_size=16)
    tiny = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    task = ClassificationTask(tiny, loss="cross_entropy", auxiliary_weight=0.25, facts=facts.to_dict())
    task.configure_model()
    generator = torch.Generator().manual_seed(0)
    logits, first, second = (torch.randn(6, 4, generator=generator) for _ in range(3))
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    output = StepOutput(torch.empty(0), targets, logits, torch.empty(0), 0, auxiliary=(first, second))
    expected = F.cross_entropy(logits, targets) + 0.25 * (
        F.cross_entropy(first, targets) + F.cross_entropy(second, targets)
    )
    torch.testing.assert_close(task.compute_loss(output), expected)
    torch.testing.assert_close(task.compute_loss(replace(output, auxiliary=())), F.cross_entropy(logits, targets))


def test_auxiliary_classifiers_of_googlenet_run_in_training_only(fit: Fit) -> None:
    counts: list[tuple[bool, int]] = []

    class Watching(ClassificationTask):
        def model_step(self, batch: Batch) -> StepOutput:
            output = super().model_step(batch)
            counts.append((self.training, len(output.auxiliary)))
            return output

    gradients = Gradients()
    data = ImageDataModule("digits", image_size=64, batch_size=2, eval_batch_size=4, num_workers=0)
    task, _ = fit(
        Watching("torchvision/googlenet", optimizer={"name": "sgd", "lr": 1e-3}),
        data,
        limit_train_batches=1,
        limit_val_batches=1,
        callbacks=[gradients],
    )
    assert counts == [(True, 2), (False, 0)]
    auxiliary = [name for name, _ in task.named_parameters() if ".aux" in name]
    assert len([name for name in auxiliary if name.endswith("fc2.weight")]) == 2
    assert all((gradients.found[name] != 0).any() for name in auxiliary)


# ---------------------------------------------------------------- evaluation


def test_metrics_are_computed_from_all_logits_at_once(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    data = ImageDataModule("digits", image_size=16, channels=1, batch_size=64, eval_batch_size=50, num_workers=0)
    task, trainer = fit(ClassificationTask(tiny_backbone, loss="focal", normalize="half"), data)
    kept = task.predictions
    assert isinstance(kept, PredictionSet)
    assert list(kept.ids) == sorted(data.source.ids[row] for row in data.splits.val)
    assert (kept.logits.dtype, kept.targets.dtype) == (torch.float32, torch.int64)
    names = {name: i for i, name in enumerate(data.source.ids)}
    assert kept.targets.tolist() == [int(data.source.targets[names[i]]) for i in kept.ids]
    images = torch.stack([data.source.load(names[i]) for i in kept.ids])
    resized = torch.stack([data.eval_pipeline(image) for image in images])
    with torch.no_grad():
        logits = task.eval()(resized)
    torch.testing.assert_close(kept.logits, logits, atol=1e-5, rtol=1e-4)
    found = {n.removeprefix("val/"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
    expected = classification_metrics(kept.logits, kept.targets) | {"loss": float(task.loss(kept.logits, kept.targets))}
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_sanity_check_leaves_nothing_behind(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    task, _ = fit(ClassificationTask(tiny_backbone, normalize="half"), num_sanity_val_steps=2)
    assert task.predictions is not None
    assert len(task.predictions.ids) == 179


def test_an_epoch_without_images_has_no_metrics(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    class Empty(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.validation_step = lambda *_: None  # type: ignore[method-assign]

    task, trainer = fit(ClassificationTask(tiny_backbone, normalize="half"), callbacks=[Empty()])
    assert task.predictions is None
    assert "val/acc" not in trainer.callback_metrics


def test_the_buffer_sorts_by_id_and_is_emptied() -> None:
    buffer = EpochBuffer()
    assert buffer.gather() is None
    buffer.add(["c", "a"], torch.tensor([2, 0]), torch.tensor([[2.0], [0.0]], dtype=torch.float16))
    buffer.add(["b"], torch.tensor([1]), torch.tensor([[1.0]], requires_grad=True))
    taken = buffer.gather()
    assert taken is not None
    assert taken.ids == ("a", "b", "c")
    assert taken.targets.tolist() == [0, 1, 2]
    assert taken.logits.tolist() == [[0.0], [1.0], [2.0]]
    assert taken.logits.dtype == torch.float32
    assert not taken.logits.requires_grad
    assert buffer.gather() is None


def test_means_are_weighted_by_the_number_of_samples() -> None:
    means = RunningMeans()
    means.add("loss", torch.tensor(1.0, requires_grad=True), 30)
    means.add("loss", torch.tensor(4.0), 10)
    means.add("acc", torch.tensor(0.5), 10)
    assert means.gather() == {"loss": 1.75, "acc": 0.5}
    assert means.gather() == {}


def test_means_resume_from_a_checkpoint_and_end_with_the_epoch() -> None:
    means, resumed = RunningMeans(), RunningMeans()
    means.start_epoch(3)
    means.add("loss", torch.tensor(1.0), 30)
    resumed.load_state_dict(means.state_dict())
    resumed.start_epoch(3)
    resumed.add("loss", torch.tensor(4.0), 10)
    assert resumed.gather() == {"loss": 1.75}
    means.start_epoch(4)
    means.add("loss", torch.tensor(4.0), 10)
    assert means.gather() == {"loss": 4.0}
    # two processes trained, and one resumes
    state = means.state_dict() | {"sums": [{"loss": (torch.tensor(30.0), 30)}, {"loss": (torch.tensor(40.0), 10)}]}
    resumed.load_state_dict(state)
    assert resumed.gather() == {"loss": 1.75}


def test_the_learning_rate_is_scaled_by_the_batch_size(fit: Any, tiny_backbone: dict[str, Any], caplog: Any) -> None:
    optimizer = {"name": "sgd", "lr": 0.1, "lr_reference_batch": 256}
    task = ClassificationTask(backbone=tiny_backbone, optimizer=optimizer, schedule="constant", normalize="half")
    with caplog.at_level("INFO", logger="imgrec"):
        _, trainer = fit(task, accumulate_grad_batches=2)
    assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {0.05}
    assert "model.optimizer.lr: 0.05: 0.1 as given, for batches of 256, times 128/256" in caplog.text


def test_missing_and_repeated_predictions_raise() -> None:
    found = PredictionSet(("a", "b"), torch.tensor([0, 1]), torch.zeros(2, 2), skipped=("c",))
    found.check("val", 3)
    found.check("val")
    with pytest.raises(UserError, match="val: expected 4 images, got 2 predictions and 1 images that cannot be read"):
        found.check("val", 4)
    with pytest.raises(UserError, match="got several for 1 images, for example a"):
        PredictionSet(("a", "a"), torch.tensor([0, 1]), torch.zeros(2, 2)).check("val")


class Forgetful(ClassificationTask):
    """A task that ignores the last batch of a validation."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx < 2:
            super().validation_step(batch, batch_idx)


def test_an_evaluation_without_all_images_raises(fit: Any, tiny_backbone: dict[str, Any]) -> None:
    task = Forgetful(backbone=tiny_backbone, normalize="half")
    with pytest.raises(UserError, match="val: expected 179 images, got 128 predictions and 0 images"):
        fit(task)
    fit(Forgetful(backbone=tiny_backbone, normalize="half"), limit_val_batches=2)  # a limit is accepted
