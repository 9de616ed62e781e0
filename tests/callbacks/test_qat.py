"""Quantization-aware training: start, freezing, resume and rejected configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, StochasticWeightAveraging

from imgrec import UserError
from imgrec.callbacks import EMA, QAT, ImageSizeSchedule, LayerStatistics, Pruning, StructuredPruning
from imgrec.compress.quantization.qat import QuantizedClassifier
from tests.callbacks.small_training import digits, in_two_parts, same, task, trainer


class Watch(Callback):
    """Recorder of the model in each step and of the parameters in the optimizer."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, str, bool]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        model: Any = pl_module.model
        swapped = isinstance(model, QuantizedClassifier)
        bounds: Any = next(iter(model.ranges.values())) if swapped else None
        self.seen.append((swapped, bounds.observer_mode if swapped else "", swapped and model.freeze_norms))
        for parameter in pl_module.parameters():
            assert "momentum_buffer" in trainer.optimizers[0].state[parameter]


def test_start_and_freezing_depend_on_the_position(tmp_path: Path) -> None:
    watch = Watch()
    module = task(optimizer={"name": "nesterov", "lr": 0.05})
    trainer(tmp_path, [QAT(0.5, freeze_observers=0.75, freeze_batchnorm=0.9), watch]).fit(module, datamodule=digits())
    plain, learning, frozen = (False, "", False), (True, "average", False), (True, "no", False)
    assert watch.seen == [plain] * 6 + [learning] * 3 + [frozen] * 2 + [(True, "no", True)]


@pytest.mark.parametrize("at_step", [5, 6, 9])
def test_resume_before_at_and_after_the_start(tmp_path: Path, at_step: int) -> None:
    """Callbacks with masks and averaged weights are included. Each step has two batches."""

    def callbacks() -> list[pl.Callback]:
        return [
            Pruning(sparsity=0.6, every_n_steps=2),
            QAT(0.5, freeze_observers=0.75, freeze_batchnorm=0.9),
            EMA(0.9),
        ]

    whole, again = in_two_parts(tmp_path, callbacks, at_step, limit_train_batches=12, accumulate_grad_batches=2)
    assert any("ranges" in name for name in whole["state_dict"])
    for part in ("state_dict", "optimizer_states", "current_model_state", "imgrec"):
        assert same(whole[part], again[part]), part
    zeros = sum(int((v == 0).sum()) for n, v in whole["current_model_state"].items() if n.endswith("conv2.weight"))
    assert zeros > 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (StochasticWeightAveraging(1e-2), "expected EMA to average"),
        (ImageSizeSchedule(), "constant image size"),
        (LayerStatistics(), "no statistics of layers"),
        (StructuredPruning(start=0.2, end=0.7), "expected the last round before"),
    ],
)
def test_incompatible_callback_raises(tmp_path: Path, other: pl.Callback, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, [QAT(0.5), other]).fit(task(), datamodule=digits())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1.0}, "start: expected float"),
        ({"start": 0.5, "freeze_observers": 0.4}, "QAT.freeze_observers: expected a value of at least start"),
        ({"start": 0.5, "freeze_observers": 0.5}, "expected a value above start"),
        ({"freeze_batchnorm": 1.5}, "freeze_batchnorm: expected float"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QAT(**arguments)


def test_unquantizable_model_raises_before_training(tmp_path: Path) -> None:
    backbone = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "drop_path_rate": 0.3}
    with pytest.raises(UserError, match=r"QAT: .*draws random numbers"):
        trainer(tmp_path, [QAT(0.5)]).fit(task(backbone=backbone), datamodule=digits())


def test_loss_on_layers_raises_before_training(tmp_path: Path) -> None:
    reads = task()
    reads.reads_layers = True
    with pytest.raises(UserError, match="single layers"):
        trainer(tmp_path, [QAT(0.5)]).fit(reads, datamodule=digits())


def test_half_precision_weights_raise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="32-true"):
        trainer(tmp_path, [QAT(0.5)], precision="bf16-true").fit(task(), datamodule=digits())


def test_mixed_precision_rounds_in_float32(tmp_path: Path) -> None:
    module = task()
    trainer(tmp_path, [QAT(0.0)], precision="bf16-mixed", max_epochs=1).fit(module, datamodule=digits())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module.model(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)).dtype == torch.float32
