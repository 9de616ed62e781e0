"""Layer statistics, compared with their definition, and their output to W&B and TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from imgrec import LayerStatistics, RunFolder, RunRecorder, UserError
from tests.callbacks.small_training import digits, task, trainer

Cli = Callable[..., "CompletedProcess[str]"]


class ByHand(pl.Callback):
    """Recorder of the same statistics, computed from one vector of all weights of a layer."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, float]] = {}

    def _vector(self, module: pl.LightningModule, part: str, gradient: bool) -> torch.Tensor:
        chosen = [p for name, p in module.named_parameters() if f".{part}." in name]
        return torch.cat([(p.grad if gradient else p).detach().flatten().double() for p in chosen])  # type: ignore[union-attr]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.before = self._vector(pl_module, "layer3", gradient=False)
        self.gradient = float(self._vector(pl_module, "layer3", gradient=True).norm())
        self.total = float(torch.cat([p.grad.flatten().double() for p in pl_module.parameters()]).norm())  # type: ignore[union-attr]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step - 1
        if step < 0 or step in self.found:
            return
        changed = self._vector(pl_module, "layer3", gradient=False) - self.before
        update = float(changed.norm() / self.before.norm())
        self.found[step] = {"grad/layer3": self.gradient, "grad/total": self.total, "update/layer3": update}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_equal_their_definition(accumulate: int, tmp_path: Path) -> None:
    recorder, hand = RunRecorder("run", tmp_path / "runs"), ByHand()
    run = trainer(
        tmp_path,
        [recorder, LayerStatistics(every_n_steps=3), hand],
        accumulate_grad_batches=accumulate,
        limit_train_batches=12,
        max_epochs=1,
        gradient_clip_val=0.1,
    )
    run.fit(task(), datamodule=digits())
    assert recorder.folder is not None
    metrics = RunFolder(recorder.folder).metrics()
    steps = [2, 5, 8, 11] if accumulate == 1 else [2, 5]
    for name in ("grad/layer3", "grad/total", "update/layer3"):
        assert metrics[name].steps.tolist() == steps
        expected = [hand.found[step][name] for step in steps]
        assert metrics[name].values.tolist() == pytest.approx(expected, rel=1e-4), name
    layers = {name.split("/")[1] for name in metrics if name.startswith("grad/")} - {"total"}
    assert layers == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "head"}
    assert ((metrics["act/layer1/dead"].values >= 0) & (metrics["act/layer1/dead"].values <= 1)).all()
    assert (metrics["act/layer1/std"].values > 0).all()


def test_only_requested_statistics_are_measured(tmp_path: Path) -> None:
    recorder, module = RunRecorder("run", tmp_path / "runs"), task()
    statistics = LayerStatistics(every_n_steps=2, show=["updates"], depth=2)
    trainer(tmp_path, [recorder, statistics], max_epochs=1).fit(module, datamodule=digits())
    assert recorder.folder is not None
    names = set(RunFolder(recorder.folder).metrics())
    assert "update/layer1.0" in names
    assert not [name for name in names if name.startswith(("grad/", "act/"))]
    assert not any(part._forward_hooks for part in module.modules())


def test_histograms_and_figures_are_sent_to_tensorboard(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callbacks = "[{class_path: LayerStatistics, every_n_steps: 4, histograms: true}, {class_path: EpochPictures}]"
    logger = "{class_path: TensorBoardLogger, save_dir: tb, name: null}"
    done = cli("fit", "--config", tiny, "--trainer.callbacks", callbacks, "--trainer.logger", logger)
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(next((tmp_path / "tb").iterdir())), size_guidance={"histograms": 0})
    events.Reload()
    assert {"grad/layer1", "weight/head"} <= set(events.Tags()["histograms"])
    assert [event.step for event in events.Scalars("grad/total")] == [3, 7, 11]
    assert [event.step for event in events.Histograms("grad/head")] == [3, 7, 11]
    assert set(events.Tags()["images"]) == {"figures/confusion", "figures/mistakes", "figures/samples"}


def test_an_unknown_statistic_raises_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match='Did you mean "gradients"'):
        LayerStatistics(show=["gradient"])  # type: ignore[list-item]
