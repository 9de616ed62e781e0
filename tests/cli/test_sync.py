"""Tests of `imgrec sync`: offline W&B runs are listed, and missing requirements are reported before an upload."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import wandb

from imgrec.cli.commands import sync
from imgrec.errors import UserError
from imgrec.loggers.wandb.files import wandb_records
from imgrec.trust import opening

Cli = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``wandb/`` with one finished offline run of three rows and an artifact."""
    place = tmp_path_factory.mktemp("offline")
    (place / "weights.bin").write_bytes(b"1234")
    options = wandb.Settings(silent=True, console="off")
    run = wandb.init(project="demo", entity="us", id="abc123", dir=str(place), mode="offline", settings=options)
    for step in range(3):
        run.log({"a": step})
    artifact = wandb.Artifact("weights", type="model")
    artifact.add_file(str(place / "weights.bin"), policy="immutable")
    run.log_artifact(artifact)
    run.finish()
    (file,) = place.glob("wandb/offline-run-*/run-abc123.wandb")
    deadline = time.monotonic() + 60
    while all(record.WhichOneof("record_type") != "exit" for record in wandb_records(file)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return place


@pytest.fixture
def run(trained: Path, offline: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(trained, tmp_path / "runs" / "tiny" / "one"))
    shutil.copytree(offline / "wandb", folder / "wandb", symlinks=True)
    return folder


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_dry_run_lists_uploads(cli: Cli, run: Path) -> None:
    for place in (run, run.parents[1]):
        done = cli("sync", place, "--dry-run")
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.split()[:3] == ["us/demo/abc123", "3", "rows"]
        assert line.split()[3].startswith(str(place))
        assert done.stderr == ""


def test_uploaded_runs_are_skipped(cli: Cli, run: Path) -> None:
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    file.with_name(f"{file.name}.synced").touch()
    assert "nothing to upload" in cli("sync", run, "--dry-run").stdout
    assert "us/demo/abc123" in cli("sync", run, "--dry-run", "--again").stdout


def test_empty_file_of_killed_run_is_ignored(cli: Cli, run: Path) -> None:
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    torn = run / "wandb" / "offline-run-20200101_000000-torn"
    torn.mkdir()
    for text in (b"", file.read_bytes()[:7], file.read_bytes()[:60]):
        (torn / "run-torn.wandb").write_bytes(text)
        assert len(cli("sync", run, "--dry-run").stdout.splitlines()) == 1


def test_missing_files_are_reported(cli: Cli, run: Path, offline: Path) -> None:
    (offline / "weights.bin").rename(offline / "away.bin")
    try:
        done = cli("sync", run, "--dry-run")
    finally:
        (offline / "away.bin").rename(offline / "weights.bin")
    assert "1 of its files do not exist" in done.stderr


def test_missing_key_uploads_nothing(cli: Cli, run: Path) -> None:
    done = cli("sync", run)
    assert done.returncode == 2
    assert done.stderr.startswith("imgrec: error: W&B: no API key is configured: run `wandb login`")


def test_a_folder_without_runs(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, output in (("empty", "is no run folder"), ("nowhere", "run folder not found")):
        done = cli("sync", place)
        assert done.returncode == 2
        assert output in done.stderr


def test_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=r"cannot be reached.*Nothing was uploaded"):
        sync.check_server(url, timeout=5)


def test_a_file_outside_the_run_is_not_uploaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(sync, "check_server", lambda url: None)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("it was uploaded"))
    (folder,) = run.glob("wandb/offline-run-*")
    with opening("sync"), pytest.raises(UserError, match=r"weights\.bin: it is no file of the run.*--trust"):
        sync.upload([folder], None, None, False)
