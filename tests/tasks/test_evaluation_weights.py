"""Optimizers whose evaluation weights differ from the training weights: validation, checkpoints, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from imgrec import EMA, ClassificationTask
from imgrec.errors import UserError
from imgrec.optim import find_eval_weights_optimizer
from tests.callbacks.small_training import BACKBONE, digits, same, trainer

FREE: dict[str, Any] = {"name": "schedule_free_adamw", "lr": 0.01}
SLOW: dict[str, Any] = {"name": "lookahead", "every": 5, "base": {"name": "adamw", "lr": 0.01}}


def task(optimizer: dict[str, Any], schedule: Any = "constant") -> ClassificationTask:
    return ClassificationTask(backbone=BACKBONE, normalize="half", optimizer=optimizer, schedule=schedule)


class Look(pl.Callback):
    """Callback that stores the training and the validation weights, and a checkpoint in the middle of training."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.trained: dict[str, Any] = {}
        self.validated: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0 and self.path is not None:
            self.trained = {n: p.detach().clone() for n, p in pl_module.named_parameters()}
            trainer.save_checkpoint(self.path)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if trainer.current_epoch == 0:
            self.validated = {n: p.detach().clone() for n, p in pl_module.named_parameters()}


@pytest.mark.parametrize("optimizer", [FREE, SLOW], ids=lambda spec: str(spec["name"]))
def test_the_evaluation_weights_are_validated_and_saved_and_training_resumes_exactly(
    optimizer: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "middle.ckpt"
    look, whole = Look(path), task(optimizer)
    made = trainer(tmp_path, [look], enable_checkpointing=False)
    made.fit(whole, datamodule=digits())
    kept = torch.load(path, weights_only=True)
    weights = {name: kept["state_dict"][name] for name in look.trained}
    assert same(weights, look.validated)
    assert not any(torch.equal(weights[name], look.trained[name]) for name in weights if name.endswith("conv1.weight"))
    loaded = ClassificationTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert same({n: p.detach() for n, p in loaded.named_parameters()}, look.validated)
    resumed = task(optimizer)
    trainer(tmp_path, [], enable_checkpointing=False).fit(
        resumed, datamodule=digits(), ckpt_path=path, weights_only=True
    )
    assert same(dict(resumed.state_dict()), dict(whole.state_dict()))
    found = find_eval_weights_optimizer(made.optimizers[0])
    assert found is not None
    left = {n: p.detach().clone() for n, p in whole.named_parameters()}
    found.train()
    assert not same(left, {n: p.detach() for n, p in whole.named_parameters()})  # the model has the evaluation weights


def test_ema_replaces_the_slow_weights(tmp_path: Path) -> None:
    look = Look(tmp_path / "middle.ckpt")
    average, whole, resumed = EMA(decay=0.5), task(SLOW), task(SLOW)
    trainer(tmp_path, [average, look], enable_checkpointing=False).fit(whole, datamodule=digits())
    kept = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    assert "weights" not in kept["optimizer_states"][0]
    again = trainer(tmp_path, [EMA(decay=0.5)], enable_checkpointing=False)
    again.fit(resumed, datamodule=digits(), ckpt_path=tmp_path / "middle.ckpt", weights_only=True)
    assert same(dict(resumed.state_dict()), dict(whole.state_dict()))


def test_a_second_average_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.callbacks: expected no EMA with the optimizer ScheduleFreeAdamW"):
        trainer(tmp_path, [EMA()], enable_checkpointing=False).fit(task(FREE), datamodule=digits())


def test_a_decaying_schedule_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for schedule, is_logged in (("cosine", True), ({"name": "constant", "warmup": 0.1}, False)):
        caplog.clear()
        made = trainer(tmp_path, [], enable_checkpointing=False, max_steps=1, max_epochs=-1, limit_val_batches=0)
        made.fit(task(FREE, schedule), datamodule=digits())
        assert ("ScheduleFreeAdamW is designed for a constant learning rate" in caplog.text) is is_logged


def test_a_plateau_is_counted_by_validations_and_resumed(tmp_path: Path) -> None:
    schedule = {"name": "plateau", "monitor": "val/loss", "mode": "max", "patience": 0, "gamma": 0.5}
    ends: list[tuple[float, Any]] = []
    path = tmp_path / "middle.ckpt"
    optimizer: dict[str, Any] = {"name": "adamw", "lr": 0.01}
    for start in (None, path):
        module = task(optimizer, schedule)
        callbacks = [Look(path)] if start is None else []
        made = trainer(tmp_path, callbacks, max_epochs=4, enable_checkpointing=False, num_sanity_val_steps=1)
        made.fit(module, datamodule=digits(), ckpt_path=start, weights_only=True)
        ends.append((made.optimizers[0].param_groups[0]["lr"], dict(module.state_dict())))
    assert ends[0][0] < 0.01  # the loss falls, which is worse by this mode
    assert same(ends[0], ends[1])
    made = trainer(tmp_path, [], enable_checkpointing=False, num_sanity_val_steps=1)
    with pytest.raises(UserError, match=r'model\.schedule\.monitor: validation has no "val/acuracy"'):
        made.fit(task(optimizer, {"name": "plateau", "monitor": "val/acuracy"}), datamodule=digits())
