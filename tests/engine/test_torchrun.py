"""Tests of torchrun: it restarts the processes after a failure, and the run equals an uninterrupted one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imgrec import RunFolder

KILLING = """
import os, signal
from pathlib import Path

import pytorch_lightning as pl


class Killing(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 9 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_restarted_group_equals_uninterrupted(
    tiny: Path, tmp_path: Path, unclocked: Callable[[Path], list[dict[str, str]]]
) -> None:
    (tmp_path / "killing.py").write_text(KILLING)
    # a restart would find the addresses of dead processes in the store that torchrun shares (pytorch/pytorch#135712)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "LOCAL_RANK", "MASTER_", "WORLD_"))}
    environment |= {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    arguments: list[str | Path] = [Path(sys.executable).parent / "torchrun", "--standalone"]
    arguments += ["--max-restarts", "2", "--nproc_per_node", "2", "-m", "imgrec.cli.main"]
    arguments += ["fit", "--config", tiny, "--ckpt_path", "last"]
    arguments += ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    arguments += ["--trainer.callbacks", "[killing.Killing, {class_path: LastCheckpoint, every_steps: 4}]"]
    runs = []
    for name in ("restarted", "whole"):  # the second run finds the mark of the first one and kills no process
        done = subprocess.run(
            [*arguments, "--runs", name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / "killed").exists()
        assert ("from last.ckpt: epoch 2, step 8" in done.stdout) == (name == "restarted")
        (folder,) = (tmp_path / name / "tiny").iterdir()
        runs.append(RunFolder(folder))
    restarted, whole = runs
    assert restarted.summary["status"] == whole.summary["status"] == "finished"
    for which in ("best", "last"):
        states = [torch.load(run.checkpoint(which), weights_only=True) for run in runs]
        assert all(torch.equal(value, states[1]["state_dict"][name]) for name, value in states[0]["state_dict"].items())
        assert states[0]["global_step"] == states[1]["global_step"]
    assert unclocked(restarted.metrics_file) == unclocked(whole.metrics_file)
    for split in ("val", "test"):
        assert restarted.predictions(split).logits.tobytes() == whole.predictions(split).logits.tobytes()
