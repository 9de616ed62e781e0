"""A metric that a callback waits for and that nobody computes is found out before training."""

from __future__ import annotations

import pytorch_lightning as pl

from imgrec.errors import UserError, suggestion

_SOMETIMES = ("val/auroc",)  # not there while the first batches are of one class


class MonitorCheck(pl.Callback):
    """Refuses, after the sanity check of validation, a callback whose ``monitor`` is no metric of validation.

    EarlyStopping and ModelCheckpoint would say so themselves, a whole epoch later. Only names that begin with ``val/``
    are looked at.

    Raises:
        UserError: a monitor is none of the metrics; the message names the nearest.
    """

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the monitors with what validation has logged."""
        known = [name for name in trainer.callback_metrics if name.startswith("val/")]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if not isinstance(monitor, str) or not monitor.startswith("val/"):
                continue
            if known and monitor not in known and monitor not in _SOMETIMES:
                raise UserError(
                    f'{type(callback).__name__}: validation logs no "{monitor}".{suggestion(monitor, known)} '
                    f"Accepted: {', '.join(known)}."
                )
