"""Tests of resuming a stopped run in its folder, and of requests rejected before a file is changed."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imgrec import RunFolder
from imgrec.cli.main import main
from imgrec.runs import checkpoints
from tests.soak.harness import differences

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

STOPPING = """
import os, signal
from pathlib import Path
import pytorch_lightning as pl

class Stopping(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        told = Path("stop").read_text().split() if Path("stop").exists() else ["", "-1"]
        if trainer.global_step == int(told[1]):
            if told[0] == "fail":
                raise ArithmeticError("a failure")
            os.kill(os.getpid(), getattr(signal, told[0]))
"""

CONFIG = """
evaluate_after_fit: false
model:
  backbone: {name: resnet18, layers: [1, 1, 1, 1], channels: [8, 8, 8, 8], stem_width: 8}
  optimizer: {name: adamw, lr: 0.01}
  normalize: half
data: {source: digits, channels: 1, batch_size: 32, eval_batch_size: 128, num_workers: 0}
trainer:
  max_epochs: 2
  limit_train_batches: 4
  log_every_n_steps: 2
  precision: 32-true
  callbacks: [{class_path: LastCheckpoint, every_steps: 3, keep: 3}, stopping.Stopping]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Create a folder with a config whose training stops as described in the file ``stop``, for example "SIGTERM 6"."""
    (tmp_path / "stopping.py").write_text(STOPPING)
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def stop(cli: Cli, place: Path) -> Callable[..., Path]:
    """Return a function that starts a run with a given stop and returns its folder."""

    def begin(how: str, status: int, *arguments: str) -> Path:
        (place / "stop").write_text(how)
        done = cli("fit", "--config", "run.yaml", *arguments)
        assert done.returncode == status, done.stderr
        (place / "stop").unlink()
        (run,) = (place / "runs/run").iterdir()
        return run

    return begin


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the uninterrupted run, which tests only read."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "stopping.py").write_text(STOPPING)
    (folder / "run.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("PL_GLOBAL_SEED", "0")
        assert main(["fit", "--config", "run.yaml"]) == 0
    (run,) = (folder / "runs/run").iterdir()
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- it goes on


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("SIGTERM 2", 75, "preempted"),
        ("SIGHUP 4", 75, "preempted"),
        ("SIGTERM 5", 75, "preempted"),
        ("SIGINT 5", 1, "interrupted"),
        ("fail 5", 1, "failed"),
    ],
)
def test_resumed_run_equals_uninterrupted(
    stop: Callable[..., Path], cli: Cli, place: Path, whole: Path, how: str, status: int, message: str
) -> None:
    if message == "failed":
        with pytest.raises(ArithmeticError):
            stop(how, status)
        (place / "stop").unlink()
        (run,) = (place / "runs/run").iterdir()
    else:
        run = stop(how, status)
    summary = RunFolder(run).summary
    assert summary["status"] == message
    assert ("error" in summary) == (message == "failed")
    step = int(how.split()[1])
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert saved == (4 if message == "failed" else step)  # 4: the second epoch begins

    done = cli("resume", run)
    assert done.returncode == 0, done.stderr
    assert f"from last.ckpt: epoch {saved // 4 + 1}, step {saved}" in done.stdout
    assert differences(whole, run) == []
    after = RunFolder(run)
    assert (after.summary["status"], after.summary["resumed"]) == ("finished", [saved])
    assert after.summary["best_score"] == RunFolder(whole).summary["best_score"]
    (entry,) = after.environment["resumed"]
    assert (entry["step"], entry["checkpoint"], entry["processes"]) == (saved, "last.ckpt", 1)
    assert after.environment["command"].startswith("imgrec fit --config run.yaml")
    assert entry["command"].startswith("imgrec resume")


def test_run_without_checkpoint_restarts_in_folder(
    stop: Callable[..., Path], cli: Cli, whole: Path, place: Path
) -> None:
    with pytest.raises(ArithmeticError):
        stop("fail 1", 1)
    (place / "stop").unlink()
    (run,) = (place / "runs/run").iterdir()
    assert not list(run.glob("checkpoints/*"))
    done = cli("resume", run)
    assert done.returncode == 0, done.stderr
    assert "from the beginning, step 0" in done.stdout
    assert differences(whole, run) == []


def test_moved_run_folder_resumes(stop: Callable[..., Path], cli: Cli, whole: Path, place: Path) -> None:
    run = stop("SIGTERM 5", 75)
    moved = place / "elsewhere" / "run" / run.name
    moved.parent.mkdir(parents=True)
    run.rename(moved)
    (place / "inside").mkdir()
    os.chdir(place / "inside")
    shutil.copy(place / "stopping.py", place / "inside")
    assert cli("resume", f"../elsewhere/run/{run.name}").returncode == 0
    os.chdir(place)
    assert [p.name for p in (place / "runs/run").iterdir()] == []
    assert {p.name for p in (moved / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "last-6.ckpt",
        "last-5.ckpt",
    }
    state = torch.load(moved / "checkpoints/last.ckpt", weights_only=True)
    kept = next(v for v in state["callbacks"].values() if "best_model_path" in v)
    assert kept["best_model_path"] == f"../elsewhere/run/{run.name}/checkpoints/best.ckpt"
    assert RunFolder(moved).summary["best_score"] == RunFolder(whole).summary["best_score"]


def test_truncated_checkpoint_uses_previous_one(stop: Callable[..., Path], cli: Cli, whole: Path) -> None:
    run = stop("SIGTERM 7", 75)
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    done = cli("resume", run)
    assert done.returncode == 0
    assert done.stderr.count("last.ckpt is no readable checkpoint") == 1
    assert "from last-6.ckpt: epoch 2, step 6" in done.stdout
    assert differences(whole, run) == []


# ---------------------------------------------------------------- what is refused, and what may change


def test_changed_config_is_rejected_with_difference(stop: Callable[..., Path], cli: Cli) -> None:
    run = stop("SIGTERM 3", 75)
    before = content(run)
    arguments = [
        "--model.optimizer.lr",
        "0.5",
        "--trainer.max_epochs",
        "3",
        "--data.source",
        "{name: folder, root: no}",
    ]
    done = cli("resume", run, *arguments, "--allow-changed", "data.source")
    assert done.returncode == 2
    assert "optimizer/lr: 0.01 before, 0.5 now" in done.stderr
    assert "trainer/max_epochs: 2 before, 3 now" in done.stderr
    assert "source" not in done.stderr
    assert "--allow-changed optimizer/lr --allow-changed trainer/max_epochs" in done.stderr
    assert done.stdout == ""
    misspelt = cli("resume", run, "--allow-changed", "trainer.max_epoch")
    assert misspelt.returncode == 2
    assert (
        '--allow-changed: expected a key of the config, got "trainer/max_epoch". Did you mean "trainer/max_epochs"'
        in misspelt.stderr
    )
    assert content(run) == before


def test_finished_run_is_reported_and_can_be_extended(stop: Callable[..., Path], cli: Cli, place: Path) -> None:
    run = stop("SIGTERM 0", 0)  # never
    before = content(run)
    done = cli("resume", run)
    assert done.returncode == 0
    assert done.stdout == f"the run {run} is finished: 2 epochs, 8 steps\n"
    assert content(run) == before

    more = ["--trainer.max_epochs", "3", "--allow-changed", "trainer.max_epochs"]
    done = cli("resume", run, *more)
    assert done.returncode == 0, done.stderr
    after = RunFolder(run)
    assert (after.summary["epochs"], after.summary["steps"], after.summary["resumed"]) == (3, 12, [8])
    assert after.config["trainer"]["max_epochs"] == 3
    assert after.environment["resumed"][0]["changed"] == {"trainer/max_epochs": {"run": 2, "now": 3}}
    assert after.metrics()["val/acc"].epochs.tolist() == [0, 1, 2]
    assert cli("resume", run).stdout.startswith(f"the run {run} is finished: 3 epochs")


def test_a_run_that_was_trained_and_not_evaluated_is_evaluated(
    stop: Callable[..., Path], cli: Cli, place: Path
) -> None:
    run = stop("SIGTERM 0", 0, "--evaluate_after_fit", "true")
    whole = shutil.copytree(run, place / "kept/runs/run" / run.name)
    (run / "report.html").unlink()
    shutil.rmtree(run / "predictions")
    done = cli("resume", run)
    assert done.returncode == 0, done.stderr
    assert "from last.ckpt: epoch 3, step 8" in done.stdout
    assert differences(whole, run) == []
    assert {p.name for p in (run / "predictions").iterdir()} == {"val.parquet", "test.parquet"}
    assert (run / "report.html").is_file()
    assert len(RunFolder(run).metrics()["test/acc"]) == 1


def test_changed_data_is_rejected_with_fingerprints(stop: Callable[..., Path], cli: Cli) -> None:
    """Runs of older versions store no split. See test_changed_data.py for the others."""
    run = stop("SIGTERM 3", 75)
    (run / "splits.parquet").unlink()
    path = run / "environment.json"
    environment = json.loads(path.read_text())
    now = environment["data_fingerprint"]
    path.write_text(json.dumps({**environment, "data_fingerprint": "0123456789abcdef"}))
    before = content(run)
    done = cli("resume", run)
    assert done.returncode == 2
    assert f"its fingerprint was 0123456789abcdef and is {now} now" in done.stderr
    assert content(run) == before
    done = cli("resume", run, "--allow-changed", "data_fingerprint")
    assert done.returncode == 0, done.stderr
    assert cli("resume", run).returncode == 0  # the override is now part of the run


def test_changed_versions_and_threads_are_reported_once(stop: Callable[..., Path], cli: Cli) -> None:
    run = stop("SIGTERM 3", 75)
    path = run / "environment.json"
    environment: dict[str, Any] = json.loads(path.read_text())
    environment["versions"]["torch"] = "2.0.1"
    threads = environment["hardware"]["threads"]
    environment["hardware"]["threads"] = 96
    path.write_text(json.dumps(environment))
    done = cli("resume", run)
    assert done.returncode == 0
    output = f"torch 2.0.1, now {torch.__version__.partition('+')[0]}, threads 96, now {threads}"
    assert done.stderr.count("may end with other weights") == 1
    assert output in done.stderr


def test_locked_folder_is_rejected(stop: Callable[..., Path], cli: Cli) -> None:
    run = stop("SIGTERM 3", 75)
    hold = f"from imgrec.runs.lock import RunLock; lock = RunLock({str(run)!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        before = content(run)
        for arguments in (["resume", run], ["fit", "--config", "run.yaml", "--ckpt_path", "last"]):
            done = cli(*arguments)
            assert done.returncode == 2
            assert f"in use: process {other.pid} trains in it" in done.stderr
        assert content(run) == before
        other.kill()


def test_changed_batch_size_resumes_at_same_position(stop: Callable[..., Path], cli: Cli) -> None:
    run = stop("SIGTERM 6", 75)  # two of four batches of 32 into the second epoch
    arguments = ["--data.batch_size", "16", "--trainer.limit_train_batches", "8"]
    done = cli("resume", run, *arguments, "--allow-changed", "data.batch_size", "--allow-changed", "trainer")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("16 images at once instead of 32, in 1 process(es) instead of 1") == 1
    assert RunFolder(run).summary["steps"] == 6 + 4  # four of eight batches of 16 are left


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: RUN"),
        (["nowhere"], "run folder not found: nowhere"),
        (["runs"], "is no run folder"),
        (["runs", "--ckpt_path", "x.ckpt"], "resume continues from the last checkpoint"),
        (["--allow-changed"], "expected one argument"),
    ],
)
def test_refused_resume(cli: Cli, place: Path, arguments: list[str], message: str) -> None:
    (place / "runs").mkdir()
    done = cli("resume", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- one command to begin and to go on


def test_one_command_starts_and_resumes(stop: Callable[..., Path], cli: Cli, place: Path, whole: Path) -> None:
    last = ["--ckpt_path", "last"]
    run = stop("SIGTERM 6", 75, *last)
    config = place / "run.yaml"
    config.write_text(CONFIG.replace("lr: 0.01", "lr: 0.02"))
    refused = cli("fit", "--config", "run.yaml", *last)
    assert refused.returncode == 2
    assert "optimizer/lr: 0.01 before, 0.02 now" in refused.stderr
    config.write_text(CONFIG)

    other_seed = cli("fit", "--config", "run.yaml", *last, "--seed_everything", "1", "--trainer.max_epochs", "1")
    assert "there is no unfinished run: starting a new one" in other_seed.stdout
    done = cli("fit", "--config", "run.yaml", *last)
    assert done.returncode == 0, done.stderr
    assert f"run {run.relative_to(place)}\nfrom last.ckpt: epoch 2, step 6" in done.stdout
    assert differences(whole, run) == []
    again = cli("fit", "--config", "run.yaml", *last, "--trainer.max_epochs", "1")
    assert "there is no unfinished run: starting a new one" in again.stdout
    named = cli("fit", "--config", "run.yaml", "--ckpt_path", run)
    assert "is finished: 2 epochs, 8 steps" in named.stdout
    assert len(list((place / "runs/run").iterdir())) == 3


def test_allow_changed_requires_resume(cli: Cli, place: Path) -> None:
    done = cli("fit", "--config", "run.yaml", "--allow-changed", "seed_everything")
    assert done.returncode == 2
    assert "--allow-changed: expected --ckpt_path last" in done.stderr
    assert not (place / "runs").exists()


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Fail the writes of checkpoints marked True in the returned list, in order. Later writes succeed."""
    failing: list[bool] = []
    write = checkpoints._ErrorRecorder.write

    def write_or_not(self: Any, data: bytes) -> int:
        if self not in seen:
            seen.append(self)
        turn = seen.index(self)
        if turn < len(failing) and failing[turn]:
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.error
        return write(self, data)

    seen: list[Any] = []
    monkeypatch.setattr(checkpoints._ErrorRecorder, "write", write_or_not)
    return failing


def test_training_continues_after_two_write_failures(cli: Cli, place: Path, full: list[bool], whole: Path) -> None:
    full[:] = [False, True, True, False, False]
    done = cli("fit", "--config", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("could not be written: No space left on device") == 2
    (run,) = (place / "runs/run").iterdir()
    assert RunFolder(run).summary["best_score"] == RunFolder(whole).summary["best_score"]
    assert not list((run / "checkpoints").glob(".*"))


def test_third_write_failure_ends_run_resumable(cli: Cli, place: Path, full: list[bool], whole: Path) -> None:
    full[:] = [False, True, True, True]  # step 3, best and last of the first epoch, step 6
    done = cli("fit", "--config", "run.yaml")
    assert done.returncode == 6
    assert done.stderr.count("could not be written") == 3
    assert "3 times in a row. The run ends here and can be resumed." in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = (place / "runs/run").iterdir()
    assert RunFolder(run).summary["status"] == "failed"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["last-3.ckpt", "last.ckpt"]  # one file
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    full.clear()
    done = cli("resume", run)
    assert done.returncode == 0, done.stderr
    assert differences(whole, run) == []
    assert yaml.safe_load((run / "config.yaml").read_text()) == yaml.safe_load((whole / "config.yaml").read_text())
