"""Test that memory is constant over fifty epochs with all features, in a subprocess."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

TRAINING = """
import gc
import pytorch_lightning as pl
from imgrec.engine.experiment import Experiment
from imgrec.engine.config import read_config
from imgrec.engine.training import train

class Resident(pl.Callback):
    def on_train_epoch_start(self, trainer, task):
        if trainer.current_epoch in (10, 40):
            gc.collect()
            pages = int(open("/proc/self/statm").read().split()[1])
            print("resident", trainer.current_epoch, pages * 4096, flush=True)

config = read_config("tiny.yaml")
config["evaluate_after_fit"] = False
config["trainer"] = {"max_epochs": 41, "limit_train_batches": 20, "log_every_n_steps": 1, "accelerator": "cpu"}
config["data"]["init_args"]["train_transforms"] = ["resize", {"name": "random_crop", "padding": 2}, "mixup"]
experiment = Experiment(config)
experiment.trainer.callbacks.append(Resident())
train(experiment, None)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say how much memory is used")
def test_memory_is_the_same_after_four_times_as_many_epochs(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {int(e): int(b) for _, e, b in (x.split() for x in done.stdout.splitlines() if x.startswith("resident"))}
    assert set(found) == {10, 40}
    # 600 steps with a row of metrics each. A leak of one network tensor per step would be 30 MiB.
    assert found[40] - found[10] < 16 * 2**20
