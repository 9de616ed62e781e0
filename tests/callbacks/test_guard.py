"""NaNGuard: affected layer, parameter, images and step, the state before, and an unchanged training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from imgrec import EMA, ClassificationTask, NaNGuard, RunRecorder, TrainingFailedError
from imgrec.callbacks.nan_guard.divergence import Divergence
from imgrec.types import Batch, StepOutput
from tests.callbacks.small_training import digits, same, task, trainer

Cli = Callable[..., "CompletedProcess[str]"]
STEP = 8  # the third batch of the second epoch


class Spoiled(ClassificationTask):
    """Task that fails at step 8. ``how`` is the location."""

    def __init__(self, how: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.how = how

    def _now(self) -> bool:
        return self.training and self.trainer.global_step == STEP

    def model_step(self, batch: Batch) -> StepOutput:
        layer: Any = self.model.backbone.network.layer2
        spoil = layer.register_forward_hook(self._spoil) if self.how == "layer" and self._now() else None
        try:
            return super().model_step(batch)
        finally:
            if spoil is not None:
                spoil.remove()

    def _spoil(self, module: Any, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[[3, 5]] = math.inf
        return output

    def compute_loss(self, output: StepOutput) -> Tensor:
        loss = super().compute_loss(output)
        if self.how == "diverges" and self.trainer.global_step >= 22:
            return loss * 1000
        if not self._now():
            return loss
        if self.how == "gradient":
            network: Any = self.model.backbone.network
            infinite: Tensor = (network.layer2[0].conv2.weight * 0).sum().abs().sqrt()
            return loss + infinite
        return loss / 0 if self.how == "loss" else loss


def fail(tmp_path: Path, how: str, **options: Any) -> tuple[Path, str, dict[str, Any]]:
    """Train until the failure and return the run folder, the message and failure.json."""
    recorder = RunRecorder("run", tmp_path / "runs")
    guard = NaNGuard(every_n_steps=3, for_steps=options.pop("for_steps", 20))
    module = Spoiled(how, **{k: v for k, v in task().hparams.items() if k not in ("facts", "load_weights")})
    keep = ModelCheckpoint(filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    with pytest.raises(TrainingFailedError) as caught:
        trainer(tmp_path, [recorder, guard, EMA(decay=0.9), keep], **options).fit(module, datamodule=digits())
    assert recorder.folder is not None
    return recorder.folder, str(caught.value), json.loads((recorder.folder / "failure.json").read_text())


@pytest.mark.parametrize(
    ("how", "kind", "module", "parameter", "images", "text"),
    [
        (
            "layer",
            "loss",
            "model.backbone.network.layer3.0.conv1",
            None,
            2,
            "first output that is not finite is that of",
        ),
        ("loss", "loss", None, None, 64, "The output of every layer is finite, so it is the computation of the loss"),
        (
            "gradient",
            "gradient",
            None,
            "model.backbone.network.layer2.0.conv2.weight",
            64,
            "the gradient of model.back",
        ),
    ],
)
def test_first_affected_layer_is_reported(
    how: str, kind: str, module: str | None, parameter: str | None, images: int, text: str, tmp_path: Path
) -> None:
    run, message, failure = fail(tmp_path, how)
    assert (failure["kind"], failure["step"], failure["epoch"], failure["batch"]) == (kind, STEP, 1, 2)
    assert (failure["module"], failure["parameter"]) == (module, parameter)
    assert failure["repeated"]
    data = digits()
    data.setup("fit")
    batch = data.train_dataloader().batch_at(1, 2)
    expected = batch.ids if images == 64 else (batch.ids[3], batch.ids[5])
    assert tuple(failure["images"]) == expected
    assert text in message
    assert f"at step {STEP} (epoch 2, batch 3)" in message
    assert failure["images"][0] in message
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    # no checkpoint contains a NaN
    for path in (run / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(torch.isfinite(value).all()) for value in state.values()), path.name
    assert {path.stem for path in (run / "checkpoints").iterdir()} == {*map(str, range(1, STEP + 1)), "last_good"}


def test_resume_from_last_good_is_bit_equal(tmp_path: Path) -> None:
    run, _, failure = fail(tmp_path, "gradient")
    assert failure["last_good"] == "checkpoints/last_good.ckpt"
    assert failure["last_good_step"] == 6

    def end() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "end", enable_version_counter=False)

    whole = trainer(tmp_path, [NaNGuard(every_n_steps=3), EMA(decay=0.9), end()])
    whole.fit(task(), datamodule=digits())
    first = torch.load(tmp_path / "end.ckpt", weights_only=True)
    again = trainer(tmp_path, [NaNGuard(every_n_steps=3), EMA(decay=0.9), end()])
    again.fit(task(), datamodule=digits(), ckpt_path=run / failure["last_good"], weights_only=True)
    second = torch.load(tmp_path / "end.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(first[part], second[part]), part
    assert same(first["callbacks"]["NaNGuard"], second["callbacks"]["NaNGuard"])
    assert len(first["callbacks"]["NaNGuard"]["rule"]["losses"]) == 12


def test_divergence_is_reported(tmp_path: Path) -> None:
    _, message, failure = fail(tmp_path, "diverges", for_steps=3, max_epochs=5)
    assert (failure["kind"], failure["step"]) == ("divergence", 24)
    assert failure["loss"] > 10 * failure["median_loss"]
    assert message.startswith("training failed: the loss diverges")


def test_training_without_failure_is_bit_equal_and_silent(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [NaNGuard(every_n_steps=2)]):
        module = task()
        trainer(tmp_path, callbacks, accumulate_grad_batches=2, max_epochs=1).fit(module, datamodule=digits())
        weights.append({k: v.clone() for k, v in module.state_dict().items()})
    assert same(*weights)
    assert not list(tmp_path.rglob("failure.json"))


def test_command_exits_with_one_message_and_status_3(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "spoiled_task.py").write_text(
        "from imgrec import ClassificationTask\n\n\nclass Mine(ClassificationTask):\n"
        "    def compute_loss(self, output):\n        return super().compute_loss(output) * float('nan')\n"
    )
    words = ["fit", "--config", tiny, "--model", "spoiled_task.Mine", "--trainer.callbacks+", "NaNGuard"]
    done = cli(*words)
    assert done.returncode == 3
    assert "imgrec: error: training failed: the loss is nan at step 0 (epoch 1, batch 1)" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "runs/tiny").glob("*/failure.json"))


def test_divergence_rule_resumes_at_any_loss() -> None:
    losses = [1.0 + 0.1 * (i % 7) for i in range(40)] + [30.0, 40.0, 2.0, 30.0, 31.0, 32.0]
    whole = Divergence(10, 3, 25)
    answers = [whole.update(loss) for loss in losses]
    assert answers == [False] * 45 + [True]
    for cut in (5, 30, 41, 45):
        first, second = Divergence(10, 3, 25), Divergence(10, 3, 25)
        before = [first.update(loss) for loss in losses[:cut]]
        second.load_state_dict(first.state_dict())
        assert before + [second.update(loss) for loss in losses[cut:]] == answers
    quiet = Divergence(10, 1, 25)
    assert not any(quiet.update(loss) for loss in [-1.0] * 30 + [50.0])


class Poison(pl.Callback):
    """Callback that sets a weight to NaN between two steps."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == STEP:
            weight: Any = pl_module.model.head.linear.weight  # type: ignore[union-attr]
            weight.data[0, 0] = math.nan


