"""Two real processes: one run folder, and the figures that one process gets from the same checkpoint."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch

from imgrec import RunFolder

Cli = Callable[..., "CompletedProcess[str]"]

DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in [n for n in os.environ if n.startswith(("PL_", "LOCAL_RANK", "MASTER_", "WORLD_SIZE"))]:
        monkeypatch.delenv(name)


@pytest.mark.slow
def test_two_processes_leave_one_whole_run(cli: Cli, installed: Cli, tiny: Path, tmp_path: Path) -> None:
    # an odd number of images in one split, an even one in the other
    fractions = ["--data.val_fraction", "0.08", "--data.test_fraction", "0.084"]
    done = installed("fit", "--config", tiny, *DDP, *fractions, "--data.batch_size", "32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "runs/tiny").iterdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "tiny.yaml"]
    run = RunFolder(folder)
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "summary.json",
        "report.html",
        "checkpoints",
        "predictions",
        "model",
    }
    assert run.summary["status"] == "finished"

    said = done.stdout.splitlines()
    assert len([line for line in said if line.startswith("epoch")]) == 2
    assert len([line for line in said if line.startswith("report")]) == 1
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = [(row["epoch"], row["val/acc"]) for row in csv.DictReader(file) if row["val/acc"]]
    assert [epoch for epoch, _ in epochs] == ["0", "1"]

    sizes = run.summary["split_sizes"]
    assert {sizes["val"] % 2, sizes["test"] % 2} == {0, 1}
    together = {split: run.predictions(split) for split in ("val", "test")}
    for split, kept in together.items():
        assert len(kept.ids) == len(set(kept.ids)) == sizes[split]
    assert not set(together["val"].ids) & set(together["test"].ids)

    # the same checkpoint, in this one process
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        config.replace("strategy: ddp", "strategy: auto").replace("devices: 2", "devices: 1")
    )
    before = run.summary
    for command, split in (("validate", "val"), ("test", "test")):
        again = cli(command, copy)
        assert again.returncode == 0, again.stderr
        kept = RunFolder(copy).predictions(split)
        assert list(kept.ids) == list(together[split].ids)
        assert np.allclose(kept.logits, together[split].logits, rtol=1e-4, atol=1e-5)
        assert RunFolder(copy).summary[split] == pytest.approx(before[split], rel=1e-5)


@pytest.mark.slow
def test_the_two_draw_differently_and_hold_the_same_weights(installed: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "watching.py").write_text(
        "import pytorch_lightning as pl\n"
        "import torch\n\n\n"
        "class Watching(pl.Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        self.drawn = torch.rand(3)\n\n"
        "    def on_train_end(self, trainer, module):\n"
        "        state = {'drawn': self.drawn, 'weight': module.model.head.linear.weight.detach()}\n"
        "        torch.save(state, f'{trainer.global_rank}.pt')\n"
    )
    done = installed("fit", "--config", tiny, *DDP, "--trainer.callbacks", "[watching.Watching]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weight"], second["weight"])
    assert not torch.equal(first["drawn"], second["drawn"])


@pytest.mark.slow
def test_a_mistake_is_said_and_leaves_no_process_behind(installed: Cli, tiny: Path, tmp_path: Path) -> None:
    done = installed("fit", "--config", tiny, *DDP, "--data.source", "{name: folder, root: nowhere}", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "not found" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]
