"""Channels last changes the memory format only: checkpoints, resume, averages and export are not affected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from imgrec import ClassificationTask, ImageDataModule
from imgrec.callbacks import PositionalSeeding
from imgrec.errors import UserError
from imgrec.export import load_model_folder, save_model_folder
from tests.tasks.conftest import make_digits

Fit = Callable[..., tuple[ClassificationTask, pl.Trainer]]
OPTIMIZERS = [{"name": "adamw", "lr": 0.01}, {"name": "nesterov", "lr": 0.01}]


def task(backbone: dict[str, Any], channels_last: bool | str, optimizer: Any = "adamw") -> ClassificationTask:
    return ClassificationTask(
        backbone=backbone,
        normalize="half",
        schedule="constant",
        optimizer=optimizer,
        channels_last=channels_last,  # type: ignore[arg-type]
    )


def is_channels_last(module: nn.Module) -> bool:
    convolutions = [each.weight for each in module.modules() if isinstance(each, nn.Conv2d) and each.in_channels > 1]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


def test_auto_is_the_default_memory_format_without_a_benchmark(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    trained, _ = fit(task(tiny_backbone, "auto"))
    assert not is_channels_last(trained.model)


def test_another_value_raises(tiny_backbone: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="channels_last: expected true, false or auto, got 'yes'"):
        task(tiny_backbone, "yes")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("before", [True, False])
def test_a_run_resumes_in_the_other_memory_format(
    fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Path, optimizer: dict[str, Any], before: bool
) -> None:
    """Moments in the memory format of the checkpoint would be applied to the wrong weights by a fused optimizer."""
    first, trainer = fit(task(tiny_backbone, before, optimizer), max_steps=3, limit_train_batches=6)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    weights = []
    for after in (before, not before):
        second = task(tiny_backbone, after, optimizer)
        second_trainer = pl.Trainer(
            accelerator="cpu", max_steps=5, limit_train_batches=6, limit_val_batches=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[PositionalSeeding()],
        )  # fmt: skip
        second_trainer.fit(second, datamodule=make_digits(), ckpt_path=path, weights_only=True)
        assert is_channels_last(second.model) is after
        weights.append(dict(second.model.named_parameters()))
    moved = max(
        float((p - q).abs().max().detach()) for p, q in zip(weights[0].values(), first.model.parameters(), strict=True)
    )
    assert moved > 5e-3
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=moved / 20)


def test_checkpoints_store_the_memory_format_and_averages_and_model_folders_the_values(
    fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Path, digits: ImageDataModule
) -> None:
    trained, trainer = fit(task(tiny_backbone, True), data=digits, callbacks=[EMAWeightAveraging(decay=0.5)])
    assert is_channels_last(trained.model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu", weights_only=True)
    assert is_channels_last(loaded.model)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trained.parameters(), strict=True))
    specs = {"backbone": tiny_backbone, "head": "linear", "normalize": "half"}
    save_model_folder(tmp_path / "model", trained.model, specs, digits.facts)
    model, _ = load_model_folder(tmp_path / "model")
    assert not is_channels_last(model)
    images = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(model(images), trained.model.eval()(images), rtol=1e-4, atol=1e-5)
