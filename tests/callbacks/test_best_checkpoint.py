"""Selection of the best epoch, and of one of several equal epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from imgrec.callbacks.checkpoints.best import BestCheckpoint


class ScriptedMetrics(pl.LightningModule):
    """Module that logs the given accuracy and loss of each epoch. Its weight is the number of the epoch."""

    def __init__(self, figures: list[tuple[float, float]]) -> None:
        super().__init__()
        self.figures = figures
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        accuracy, loss = self.figures[self.current_epoch]
        self.log_dict({"val/acc": accuracy, "val/loss": loss})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def best_of(figures: list[tuple[float, float]], folder: Path, parts: int = 1) -> tuple[int, BestCheckpoint]:
    """Return the epoch of the best checkpoint, counted from 1, and the callback.

    With ``parts=2`` the training is resumed after the first epoch.
    """
    loader = DataLoader(TensorDataset(torch.zeros(1, 1)))
    last: Path | None = None
    for epochs in [1, len(figures)] if parts == 2 else [len(figures)]:
        best = BestCheckpoint(dirpath=str(folder))
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[best], logger=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(ScriptedMetrics(figures), loader, loader, ckpt_path=last, weights_only=True)
        last = folder / "last.ckpt"
        trainer.save_checkpoint(last)
    kept = torch.load(best.best_model_path, weights_only=True)["state_dict"]["weight"]
    return round(float(kept)), best


@pytest.mark.parametrize(
    ("figures", "epoch"),
    [
        ([(0.5, 1.0), (0.9, 0.5), (0.8, 0.1)], 2),
        ([(0.9, 0.5), (0.9, 0.4), (0.9, 0.45)], 2),
        ([(0.9, 0.5), (0.9, 0.5)], 1),
        ([(0.9, 0.1), (0.95, 0.9), (0.95, float("nan"))], 2),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_smallest_loss_decides_between_equal_epochs(
    figures: list[tuple[float, float]], epoch: int, parts: int, tmp_path: Path
) -> None:
    kept, callback = best_of(figures, tmp_path, parts)
    assert kept == epoch
    assert float(callback.best_model_score or 0) == pytest.approx(figures[epoch - 1][0])
    assert callback.best_tie == pytest.approx(figures[epoch - 1][1])
    assert [path.name for path in tmp_path.glob("best*")] == ["best.ckpt"]
