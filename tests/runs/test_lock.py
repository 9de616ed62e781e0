from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgrec.errors import UserError
from imgrec.runs.lock import LOCK, RunLock

HOLD = """
import sys, time
from imgrec.runs.lock import RunLock
lock = RunLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that trains in the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_process_is_rejected_until_the_first_has_ended(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError, match=rf"in use: process {holder.pid} trains in it"):
        RunLock(tmp_path)
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()  # what a killed process leaves is no lock
    lock = RunLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_surviving_worker_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    script = f"""
import os, time
from imgrec.runs.lock import RunLock
lock = RunLock({str(tmp_path)!r})
if os.fork() == 0:
    print("forked", flush=True)
    time.sleep(60)
os._exit(0)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "forked\n"
    process.wait()
    RunLock(tmp_path).release()
    process.stdout.close()
