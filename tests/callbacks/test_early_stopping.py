"""Early stopping: the step, the printed reason, and the same step after a resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from imgrec import EarlyStopping, UserError
from imgrec.callbacks import early_stopping
from imgrec.callbacks.early_stopping import seconds_of
from imgrec.callbacks.lr_range_test import LearningRateRange
from imgrec.callbacks.throughput import StepMeter

BATCHES = 4
FALLING = [1.0, 0.9, 0.95, 0.96, 0.7, 0.6]
QUIET: dict[str, Any] = {
    "num_sanity_val_steps": 0,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Clock:
    """Clock that advances by one second at every training step."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Scripted(pl.LightningModule):
    """Module with one weight and a validation metric with given values."""

    def __init__(self, values: list[float], monitor: str = "val/loss", clock: Clock | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.values, self.monitor, self.clock = values, monitor, clock

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.clock is not None:
            self.clock.now += 1
        return (self.weight * batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        self.log(self.monitor, self.values[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.ones(BATCHES, 1))  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def fit(place: Path, stopping: EarlyStopping, module: Scripted, start: str | None = None, **options: Any) -> pl.Trainer:
    keep = ModelCheckpoint(place, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    ends = ModelCheckpoint(place, "end-{epoch}", save_top_k=-1, auto_insert_metric_name=False)
    usual: dict[str, Any] = {"max_epochs": len(module.values)}
    trainer = pl.Trainer(**usual | QUIET | options, callbacks=[stopping, keep, ends], default_root_dir=place)
    trainer.fit(module, ckpt_path=None if start is None else place / f"{start}.ckpt", weights_only=True)
    return trainer


@pytest.mark.parametrize(
    ("arguments", "values", "epochs", "why"),
    [
        ({"patience": 2}, FALLING, 4, "val/loss has not improved on 0.9 in 2 validation(s)"),
        ({"patience": 1, "min_delta": 0.2}, FALLING, 2, "val/loss has not improved on 1 by 0.2 in 1 validation(s)"),
        ({"stopping_threshold": 0.92}, FALLING, 2, "val/loss is 0.9, which reaches the target 0.92"),
        ({"divergence_threshold": 2}, [1.0, 3.0, 1.0], 2, "val/loss is 3, which is beyond 2"),
        ({}, [1.0, math.nan, 1.0], 2, "val/loss is nan (best 1)"),
        ({"patience": None}, FALLING, 6, None),
        ({"patience": None, "check_finite": False}, [1.0, math.nan, 0.5], 3, None),
        ({"patience": 3}, FALLING, 6, None),
    ],
)
def test_training_stops_with_the_reason(
    arguments: dict[str, Any],
    values: list[float],
    epochs: int,
    why: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopping = EarlyStopping("val/loss", **arguments)
    trainer = fit(tmp_path, stopping, Scripted(values))
    assert trainer.current_epoch == epochs
    assert stopping.stopped == why
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped")]
    assert printed == ([] if why is None else [f"stopped early: {why}"])


AGAIN = [1.0, 0.9, 0.95, 0.96, 0.7, 0.8, 0.9, 0.6]


@pytest.mark.parametrize(
    ("limits", "arguments", "epochs", "why"),
    [
        # exhausted in epoch 4, but 0.7 follows before epoch 5 ends: the patience starts again
        ({"min_epochs": 5}, {"patience": 2}, 7, "val/loss has not improved on 0.7 in 2 validation(s)"),
        ({"min_epochs": 4}, {"patience": 2}, 4, "val/loss has not improved on 0.9 in 2 validation(s)"),
        ({"min_steps": 4 * BATCHES + 1}, {"patience": 1}, 6, "val/loss has not improved on 0.7 in 1 validation(s)"),
        ({"min_epochs": 7}, {"patience": 1}, 7, "val/loss has not improved on 0.7 in 2 validation(s)"),
        ({"min_epochs": 4}, {"stopping_threshold": 0.92}, 5, "val/loss is 0.7, which reaches the target 0.92"),
        ({"min_epochs": 8}, {"divergence_threshold": 0.94}, 8, None),
        ({"min_epochs": 4, "check_val_every_n_epoch": 2}, {"patience": 1}, 4, "val/loss has not improved on 0.9"),
    ],
)
def test_minimum_length_is_respected(
    limits: dict[str, Any], arguments: dict[str, Any], epochs: int, why: str | None, tmp_path: Path
) -> None:
    """Lightning keeps `should_stop` until the minimum is reached. It then stops for a reason that no longer holds."""
    stopping = EarlyStopping("val/loss", **arguments)
    assert fit(tmp_path, stopping, Scripted(AGAIN), **limits).current_epoch == epochs
    assert stopping.stopped == why or str(stopping.stopped).startswith(str(why))


def test_time_limit_respects_the_minimum_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(early_stopping, "time", clock)
    stopping = EarlyStopping("val/loss", time_limit="6s")
    assert fit(tmp_path, stopping, Scripted(AGAIN, clock=clock), min_epochs=3).global_step == 3 * BATCHES
    assert stopping.stopped == "the time limit is used up, after 12.0 s"


def test_callbacks_that_set_the_length_ignore_the_minimum(tmp_path: Path) -> None:
    for callback in (StepMeter(2), LearningRateRange([0.01, 0.02])):
        made = pl.Trainer(
            **QUIET, default_root_dir=tmp_path, callbacks=[callback], min_epochs=3, max_epochs=9, min_steps=9
        )
        made.fit(Scripted(AGAIN))
        assert made.global_step == 2


@pytest.mark.parametrize(("monitor", "epochs"), [("val/acc", 5), ("val/loss", 3), ("val/ece", 3)])
def test_mode_follows_the_metric(monitor: str, epochs: int, tmp_path: Path) -> None:
    rising = [0.1, 0.2, 0.3, 0.2, 0.1, 0.3]
    assert fit(tmp_path, EarlyStopping(monitor, patience=2), Scripted(rising, monitor)).current_epoch == epochs


def test_time_limit_includes_all_parts_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(early_stopping, "time", clock)
    whole = fit(tmp_path, EarlyStopping("val/loss", time_limit="6s"), Scripted(FALLING, clock=clock))
    assert whole.global_step == 6
    clock.now += 1000  # between the parts no time is used
    stopping = EarlyStopping("val/loss", time_limit="6s")
    again = fit(tmp_path, stopping, Scripted(FALLING, clock=clock), start="5")
    assert again.global_step == 6
    assert stopping.stopped == "the time limit is used up, after 6.0 s"
    longer = fit(tmp_path, EarlyStopping("val/loss", time_limit="9s"), Scripted(FALLING, clock=clock), start="6")
    assert longer.global_step == 9


@pytest.mark.parametrize("start", ["3", "4", "9", "end-1", "end-2"])
def test_resumed_run_stops_at_the_same_step(start: str, tmp_path: Path) -> None:
    whole = EarlyStopping("val/loss", patience=2)
    assert fit(tmp_path, whole, Scripted(FALLING)).current_epoch == 4
    stopping = EarlyStopping("val/loss", patience=2)
    assert fit(tmp_path, stopping, Scripted(FALLING), start=start).current_epoch == 4
    without_time = [{k: v for k, v in each.state_dict().items() if k != "seconds"} for each in (whole, stopping)]
    assert without_time[0] == without_time[1]


def test_stopped_run_continues_only_with_changed_limits(tmp_path: Path) -> None:
    fit(tmp_path, EarlyStopping("val/loss", patience=2), Scripted(FALLING))
    again = EarlyStopping("val/loss", patience=2)
    assert fit(tmp_path, again, Scripted(FALLING), start="end-3").global_step == 4 * BATCHES
    assert again.stopped is not None
    more = EarlyStopping("val/loss", patience=3)
    assert fit(tmp_path, more, Scripted(FALLING), start="end-3").current_epoch == 6
    assert more.stopped is None


def test_state_loads_without_pickle(tmp_path: Path) -> None:
    fit(tmp_path, EarlyStopping("val/loss", patience=2), Scripted(FALLING))
    states = torch.load(tmp_path / "end-3.ckpt", weights_only=True)["callbacks"]
    (state,) = (state for name, state in states.items() if name.startswith("EarlyStopping"))
    assert {type(value) for value in state.values()} <= {int, float, str, type(None)}


def test_unlogged_metric_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'expected a logged metric, got "val/los".*Did you mean "val/loss"'):
        fit(tmp_path, EarlyStopping("val/los"), Scripted(FALLING))
    assert fit(tmp_path, EarlyStopping("val/los", strict=False), Scripted([1.0, 2.0])).current_epoch == 2


def test_fast_dev_run_is_not_stopped(tmp_path: Path) -> None:
    stopping = EarlyStopping("val/other")
    fit(tmp_path, stopping, Scripted([1.0]), fast_dev_run=True)
    assert stopping.stopped is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_delta": -1.0}, "min_delta: expected float"),
        ({"mode": "most"}, "mode: expected"),
        ({"time_limit": "soon"}, "time_limit: expected a time such as 45m"),
        ({"time_limit": "5"}, "time_limit: expected a time such as 45m"),
        ({"time_limit": "1h and 5m"}, "time_limit: expected a time such as 45m"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EarlyStopping(**arguments)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("1.5h", 5400), ("1h 30m", 5400), ("2d", 172800), ("00:01:30:00", 5400)],
)
def test_time_limit_formats(text: str, seconds: float) -> None:
    assert seconds_of(text, "time") == seconds
