"""Averaged weights: their values, their use in validation and checkpoints, and a bit-equal resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor

from imgrec import EMA, ClassificationTask, UserError
from tests.callbacks.small_training import digits, in_two_parts, same, task, trainer

HEAD = "model.head.linear.weight"
STATISTIC = "model.backbone.network.bn1.running_mean"


class History(pl.Callback):
    """Recorder of the weights after every step and of the weights in validation."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.after.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validated.append({k: v.clone() for k, v in pl_module.state_dict().items()})


def fit(tmp_path: Path, ema: EMA, **options: Any) -> tuple[History, ClassificationTask, pl.Trainer]:
    history, module = History(), task()
    best = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="val/loss", enable_version_counter=False)
    run = trainer(tmp_path, [ema, history, best], **options)
    run.fit(module, datamodule=digits())
    return history, module, run


def average(history: History, name: str, decay: float, warmup: bool, first: int = 0, every: int = 1) -> Tensor:
    """Compute the average by its definition in float64."""
    found, updates = None, 0
    for step, state in enumerate(history.after, 1):
        if step < max(first, 1):
            continue
        value = state[name].double()
        if found is None:
            found = value
        elif (step - first) % every == 0:
            d = min(decay, (1 + updates * every) / (10 + updates * every)) if warmup else decay
            found = found * d**every + value * (1 - d**every)
            updates += 1
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("arguments", "definition"),
    [
        ({"decay": 0.9, "warmup": False}, {"decay": 0.9, "warmup": False}),
        ({"decay": 0.5}, {"decay": 0.5, "warmup": True}),
        ({"decay": 0.9, "start": 0.5}, {"decay": 0.9, "warmup": True, "first": 6}),
        ({"decay": 0.9, "every_n_steps": 3}, {"decay": 0.9, "warmup": True, "every": 3}),
    ],
)
def test_average_equals_the_definition(arguments: dict[str, Any], definition: dict[str, Any], tmp_path: Path) -> None:
    history, module, _ = fit(tmp_path, EMA(**arguments))
    for name in (HEAD, STATISTIC):
        expected = average(history, name, **definition)
        torch.testing.assert_close(module.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(expected, history.after[-1][name].double(), rtol=1e-3)
    assert module.state_dict()["model.backbone.network.bn1.num_batches_tracked"] == 12


def test_batch_statistics_can_be_copied(tmp_path: Path) -> None:
    history, module, _ = fit(tmp_path, EMA(decay=0.9, buffers="copy"))
    assert torch.equal(module.state_dict()[STATISTIC], history.after[-1][STATISTIC])
    assert not torch.equal(module.state_dict()[HEAD], history.after[-1][HEAD])


def test_validation_uses_the_average_and_training_the_weights(tmp_path: Path) -> None:
    plain, _, _ = fit(tmp_path / "plain", EMA(decay=0.9, start=0.99))
    averaged, _, _ = fit(tmp_path / "averaged", EMA(decay=0.9))
    assert all(same(a, b) for a, b in zip(plain.after, averaged.after, strict=True))
    assert same(plain.validated[0], plain.after[5])  # before the average begins
    assert not torch.equal(averaged.validated[0][HEAD], averaged.after[5][HEAD])


def test_best_checkpoint_contains_the_validated_average(tmp_path: Path) -> None:
    history, module, run = fit(tmp_path, EMA(decay=0.9))
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    epoch = checkpoint["epoch"]
    seen = history.validated[epoch * (len(history.validated) // 2)]
    assert same(dict(checkpoint["state_dict"]), seen)
    assert same(dict(checkpoint["current_model_state"]), history.after[6 * epoch + 5])
    # a test from Python, with the callback in the trainer, is one of the average, too
    run.test(module, datamodule=digits(), ckpt_path="best", weights_only=True, verbose=False)
    assert same(dict(module.state_dict()), seen)
    run.validate(module, datamodule=digits(), ckpt_path="best", weights_only=True, verbose=False)
    assert same(dict(module.state_dict()), seen)
    assert float(run.callback_metrics["val/loss"]) == pytest.approx(
        float(
            checkpoint["callbacks"][next(k for k in checkpoint["callbacks"] if "Checkpoint" in k)]["best_model_score"]
        )
    )


@pytest.mark.parametrize(
    ("arguments", "at_step"),
    [({"decay": 0.9}, 4), ({"decay": 0.9}, 6), ({"decay": 0.9, "start": 0.6, "every_n_steps": 2}, 9)],
)
def test_resumed_average_is_bit_equal(arguments: dict[str, Any], at_step: int, tmp_path: Path) -> None:
    first, second = in_two_parts(tmp_path, lambda: [EMA(**arguments)], at_step)
    assert set(first) == set(second)
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(first[part], second[part]), part
    assert first["callbacks"]["EMA"] == second["callbacks"]["EMA"]


def test_order_of_the_callbacks_has_no_effect(tmp_path: Path) -> None:
    class Writing(pl.Callback):
        """Checkpoint callback that writes at the end of a step, before the callbacks after it in the list."""

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    trainer(tmp_path, [Writing(), EMA(decay=0.9)], max_epochs=1, enable_checkpointing=False).fit(
        task(), datamodule=digits()
    )
    ahead = torch.load(tmp_path / "5.ckpt", weights_only=True)
    trainer(tmp_path, [EMA(decay=0.9), Writing()], max_epochs=1, enable_checkpointing=False).fit(
        task(), datamodule=digits()
    )
    behind = torch.load(tmp_path / "5.ckpt", weights_only=True)
    assert same(ahead["state_dict"], behind["state_dict"])
    assert ahead["callbacks"]["EMA"] == behind["callbacks"]["EMA"] == {"step": 5, "updates": 4}


def test_sharded_weights_raise() -> None:
    sharding = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(UserError, match="which EMA requires, got FSDPStrategy"):
        EMA().setup(cast(pl.Trainer, sharding), pl.LightningModule(), "fit")


def test_unknown_buffers_raise() -> None:
    with pytest.raises(UserError, match=r"EMA\.buffers: expected"):
        EMA(buffers=cast(Any, "keep"))
