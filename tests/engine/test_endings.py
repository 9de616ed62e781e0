"""Early ends of a training: one message, the documented status, and a run folder that is whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from imgrec import ClassificationTask, ImageDataModule, RunFolder
from imgrec.engine import training
from imgrec.engine.experiment import Experiment
from imgrec.errors import UserError
from imgrec.reports import report
from imgrec.tasks.synthetic_step import random_batch, temporary_copy
from imgrec.types import DataFacts

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ENDING = """
import os, shutil, signal, time
from pathlib import Path
import pytorch_lightning as pl

class Ending(pl.Callback):
    def __init__(self, how):
        self.how = how

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step != 3:
            return
        if self.how == "delete":
            shutil.rmtree(trainer.callbacks[0].folder)
        elif self.how == "worker":
            worker = trainer.train_dataloader._iterator._workers[0]
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(2)  # the handler of torch raises here

    def on_validation_start(self, trainer, *_):
        if self.how == "evaluation" and trainer.state.fn == "validate" and not Path("once").exists():
            Path("once").touch()
            raise KeyboardInterrupt
"""


@pytest.fixture
def place(tmp_path: Path, tiny: Path) -> Iterator[Path]:
    (tmp_path / "ending.py").write_text(ENDING)
    before = signal.getsignal(signal.SIGINT)  # Lightning ignores it after the first
    yield tmp_path
    signal.signal(signal.SIGINT, before)


def fit(cli: Cli, how: str = "", *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    callback = yaml.safe_dump([{"class_path": "ending.Ending", "init_args": {"how": how}}], default_flow_style=True)
    return cli("fit", "--config", "tiny.yaml", "--trainer.callbacks", callback.strip(), *arguments)


def messages(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("imgrec: ")]


def test_a_deleted_run_folder_ends_the_training_and_stays_away(cli: Cli, place: Path) -> None:
    done = fit(cli, "delete")
    assert done.returncode == 6, done.stderr
    (said,) = messages(done)
    assert "was deleted or moved during the run" in said
    assert not list((place / "runs/tiny").iterdir())


@pytest.mark.forks
def test_a_killed_loader_worker(cli: Cli, place: Path) -> None:
    done = fit(cli, "worker", "--data.num_workers", "2", "--data.cache", "off")
    assert done.returncode == 6, done.stderr
    (said,) = messages(done)
    # torch raises from its signal handler or, if the queue notices the worker first, without the name of the signal
    assert re.search("a worker process .* (was killed by the signal Killed|exited unexpectedly)", said), said
    assert "data.num_workers" in said
    (run,) = (place / "runs/tiny").iterdir()
    assert RunFolder(run).summary["status"] == "failed"


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("when", "left"),
    [
        ("data", None),
        ("precision", None),
        ("between", "finished"),
        ("evaluation", "interrupted"),
        ("report", "finished"),
    ],
)
def test_ctrl_c_outside_of_training(
    when: str, left: str | None, cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        owner: dict[str, tuple[Any, str]] = {
            "data": (ImageDataModule, "setup"),
            "precision": (Experiment, "resolve_auto"),
            "between": (training, "_evaluate_after_fit"),
            "report": (report, "write_report_with_images"),
        }
        if when in owner:
            patch.setattr(*owner[when], interrupt)
        done = fit(cli, when)
    assert done.returncode == 1, done.stderr
    assert messages(done) == ["imgrec: interrupted by Ctrl-C"]
    runs = list((place / "runs/tiny").glob("*"))
    if left is None:
        assert runs == []
        return
    (run,) = runs
    assert RunFolder(run).summary["status"] == left
    assert f"imgrec resume {run.relative_to(place)}" in done.stderr
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = cli("resume", run)
    assert done.returncode == 0, done.stderr
    assert RunFolder(run).report.is_file()
    assert "test" in RunFolder(run).summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--trainer.val_check_interval", "99"],
            "error: trainer.val_check_interval: expected at most 3, the batches of an epoch, got 99.",
        ),
        (
            ["--data.batch_size", "1", "--data.image_size", "8", "--trainer.limit_train_batches", "3"],
            "error: data.batch_size: expected batches of 2 images or more, got one of 1",
        ),
        (
            ["--model.loss", "torch.nn.MultiMarginLoss", "--data.train_transforms", "[mixup]", "--data.source", "none"],
            "error: model.loss: MultiMarginLoss does not accept class probabilities",
        ),
    ],
)
def test_rejected_before_folder_is_created(arguments: list[str], message: str, cli: Cli, place: Path) -> None:
    if "none" in arguments:  # the data is not looked for
        arguments = [*arguments[:-1], "{name: folder, root: does-not-exist}"]
    done = fit(cli, "", "--trainer.limit_train_batches", "3", *arguments)
    assert done.returncode == 2, done.stderr
    (said,) = messages(done)
    assert message in said
    assert not (place / "runs").exists()


class Logging(ClassificationTask):
    """Task that logs a value in the step repeated by the precision measurement."""

    def compute_loss(self, output: Any) -> Tensor:
        loss = super().compute_loss(output)
        self.log("own", loss.detach())
        return loss


def test_custom_log_without_trainer_does_not_warn() -> None:
    facts = DataFacts(("a", "b"), (1, 1), image_size=32, channels=3)
    with temporary_copy(Logging(), facts, torch.device("cpu")) as made, warnings.catch_warnings():
        warnings.simplefilter("error")
        made.compute_loss(made.model_step(random_batch(facts, 2)))


def test_mixing_from_python_is_rejected_before_reading_data(tmp_path: Path) -> None:
    task = ClassificationTask(loss="torch.nn.MultiMarginLoss", backbone="resnet18")
    data = ImageDataModule({"name": "folder", "root": "does-not-exist"}, train_transforms=["mixup"])
    made = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    with pytest.raises(UserError, match="MultiMarginLoss does not accept class probabilities"):
        made.fit(task, datamodule=data)


DYING = """
import os, signal
import pytorch_lightning as pl

class Dying(pl.Callback):
    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.forks
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_of_a_training_is_killed_the_others_end_too(rank: int, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    callback = f"[{{class_path: dying.Dying, init_args: {{rank: {rank}}}}}]"
    options = {"strategy": "ddp", "devices": "2", "accelerator": "cpu", "callbacks": callback}
    arguments = [word for name, value in options.items() for word in (f"--trainer.{name}", value)]
    command = [sys.executable, "-m", "imgrec.cli.main", "fit", "--config", str(tiny), *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PL_")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # returns after every process has closed the pipes
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr
    said = messages(done)
    if rank == 0:
        assert done.returncode == -signal.SIGKILL
        assert len(said) <= 1
        return
    assert done.returncode == 6, done.stderr
    assert len(said) == 1
    assert said[0].startswith("imgrec: error: the process of rank 1 (")
    assert "was killed by the signal SIGKILL" in said[0]
    (run,) = (tmp_path / "runs/tiny").iterdir()
    assert RunFolder(run).summary["status"] == "failed"
