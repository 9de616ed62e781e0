"""Early stopping by patience, threshold, divergence or time limit."""

from __future__ import annotations

import re
import time
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from imgrec.callbacks.min_training import has_met_minimum
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.errors import UserError, suggestion
from imgrec.metrics.names import mode_of
from imgrec.runs.summary import update_summary
from imgrec.tasks.epoch_metrics import directions_of
from imgrec.utils.ranges import NonNegativeFloat, PositiveInt, check_ranges
from imgrec.utils.terminal import print

_STEPS_BETWEEN_CHECKS = 10  # of the time limit, with several processes
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


class EarlyStopping(LightningEarlyStopping):
    """Early stopping when a metric no longer improves, reaches a threshold or diverges, or at a time limit.

    The arguments are those of Lightning's callback, and a time limit. The reason is printed and stored in summary.json
    as ``stopped``. A resumed run continues with its counters and its time. A run that had stopped ends at once, unless
    ``patience``, a threshold or ``time_limit`` was raised.

    It does not stop before ``trainer.min_epochs`` and ``trainer.min_steps``. Until then the metric is only observed. An
    improvement resets the patience.

    Args:
        monitor: Metric. Defaults to ``val/acc``.
        patience: Number of validations in a row without improvement. None disables it. Defaults to 5.
        min_delta: Smallest change that is an improvement. Defaults to 0.
        mode: ``min`` or ``max``. Defaults to the direction of the metric, ``higher_is_better``.
        stopping_threshold: Value of the metric at which training stops.
        divergence_threshold: Value of the metric beyond which training stops.
        check_finite: True to stop if the metric is NaN or infinite. Defaults to True.
        time_limit: Total training time of all parts of the run, validation included: ``45m``, ``1h30m``, or
            ``DD:HH:MM:SS`` as in Lightning. The present step is finished, and a validation follows.
        strict: True to raise an error if the metric is not logged. Defaults to True.
        check_on_train_epoch_end: Check at the end of an epoch instead of after a validation. By default the later one.

    Raises:
        UserError: If an argument is invalid, or if the metric is not logged.

    Example::

        trainer:
          callbacks:
            - {class_path: EarlyStopping, monitor: val/loss, patience: 5, time_limit: 2h}
    """

    @check_ranges
    def __init__(
        self,
        monitor: str = "val/acc",
        patience: PositiveInt | None = 5,
        min_delta: NonNegativeFloat = 0.0,
        mode: Literal["min", "max"] | None = None,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        time_limit: str | None = None,
        strict: bool = True,
        check_on_train_epoch_end: bool | None = None,
    ) -> None:
        if mode not in (None, "min", "max"):
            raise UserError(f'EarlyStopping.mode: expected "min" or "max", got "{mode}".')
        super().__init__(
            monitor=monitor,
            min_delta=min_delta,
            patience=patience if patience is not None else 2**63,
            mode=mode or mode_of(monitor),
            strict=strict,
            check_finite=check_finite,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
            check_on_train_epoch_end=check_on_train_epoch_end,
        )
        self._given_mode = mode
        self._initial_mode = self.mode
        self.time_limit = None if time_limit is None else seconds_of(time_limit, "EarlyStopping.time_limit")
        self.stopped: str | None = None
        """Reason of the stop, or None."""
        self._last: float | None = None
        self._used = 0.0
        self._began: float | None = None
        self._checked_at = 0

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: Lightning's, with the mode before :meth:`on_fit_start`."""
        return self._generate_state_key(monitor=self.monitor, mode=self._initial_mode)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Use the direction that the task states for the metric, if ``mode`` was not given."""
        mode = self._given_mode or mode_of(self.monitor, directions_of(pl_module))
        if mode != self.mode:
            self.mode, self.min_delta = mode, -self.min_delta
            if not torch.isfinite(self.best_score):
                self.best_score = torch.tensor(torch.inf if mode == "min" else -torch.inf)

    @property
    def seconds(self) -> float:
        """Training time of the run in seconds, earlier parts included."""
        return self._used + (time.perf_counter() - self._began if self._began is not None else 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers. The arguments are not stored."""
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": float(self.best_score),
            "last": self._last,
            "reason": self.stopping_reason.value,
            "stopped": self.stopped,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = torch.tensor(state_dict["best_score"], dtype=torch.float64)
        self._last = state_dict["last"]
        self.stopping_reason = EarlyStoppingReason(state_dict["reason"])
        self.stopped = state_dict["stopped"]
        self._used = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock. A resumed run that would stop again ends at once."""
        self._began = time.perf_counter()
        if self.stopped is not None:
            if self._would_stop_again() and has_met_minimum(trainer):
                trainer.should_stop = True
            else:
                self.stopped = None
                self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    def _would_stop_again(self) -> bool:
        if self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            return self.wait_count >= self.patience
        if self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
            return self._out_of_time()
        before = self.wait_count, self.best_score
        last = float("nan") if self._last is None else self._last
        stop, _ = self._evaluate_stopping_criteria(torch.tensor(last, dtype=torch.float64))
        self.wait_count, self.best_score = before
        return stop

    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        if self.stopped is not None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not self._validate_condition_metric(trainer.callback_metrics):
            return
        current = trainer.callback_metrics[self.monitor].squeeze()
        self._last = float(current)
        stop, _ = self._evaluate_stopping_criteria(current)
        if not has_met_minimum(trainer):  # Lightning would keep `should_stop`
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        elif trainer.strategy.reduce_boolean_decision(stop, all=False):
            self._stop(trainer, self._describe_reason())

    def _validate_condition_metric(self, logs: dict[str, torch.Tensor]) -> bool:
        if self.strict and self.monitor not in logs:
            raise UserError(
                f'EarlyStopping.monitor: expected a logged metric, got "{self.monitor}".'
                f"{suggestion(self.monitor, logs)} "
                f"Logged: {', '.join(logs)}."
            )
        return self.monitor in logs

    def _describe_reason(self) -> str:
        best, last = f"{float(self.best_score):.4g}", f"{self.monitor} is {self._last:.4g}"
        by = f" by {abs(self.min_delta):g}" if self.min_delta else ""
        return {
            EarlyStoppingReason.PATIENCE_EXHAUSTED: (
                f"{self.monitor} has not improved on {best}{by} in {self.wait_count} validation(s)"
            ),
            EarlyStoppingReason.STOPPING_THRESHOLD: f"{last}, which reaches the target {self.stopping_threshold:g}"
            if self.stopping_threshold is not None
            else "",
            EarlyStoppingReason.DIVERGENCE_THRESHOLD: f"{last}, which is beyond {self.divergence_threshold:g}"
            if self.divergence_threshold is not None
            else "",
            EarlyStoppingReason.NON_FINITE_METRIC: f"{last} (best {best})",
        }.get(self.stopping_reason, "another process stopped")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the time limit after an optimizer step. Several processes agree on it every ten steps."""
        step = trainer.global_step
        apart = 1 if trainer.world_size == 1 else _STEPS_BETWEEN_CHECKS
        if self.time_limit is None or self.stopped is not None or step < self._checked_at + apart:
            return
        if not has_met_minimum(trainer):
            return
        self._checked_at = step
        if trainer.strategy.reduce_boolean_decision(self._out_of_time(), all=False):
            self._stop(trainer, f"the time limit is used up, after {format_duration(self.seconds)}")

    def _out_of_time(self) -> bool:
        return self.time_limit is not None and self.seconds >= self.time_limit

    def _stop(self, trainer: pl.Trainer, why: str) -> None:
        trainer.should_stop = True
        self.stopped = why
        self.stopped_epoch = trainer.current_epoch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._used, self._began = self.seconds, None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the reason of the stop and write it into the summary."""
        if self.stopped is None:
            return
        if trainer.is_global_zero:
            print(f"stopped early: {self.stopped}", flush=True)
        folder = run_folder(trainer)
        if folder is not None:
            update_summary(folder, {"stopped": self.stopped})


def seconds_of(text: str, where: str) -> float:
    """Return a time in seconds.

    Args:
        text: ``90s``, ``45m``, ``1h30m``, ``2d``, or ``DD:HH:MM:SS``.
        where: Location in the config, for the message.

    Raises:
        UserError: If the text is not a time.

    >>> seconds_of("1h30m", "time"), seconds_of("00:00:10:05", "time")
    (5400.0, 605.0)
    """
    if re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text):
        return float(sum(int(n) * unit for n, unit in zip(text.split(":"), _UNITS.values(), strict=True)))
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])", text)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([dhms])", "", text).strip():
        raise UserError(f'{where}: expected a time such as 45m, 1h30m or 00:01:30:00, got "{text}".')
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """Return a time as text.

    >>> format_duration(5400), format_duration(59.96), format_duration(3.25)
    ('1 h 30 min', '1 min', '3.2 s')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
