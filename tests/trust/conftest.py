"""A copy of a trained run to attack, in a folder with modules that must never run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.trust.hostile import place_modules
from tests.trust.watch import Watch, watched


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the trained run, with hostile modules in the current folder and an empty trust file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    place_modules(tmp_path)
    return shutil.copytree(trained, tmp_path / "runs" / "tiny" / "copy")


@pytest.fixture
def guarded(tmp_path: Path) -> Callable[[], AbstractContextManager[Watch]]:
    """A block in which nothing is imported from the current folder, executed, connected to, or written outside."""

    @contextmanager
    def block() -> Iterator[Watch]:
        with watched(tmp_path, sources=(tmp_path,)) as watch:
            yield watch
        assert watch.events == []
        assert not (tmp_path / "imported").exists()
        assert not (tmp_path / "executed").exists()

    return block


def unfinished(run: Path) -> Path:
    """Make a run one that was interrupted, so that it can be resumed."""
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    return run
