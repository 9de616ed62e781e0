"""Training with two processes: one run folder, and the metrics of one process from the same checkpoint."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest
import torch
import yaml

from imgrec import RunFolder, load
from tests.conftest import TINY

Cli = Callable[..., "CompletedProcess[str]"]

OTHERS = ("PL_", "LOCAL_RANK", "MASTER_", "WORLD_SIZE")
"""Variables that a previous training may have set in the environment."""

DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in [n for n in os.environ if n.startswith(OTHERS)]:
        monkeypatch.delenv(name)


# an odd number of images in one split, an even one in the other
WORDS = ["--data.val_fraction", "0.08", "--data.test_fraction", "0.084", "--data.batch_size", "32"]
WORDS += ["--model.optimizer", "{name: adamw, lr: 0.01, weight_decay: 0.3}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """Return the folder of a DDP training with two processes, and its output."""
    place = tmp_path_factory.mktemp("whole")
    (place / "tiny.yaml").write_text(TINY)
    command: list[str | Path] = [Path(sys.executable).parent / "imgrec", "fit", "--config", "tiny.yaml", *DDP, *WORDS]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OTHERS)} | {"OMP_NUM_THREADS": "1"}
    return place, run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_write_one_complete_run(
    cli: Cli, whole: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    place, done = whole
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (place / "runs/tiny").iterdir()
    assert sorted(p.name for p in place.iterdir()) == ["runs", "tiny.yaml"]
    found = RunFolder(folder)
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "summary.json",
        "report.html",
        "checkpoints",
        "predictions",
        "splits.parquet",
        "model",
    }
    assert found.summary["status"] == "finished"

    expected = done.stdout.splitlines()
    assert len([line for line in expected if line.startswith("epoch")]) == 2
    assert len([line for line in expected if line.startswith("report")]) == 1
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = [(row["epoch"], row["val/acc"]) for row in csv.DictReader(file) if row["val/acc"]]
    assert [epoch for epoch, _ in epochs] == ["0", "1"]

    sizes = found.summary["split_sizes"]
    assert {sizes["val"] % 2, sizes["test"] % 2} == {0, 1}
    together = {split: found.predictions(split) for split in ("val", "test")}
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
    before = found.summary
    for command, split in (("validate", "val"), ("test", "test")):
        again = cli(command, copy)
        assert again.returncode == 0, again.stderr
        kept = RunFolder(copy).predictions(split)
        assert list(kept.ids) == list(together[split].ids)
        assert kept.targets.tobytes() == together[split].targets.tobytes()
        assert kept.logits.tobytes() == together[split].logits.tobytes()  # in the same batches, to the last digit
        assert RunFolder(copy).summary[split] == before[split]


WATCHING = """
import json
from pathlib import Path

import pytorch_lightning as pl
import torch


class Watching(pl.Callback):
    def __init__(self):
        self.steps, self.ids, self.mixed = [], [], 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps.append([trainer.current_epoch, float(outputs["loss"]), len(batch)])
        if trainer.current_epoch == 0:
            self.ids += batch.ids
        self.mixed += batch.targets.is_floating_point()

    def on_train_end(self, trainer, module):
        averages = next(c for c in trainer.callbacks if type(c).__name__ == "EMA")
        expected = {
            "steps": self.steps,
            "ids": self.ids,
            "mixed": self.mixed,
            "epochs": trainer.current_epoch,
            "classes": {n: int(t) for n, t in zip(trainer.datamodule.source.ids, trainer.datamodule.source.targets)},
        }
        rank = trainer.global_rank
        Path(f"{rank}.json").write_text(json.dumps(expected))
        weights = {name: p.detach() for name, p in module.named_parameters()}
        torch.save({"weights": weights, "average": averages.state_dict()}, f"{rank}.pt")
