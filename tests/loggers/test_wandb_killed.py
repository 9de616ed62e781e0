"""A killed and resumed training is one run in W&B, with every value of metrics.csv once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from imgrec import RunFolder
from imgrec.loggers.wandb.files import STEP, wandb_history, wandb_logs, wandb_records

Cli = Callable[..., "CompletedProcess[str]"]

SLOW = """
import time

import pytorch_lightning as pl


class Slow(pl.Callback):
    def on_train_batch_start(self, *_):
        time.sleep(0.05)
"""


@pytest.mark.slow
def test_killed_training_resumes_in_the_same_run(
    installed: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["--trainer.logger", "WandbLogger", "--trainer.callbacks", "[slow.Slow]", "--trainer.max_epochs", "5"]
    command = [str(Path(sys.executable).parent / "imgrec"), "fit", "--config", str(tiny), *words]
    with subprocess.Popen([*command, "--trainer.log_every_n_steps", "1"], cwd=tmp_path) as training:
        deadline = time.monotonic() + 240
        while not any(p.read_text().count("\n") > 16 for p in tmp_path.glob("runs/tiny/*/metrics.csv")):
            assert training.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        training.send_signal(signal.SIGKILL)
    (folder,) = tmp_path.glob("runs/tiny/*")
    done = installed("resume", folder, "--trust=slow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]

    assert len(wandb_logs(folder)) == 2
    records = [record for file in wandb_logs(folder) for record in wandb_records(file)]
    assert len({record.run.run_id for record in records if record.WhichOneof("record_type") == "run"}) == 1
    figures = RunFolder(folder).metrics()
    theirs = Counter(
        (row[STEP], name)
        for file in wandb_logs(folder)
        for row in wandb_history(file)
        for name in row
        if name in figures and not name.startswith("system/")
    )
    ours = Counter(
        (step, name)
        for name, series in figures.items()
        for step in series.steps.tolist()
        if not name.startswith("system/")
    )
    assert theirs == ours
    assert {step for step, _ in ours} >= set(range(30))
