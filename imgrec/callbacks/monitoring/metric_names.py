"""Check of the metrics that callbacks monitor, before training."""

from __future__ import annotations

import pytorch_lightning as pl

from imgrec.errors import UserError, suggestion

_OPTIONAL = ("val/auroc",)  # missing if the first batches have one class only


class MetricNameCheck(pl.Callback):
    """Callback that raises an error, after the sanity check, if the ``monitor`` of a callback is not a logged metric.

    EarlyStopping and ModelCheckpoint would raise it an epoch later. Only names that begin with ``val/`` are checked.

    Raises:
        UserError: If a monitored metric is not logged. The message contains the nearest name.
    """

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the monitored metrics with those of the validation."""
        known = [name for name in trainer.callback_metrics if name.startswith("val/")]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if not isinstance(monitor, str) or not monitor.startswith("val/"):
                continue
            if known and monitor not in known and monitor not in _OPTIONAL:
                raise UserError(
                    f'{type(callback).__name__}: validation logs no "{monitor}".{suggestion(monitor, known)} '
                    f"Accepted: {', '.join(known)}."
                )
