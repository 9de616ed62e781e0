from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path

import pytest

from imgrec.runs.environment import describe_environment, git_state


def test_environment_does_not_contain_the_host_name() -> None:
    started = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    found = describe_environment(
        command=["imgrec", "fit", "--x", "a b"], seed=7, fingerprint="abc", experiment="digits", started=started
    )
    assert found["command"] == "imgrec fit --x 'a b'"
    assert (found["seed"], found["data_fingerprint"], found["experiment"]) == (7, "abc", "digits")
    assert found["started"] == "2026-02-28T23:30:00+00:00"
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == version("torch")
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gib"] > 0
    assert json.loads(json.dumps(found)) == found
    assert platform.node() not in re.findall(r"[\w.-]+", json.dumps(found))


def test_command_defaults_to_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["imgrec", "test"])
    assert describe_environment()["command"] == "imgrec test"


def test_git_state_has_commit_and_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) is None
    git("init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    (tmp_path / "runs").write_text("what a run leaves is not tracked")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path.cwd()) is None
