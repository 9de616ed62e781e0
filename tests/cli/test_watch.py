"""Tests of `imgrec watch`: frames of finished, running and missing runs, and following a run to its end."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from imgrec import RunFolder
from imgrec.runs.lock import RunLock
from imgrec.runs.summary import update_summary

Cli = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(trained, tmp_path / "runs" / "tiny" / "copy"))


def test_a_finished_run_at_a_glance(cli: Cli, run: RunFolder) -> None:
    done = cli("watch", run.path, "--once")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny  copy  finished"
    assert "100 %" in lines[1]
    assert re.match(r"epoch 2/2   step 12 of 12   [\d.]+ s in total", lines[2])
    assert "images/s" in lines[3]
    assert "waiting for data" in lines[3]
    values = run.metrics()["val/acc"].values
    assert f"val/acc {values.max():.4f} in epoch {values.argmax() + 1}" in lines[4]
    assert f"o val {values[-1]:.4f}" in done.stdout
    assert "\x1b" not in done.stdout
    assert re.search("[\u2801-\u28ff]", done.stdout)  # a curve


def test_a_run_that_was_cut_off_in_a_line(cli: Cli, run: RunFolder) -> None:
    (run.path / "predictions" / "test.parquet").unlink()
    update_summary(run.path, {"status": "running"})
    text = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(text[: text.rindex(b"\n", 0, -1) - 30])
    os.utime(run.metrics_file, (1, 1))
    os.utime(run.path / "config.yaml", (1, 1))
    assert "tiny  copy  killed" in cli("watch", run.path, "--once").stdout
    assert cli("watch", run.path).stdout.splitlines()[-1] == "killed"  # returns at once
    lock = RunLock(run.path)
    done = cli("watch", run.path, "--once")
    lock.release()
    assert done.returncode == 0, done.stderr
    assert "tiny  copy  running" in done.stdout
    assert "no update for" in done.stdout


@pytest.mark.parametrize("text", [None, "", "step,ep", "step,epoch\n"])
def test_before_the_first_figure(cli: Cli, run: RunFolder, text: str | None) -> None:
    run.metrics_file.unlink()
    if text is not None:
        run.metrics_file.write_text(text)
    (run.path / "summary.json").unlink()
    done = cli("watch", run.path, "--once")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "tiny  copy  unfinished"
    assert "no figures yet" in done.stdout


def test_a_folder_means_its_newest_run(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    newer = Path(shutil.copytree(run.path, tmp_path / "runs" / "deep" / "er" / "tiny" / "newer"))
    os.utime(run.path / "environment.json", (1, 1))
    assert "tiny  newer" in cli("watch", tmp_path / "runs", "--once").stdout
    shutil.rmtree(newer)
    assert "tiny  copy" in cli("watch", "--once").stdout


def test_no_run_yet_and_no_such_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("watch", "empty", "--once")
    assert (done.returncode, done.stdout) == (0, "no run yet in empty\n")
    done = cli("watch", "rums", "--once")
    assert done.returncode == 2
    assert "run folder not found: rums" in done.stderr
    done = cli("watch", "empty", "--interval", "0")
    assert done.returncode == 2
    assert "--interval: expected float > 0, got 0" in done.stderr


def test_in_a_narrow_terminal_no_line_is_too_long(cli: Cli, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (40, 79, 100, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = cli("watch", run.path, "--once").stdout.splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) > (18 if width < 100 else 10)  # plots in one column or in two


def test_it_follows_a_run_to_its_end(cli: Cli, run: RunFolder) -> None:
    text = run.metrics_file.read_text()
    header, *rows = text.splitlines(keepends=True)
    run.metrics_file.write_text(header)
    update_summary(run.path, {"status": "running"})

    def train() -> None:
        for row in rows:
            time.sleep(0.05)
            with run.metrics_file.open("a") as file:
                file.write(row)
        update_summary(run.path, {"status": "finished"})
        lock.release()

    lock = RunLock(run.path)
    training = threading.Thread(target=train)
    training.start()
    done = cli("watch", run.path, "--interval", "0.02")
    training.join()
    assert done.returncode == 0, done.stderr
    first, *epochs, last = done.stdout.splitlines()
    assert first == str(run.path)
    assert [line.partition("  ")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert f"val/acc {run.metrics()['val/acc'].values[1]:.4f}" in epochs[1]
    assert last == "finished"
