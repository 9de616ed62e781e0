"""Progress bar on a terminal, and one line per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from imgrec.utils.console import PlainConsole

REFRESH_SECONDS = 0.2


class EpochProgress(ProgressBar):
    """Progress bar with rate and remaining time on a terminal, and one line per epoch on any output.

    The bar reads the loss five times per second, because reading it waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._console = PlainConsole(file=sys.stdout, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown_at = 0.0
        self._opened = 0.0
        self._began = 0.0
        self._pending: tuple[int, float] | None = None
        self._validated: int | None = None
        self._best: tuple[float, float | None] | None = None

    def disable(self) -> None:
        """Disable the output, as Lightning does in every process except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Enable the output."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            self._console.print(*args)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar of a partial epoch in a resumed run."""
        if trainer.fit_loop.restarting:
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the previous epoch and open a bar."""
        self._line(trainer)
        self._began = time.perf_counter()
        self._open(f"epoch {trainer.current_epoch + 1}{_total_epochs(trainer)}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar."""
        if self._due():
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self._move(batch_idx + 1, f"loss {float(loss):.4f}" if loss is not None else "")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar. The line is printed after the means of the epoch were computed."""
        self._close()
        self._pending = (trainer.current_epoch, time.perf_counter() - self._began)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the last epoch."""
        self._close()
        self._line(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the terminal."""
        self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open a bar for the validation."""
        if not trainer.sanity_checking:
            batches = trainer.num_val_batches
            self._open("validating", sum(batches) if isinstance(batches, list) else batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the bar."""
        if self._due():
            self._move(batch_idx + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()
        self._validated = trainer.current_epoch

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open a bar for the test."""
        batches = trainer.num_test_batches
        self._open("testing", sum(batches) if isinstance(batches, list) else batches)

    on_test_batch_end = on_validation_batch_end

    on_test_end = on_validation_end

    def _open(self, description: str, total: float) -> None:
        self._close()
        if not (self._enabled and self._console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            auto_refresh=False,  # a thread would redraw an unchanged bar
        )
        self._task = self._bar.add_task(description, total=total, rate="", note="")
        self._opened = time.perf_counter()
        self._bar.start()

    def _due(self) -> bool:
        now = time.perf_counter()
        if self._bar is None or now - self._shown_at < REFRESH_SECONDS:
            return False
        self._shown_at = now
        return True

    def _move(self, completed: int, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            rate = completed / (time.perf_counter() - self._opened)
            self._bar.update(self._task, completed=completed, rate=f"{rate:.1f} it/s", note=note, refresh=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        epoch, seconds = self._pending
        self._pending = None
        figures = trainer.callback_metrics
        parts = [f"epoch {epoch + 1:>{len(str(trainer.max_epochs or 0))}}{_total_epochs(trainer)}"]
        for split in ("train", "val") if self._validated == epoch else ("train",):
            shown = [
                f"{name} {float(figures[f'{split}/{name}']):.4f}"
                for name in ("loss", "acc")
                if f"{split}/{name}" in figures
            ]
            if shown:
                parts.append(f"{split} {' '.join(shown)}")
        if trainer.optimizers:
            parts.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2e}")
        parts.append(f"{seconds:.1f} s")
        best = _best(trainer)
        if best is not None and best != self._best:
            self._best = best
            parts.append("best so far")
        self.print("  ".join(parts))


def _total_epochs(trainer: pl.Trainer) -> str:
    return f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""


def _best(trainer: pl.Trainer) -> tuple[float, float | None] | None:
    checkpoint = trainer.checkpoint_callback
    score = checkpoint.best_model_score if isinstance(checkpoint, ModelCheckpoint) else None
    return None if score is None else (float(score), getattr(checkpoint, "best_tie", None))
