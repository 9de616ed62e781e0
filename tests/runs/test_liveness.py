from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imgrec import RunFolder
from imgrec.errors import ResourceError
from imgrec.runs import liveness
from imgrec.runs.live import LiveRun
from imgrec.runs.liveness import PROCESS_FILE, is_alive, process_identity, status_of
from imgrec.runs.lock import RunLock
from imgrec.runs.table import run_table


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose summary claims that it is being trained."""
    folder = tmp_path / "runs/a/1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    (folder / "environment.json").write_text("{}\n")
    (folder / "summary.json").write_text('{"status": "running"}\n')
    return folder


def shown(run: Path) -> set[str]:
    """Return the statuses that the commands show of a run."""
    return {str(run_table(run.parents[1]).rows[0]["status"]), LiveRun(run).status, status_of(RunFolder(run))}


def left_by(run: Path, age: float = 0.0, **other: Any) -> None:
    """Write the file that a process with another identity has left, ``age`` seconds ago."""
    (run / PROCESS_FILE).write_text(json.dumps(process_identity() | other))
    then = time.time() - age
    os.utime(run / PROCESS_FILE, (then, then))


def test_a_run_is_running_while_its_folder_is_locked(run: Path) -> None:
    assert shown(run) == {"killed"}
    lock = RunLock(run)
    assert shown(run) == {"running"}
    assert not LiveRun(run).has_ended
    lock.release()
    assert shown(run) == {"killed"}
    assert LiveRun(run).has_ended
    assert not (run / PROCESS_FILE).exists()


def test_zombie_process_is_not_alive(run: Path) -> None:
    script = f"from imgrec.runs.lock import RunLock; kept = RunLock({str(run)!r}); print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    assert shown(run) == {"running"}
    process.kill()
    process.stdout.read()  # until it is gone
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert shown(run) == {"killed"}
    process.wait()
    assert shown(run) == {"killed"}


@pytest.mark.parametrize(
    ("other", "age", "alive"),
    [
        ({"started": 1}, 0, False),  # the number was given to another process
        ({"pid": 2**22 + 1}, 0, False),
        ({"host": "elsewhere"}, 30, True),
        ({"host": "elsewhere"}, 3600, False),
        ({"host": "elsewhere", "pid": 2**22 + 1}, 0, True),
        ({"boot": "before"}, 10**9, False),  # this machine was restarted since
        ({"namespace": "pid:[1]"}, 30, True),  # another container of this machine
        ({"namespace": "pid:[1]"}, 3600, False),
        ({"pid": None}, 0, False),
    ],
)
def test_is_alive_identifies_the_process(other: dict[str, Any], age: float, alive: bool, run: Path) -> None:
    left_by(run, age, **other)
    assert is_alive(run) == alive
    assert shown(run) == {"running" if alive else "killed"}


def test_a_restart_of_this_machine_ends_a_run_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by(run, 30, boot="before")
    monkeypatch.setattr(liveness, "_boot_time", lambda: time.time() - 20)
    assert shown(run) == {"killed"}


@pytest.mark.parametrize("text", ["", "[]", "{", "4711"])
def test_invalid_process_file_is_not_alive(text: str, run: Path) -> None:
    (run / PROCESS_FILE).write_text(text)
    assert not is_alive(run)


def test_heartbeat_is_written_repeatedly(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL", 0.01)
    lock = RunLock(run)
    os.utime(run / PROCESS_FILE, (0, 0))
    while (run / PROCESS_FILE).stat().st_mtime == 0:
        time.sleep(0.01)
    lock.release()


def test_a_run_that_has_written_its_end_keeps_its_status(run: Path) -> None:
    (run / "summary.json").write_text('{"status": "preempted"}\n')
    assert shown(run) == {"preempted"}
    (run / "summary.json").unlink()
    assert shown(run) == {"unfinished"}
    lock = RunLock(run)
    assert shown(run) == {"starting"}
    lock.release()


@pytest.mark.parametrize("again", [False, True])
def test_deleted_folder_is_detected(again: bool, run: Path) -> None:
    lock = RunLock(run)
    lock.check()
    run.rename(run.with_name("2"))
    if again:
        shutil.copytree(run.with_name("2"), run)
    with pytest.raises(ResourceError, match="was deleted or moved during the run"):
        lock.check()
    assert lock.lost
    lock.release()
