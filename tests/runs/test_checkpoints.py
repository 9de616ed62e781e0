from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec.errors import UserError
from imgrec.runs.checkpoints import (
    DISK_FULL,
    ResumableCheckpoint,
    find_resumable,
    remove_partial_files,
    write_checkpoint,
)


def checkpoint(step: int, **more: Any) -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.full((1000,), float(step))},
        "loops": {},
        "optimizer_states": [],
        "global_step": step,
        "epoch": step // 10,
        **more,
    }


def run_with(tmp_path: Path, **steps: int) -> Path:
    """Create a run folder with these checkpoints, the oldest first."""
    for i, (name, step) in enumerate(steps.items()):
        path = tmp_path / "checkpoints" / f"{name.replace('_', '-')}.ckpt"
        write_checkpoint(checkpoint(step), path)
        os.utime(path, (i, i))
    return tmp_path


def test_checkpoint_is_read_without_unpickling_code(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    write_checkpoint(checkpoint(3), path)
    found = torch.load(path, weights_only=True)
    assert found["global_step"] == 3
    assert torch.equal(found["state_dict"]["weight"], torch.full((1000,), 3.0))
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failed_write_keeps_the_old_checkpoint_and_raises_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(checkpoint(3), path)
    before = path.read_bytes()
    from imgrec.runs import checkpoints

    write = checkpoints._ErrorRecorder.write
    written = 0

    def full(self: Any, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 2000:  # in the middle of the weights
            self.error = OSError(code, os.strerror(code))
            raise self.error
        return write(self, data)

    monkeypatch.setattr(checkpoints._ErrorRecorder, "write", full)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        write_checkpoint(checkpoint(4), path)
    assert caught.value.errno == code
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_file_size_limit_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint({"weight": torch.zeros(10)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # bytes of one file
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
            write_checkpoint({"weight": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno in DISK_FULL
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_last_checkpoint_has_priority(tmp_path: Path) -> None:
    run = run_with(tmp_path, last_10=10, last=20, best=25)
    assert find_resumable(run) == ResumableCheckpoint(run / "checkpoints/last.ckpt", 20, 2)
    (run / "checkpoints/last.ckpt").unlink()
    assert find_resumable(run) == ResumableCheckpoint(run / "checkpoints/last-10.ckpt", 10, 1)
    (run / "checkpoints/last-10.ckpt").unlink()
    assert find_resumable(run) == ResumableCheckpoint(run / "checkpoints/best.ckpt", 25, 2)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_truncated_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: float
) -> None:
    run = run_with(tmp_path, best=5, last_10=10, last=20)
    path = run / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert find_resumable(run) == ResumableCheckpoint(run / "checkpoints/last-10.ckpt", 10, 1)
    (record,) = caplog.records
    assert str(path) in record.message
    assert "no readable checkpoint" in record.message


def test_run_without_readable_checkpoint_is_an_error(tmp_path: Path) -> None:
    run = run_with(tmp_path, best=5, last=20)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"no checkpoint can be used \(last.ckpt, best.ckpt\)"):
        find_resumable(run)


def test_checkpoint_of_weights_cannot_be_resumed(tmp_path: Path) -> None:
    weights = {"state_dict": {}, "global_step": 3, "epoch": 0}
    write_checkpoint(weights, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match="no checkpoint"):
        find_resumable(tmp_path)


def test_run_without_checkpoint_starts_at_the_first_step(tmp_path: Path) -> None:
    assert find_resumable(tmp_path) is None


def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    run = run_with(tmp_path, last=20)
    for name in ("checkpoints/.last.ckpt.x1y2.ckpt", ".metrics.csv.abc.csv", ".summary.json.abc.json"):
        (run / name).write_text("half")
    (run / ".hidden").write_text("of somebody")
    assert find_resumable(run) == ResumableCheckpoint(run / "checkpoints/last.ckpt", 20, 2)
    remove_partial_files(run)
    left = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert left == {"checkpoints/last.ckpt", ".hidden"}