def test_failure_that_does_not_repeat_is_reported(tmp_path: Path) -> None:
    recorder = RunRecorder("run", tmp_path / "runs")
    with pytest.raises(TrainingFailedError, match="The first affected layer could not be found"):
        trainer(tmp_path, [recorder, NaNGuard(), Poison()]).fit(task(), datamodule=digits())
    assert recorder.folder is not None
    failure = json.loads((recorder.folder / "failure.json").read_text())
    assert not failure["repeated"]
    assert failure["module"] is None


@pytest.mark.slow
def test_failed_process_is_reported(installed: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "one_rank.py").write_text(
        "from imgrec import ClassificationTask\n\n\nclass Mine(ClassificationTask):\n"
        "    def compute_loss(self, output):\n"
        "        wrong = self.global_rank == 1 and self.trainer.global_step == 4\n"
        "        return super().compute_loss(output) * (float('nan') if wrong else 1)\n"
    )
    words = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    callbacks = ["--trainer.callbacks", "[NaNGuard, EMA, {class_path: EarlyStopping, time_limit: 1h}]"]
    done = installed("fit", "--config", tiny, "--model", "one_rank.Mine", *words, *callbacks, cwd=tmp_path)
    assert done.returncode == 3, done.stderr[-3000:]
    assert done.stderr.count("training failed: the loss is nan at step 4") == 1
    (found,) = (tmp_path / "runs/tiny").glob("*/failure.json")
    failure = json.loads(found.read_text())
    assert (failure["process"], failure["step"], failure["repeated"]) == (1, 4, True)
    assert len(failure["images"]) == 64