"""


@pytest.mark.slow
def test_all_features_together_in_two_processes(cli: Cli, installed: Cli, tiny: Path, tmp_path: Path) -> None:
    """Balanced sampler, mixing, accumulation, averaged weights, early stopping and a scaled learning rate."""
    (tmp_path / "watching.py").write_text(WATCHING)
    config = yaml.safe_load(tiny.read_text())
    config["model"]["optimizer"] = {"name": "sgd", "lr": 0.05, "lr_reference_batch": 64}
    config["data"] |= {"batch_size": 24, "sampler": "balanced", "train_transforms": ["resize", "mixup"]}
    config["trainer"] = {
        "max_epochs": 5,
        "accumulate_grad_batches": 2,
        "callbacks": [
            "watching.Watching",
            {"class_path": "EMA", "decay": 0.9},
            {"class_path": "EarlyStopping", "monitor": "train/loss", "mode": "min", "divergence_threshold": 0.0},
        ],
    }
    tiny.write_text(yaml.safe_dump(config))
    done = installed("fit", "--config", tiny, *DDP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "runs/tiny").iterdir()
    found = RunFolder(folder)
    stored = found.splits()
    assert stored is not None
    assert len(stored) == sum(found.summary["split_sizes"].values())
    expected = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))

    # all hold the same weights and the same average, and stopped at once
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert [each["epochs"] for each in expected] == [1, 1]
    assert found.summary["epochs"] == 1

    # the processes have different images, with equal class counts in total. Every batch was mixed
    classes = expected[0]["classes"]
    seen = [name for each in expected for name in each["ids"]]
    counts = Counter(classes[name] for name in seen)
    assert len(counts) == 10
    left_out = found.summary["split_sizes"]["train"] - len(seen)
    assert 0 <= left_out < 48
    assert max(counts.values()) - min(counts.values()) <= left_out + 1
    assert expected[0]["ids"] != expected[1]["ids"]
    assert all(each["mixed"] == len(each["steps"]) for each in expected)

    # the epoch's loss is the mean over the images of both
    steps = [step for each in expected for step in each["steps"]]
    assert steps
    accumulated = 2  # Lightning divides the loss of a step by it
    mean = accumulated * sum(loss * count for _, loss, count in steps) / sum(count for _, _, count in steps)
    assert found.metrics()["train/loss"].values[0] == pytest.approx(mean, rel=1e-5)

    # the learning rate was scaled by request, and both values are stored
    scaled = {"given": 0.05, "used": 0.05 * 96 / 64, "effective_batch": 96, "reference_batch": 64}
    assert found.summary["learning_rate"] == scaled
    assert done.stderr.count("model.optimizer.lr: 0.075: 0.05 as given, for batches of 64, times 96/64") == 1

    # what was validated, kept as best and tested is the average, counted once
    again = cli("validate", folder, "--trainer.strategy", "auto", "--trainer.devices", "1")
    assert again.returncode == 0, again.stderr
    assert f"{found.summary['val']['acc']:.4f}" in again.stdout
    assert found.metrics()["val/nll"].values[0] == pytest.approx(found.summary["val"]["nll"], rel=1e-12)


@pytest.mark.slow
def test_sharded_training_equals_ddp(
    cli: Cli, installed: Cli, whole: tuple[Path, CompletedProcess[str]], tiny: Path, tmp_path: Path
) -> None:
    """FSDP2 on the CPU has the losses and weights of DDP, in checkpoints that one process reads."""
    done = installed("fit", "--config", tiny, *DDP, *WORDS, "--trainer.strategy", "fsdp2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    plain, sharded = (RunFolder(next((each / "runs/tiny").iterdir())) for each in (whole[0], tmp_path))
    assert sharded.metrics()["train/loss"].values == pytest.approx(plain.metrics()["train/loss"].values, rel=1e-5)
    states = [torch.load(each.checkpoint("best"), weights_only=True)["state_dict"] for each in (plain, sharded)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5)
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    torch.testing.assert_close(load(sharded.path).logits(image), load(plain.path).logits(image), rtol=1e-3, atol=1e-4)
    again = cli("test", sharded.path, "--trainer.strategy", "auto", "--trainer.devices", "1")
    assert again.returncode == 0, again.stderr
    assert f"{sharded.summary['test']['nll']:.4f}" in again.stdout


@pytest.mark.slow
def test_processes_draw_differently_and_have_the_same_weights(installed: Cli, tiny: Path, tmp_path: Path) -> None:
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
def test_error_is_reported_and_all_processes_end(installed: Cli, tiny: Path, tmp_path: Path) -> None:
    done = installed("fit", "--config", tiny, *DDP, "--data.source", "{name: folder, root: nowhere}", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "not found" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]
