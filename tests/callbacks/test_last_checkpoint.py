"""Checkpoints to resume from: their steps, their number, and the agreement of several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from imgrec import ClassificationTask, ImageDataModule
from imgrec.callbacks import LastCheckpoint, ResumeState
from imgrec.callbacks.checkpoints.exact_resume import begin_next_epoch
from imgrec.errors import UserError
from tests.soak import configs, harness


def train(folder: Path, **options: Any) -> dict[str, int]:
    """Train two epochs of three steps and return the checkpoints with their steps."""
    backbone = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ResumeState(), LastCheckpoint(dirpath=str(folder), **options)],
    )
    data = ImageDataModule("digits", channels=1, batch_size=16, num_workers=0)
    trainer.fit(ClassificationTask(backbone, normalize="half"), data)
    return {p.name: torch.load(p, weights_only=True)["global_step"] for p in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"last.ckpt": 6}),
        ({"keep": 3}, {"last-3.ckpt": 3, "last.ckpt": 6}),
        ({"keep": 2, "every_steps": 2}, {"last-4.ckpt": 4, "last.ckpt": 6}),
        ({"keep": 9, "every_steps": 2}, {"last-2.ckpt": 2, "last-3.ckpt": 3, "last-4.ckpt": 4, "last.ckpt": 6}),
        ({"keep": 9, "every_minutes": 1e-9}, {**{f"last-{i}.ckpt": i for i in range(1, 6)}, "last.ckpt": 6}),
    ],
)
def test_checkpoint_is_written_every_epoch_and_at_its_interval(
    tmp_path: Path, options: dict[str, Any], expected: dict[str, int]
) -> None:
    assert train(tmp_path, **options) == expected
    task = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert task.facts is not None
    assert task.facts.num_classes == 10


@pytest.mark.parametrize("name", ["every_steps", "every_minutes", "keep"])
def test_non_positive_arguments_raise(name: str) -> None:
    with pytest.raises(UserError, match=f"LastCheckpoint.{name}: expected a value above 0, got 0"):
        LastCheckpoint(**{name: 0})  # type: ignore[arg-type]


def test_end_of_an_epoch_resumes_as_the_start_of_the_next() -> None:
    counts = {"ready": 2, "started": 2, "processed": 2, "completed": 1}
    batches = {"ready": 7, "started": 7, "processed": 7, "completed": 7}
    loops: dict[str, Any] = {
        "epoch_progress": {"total": dict(counts), "current": dict(counts)},
        "epoch_loop.batch_progress": {
            "total": dict.fromkeys(batches, 14),
            "current": dict(batches),
            "is_last_batch": True,
        },
    }
    begin_next_epoch(loops)
    assert loops["epoch_progress"]["current"]["completed"] == loops["epoch_progress"]["total"]["completed"] == 2
    assert set(loops["epoch_loop.batch_progress"]["current"].values()) == {0}
    assert set(loops["epoch_loop.batch_progress"]["total"].values()) == {14}
    assert loops["epoch_loop.batch_progress"]["is_last_batch"] is False
    again = json.loads(json.dumps(loops))
    begin_next_epoch(again)
    assert again == loops


STOPPING = """
import os, signal
from pathlib import Path
import pytorch_lightning as pl

class Stopping(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if Path("stop").exists() and trainer.global_step == 5 and trainer.global_rank == trainer.world_size - 1:
            os.{how}
"""


@pytest.mark.forks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "processes", "how"),
    [(configs.DDP, 2, "kill(os.getpid(), signal.SIGTERM)"), (configs.WORKERS, 1, "killpg(0, signal.SIGTERM)")],
    ids=["to one of two processes", "to the workers too"],
)
def test_signal_stops_all_processes_after_the_same_step_and_they_resume(
    part: dict[str, Any], processes: int, how: str, tmp_path: Path
) -> None:
    harness.import_everything()
    config = configs.made(part, configs.trainer(**{"callbacks+": "stopping.Stopping"}))
    config["evaluate_after_fit"] = False
    (tmp_path / "stopping.py").write_text(STOPPING.replace("{how}", how))
    (tmp_path / "soak.yaml").write_text(yaml.safe_dump(config))
    words = ["fit", "--config", "soak.yaml", "--ckpt_path", "last", "--runs"]
    assert harness.start(tmp_path, [*words, "whole"], processes) == 0
    (tmp_path / "stop").touch()
    assert harness.start(tmp_path, [*words, "stopped"], processes) == 75, harness.said(tmp_path)
    (stopped,) = (tmp_path / "stopped/soak").iterdir()
    assert json.loads((stopped / "summary.json").read_text())["status"] == "preempted"
    assert 5 <= torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)["global_step"] <= 6
    (tmp_path / "stop").unlink()
    assert harness.start(tmp_path, [*words, "stopped"], processes) == 0, harness.said(tmp_path)
    (whole,) = (tmp_path / "whole/soak").iterdir()
    assert harness.differences(whole, stopped) == []
