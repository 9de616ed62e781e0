from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    return shutil.copytree(trained, tmp_path / "runs" / "tiny" / "copy")


def test_report_is_rewritten(cli: Cli, run: Path) -> None:
    fresh = (run / "report.html").read_text()
    (run / "report.html").unlink()
    done = cli("report", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run / 'report.html'}\n"
    again = (run / "report.html").read_text()
    assert again.count("<img") == fresh.count("<img") > 0
    assert len(again) == pytest.approx(len(fresh), rel=0.02)


@pytest.mark.parametrize("place", ["a folder that is gone", "a class that is gone"])
def test_without_the_data_there_are_no_thumbnails(place: str, cli: Cli, run: Path) -> None:
    config = (run / "config.yaml").read_text()
    if place == "a folder that is gone":
        changed = config.replace("name: digits", "name: folder\n      root: gone")
    else:
        changed = config.replace("imgrec.ImageDataModule", "gone.Data")
    assert changed != config
    (run / "config.yaml").write_text(changed)
    before = (run / "report.html").read_text()
    done = cli("report", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no thumbnails: ")
    assert done.stdout.splitlines()[-1] == str(run / "report.html")
    assert (run / "report.html").read_text().count("<img") < before.count("<img")
