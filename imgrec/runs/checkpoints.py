"""Checkpoint files: atomic writing, and the checkpoint that a run resumes from."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from imgrec.errors import UserError
from imgrec.runs.load import read_checkpoint
from imgrec.utils.paths import written_aside

logger = logging.getLogger(__name__)

LAST = "last.ckpt"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write without space on the disk, in the quota or in the file."""


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint atomically: to a temporary file in the same folder, which is then renamed.

    File and folder are synchronised with the disk. After a power failure, either the old or the new checkpoint exists.
    Tensors are written without a second copy in memory.

    Args:
        content: Content of the checkpoint.
        path: Path of the file.

    Raises:
        OSError: If the file cannot be written. An existing file at ``path`` is unchanged, and no partial file remains.
    """
    path = Path(path)
    with written_aside(path) as aside, aside.open("wb") as file:
        recorder = _ErrorRecorder(file)
        try:
            torch.save(content, recorder)  # type: ignore[arg-type]
        except (OSError, RuntimeError) as error:  # torch reports "unexpected pos" without the cause
            raise (recorder.error or error) from error
        file.flush()
        os.fsync(file.fileno())
    _synchronise(path.parent)


class _ErrorRecorder:
    """File that stores the error of a failed write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _synchronise(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # not supported by some network file systems
        logger.debug("%s: %s", folder, error)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class ResumableCheckpoint:
    """Checkpoint that training can resume from.

    Attributes:
        path: Path of the file.
        step: Optimizer step, counted from 0.
        epoch: Epoch, counted from 0.
    """

    path: Path
    step: int
    epoch: int


def find_resumable(run: str | os.PathLike[str]) -> ResumableCheckpoint | None:
    """Return the newest checkpoint of a run that can be resumed, or ``None`` if the run has no checkpoint.

    ``last.ckpt`` and its predecessors ``last-<step>.ckpt`` have priority over all others. A truncated checkpoint is
    skipped with a warning.

    Args:
        run: Run folder.

    Raises:
        UserError: If there are checkpoints and none can be resumed.
    """
    folder = Path(run) / "checkpoints"
    rejected: list[str] = []
    for path in _newest_first(folder):
        try:
            found = read_checkpoint(path)
        except UserError as error:
            rejected.append(path.name)
            logger.warning("%s", error)
            continue
        if "loops" not in found or "optimizer_states" not in found:
            rejected.append(path.name)
            logger.warning("%s contains only weights. Training cannot resume from it.", path)
            continue
        return ResumableCheckpoint(path, int(found["global_step"]), int(found["epoch"]))
    if rejected:
        raise UserError(
            f"the run {Path(run)} cannot be resumed: no checkpoint can be used ({', '.join(rejected)}). "
            f"Remove {folder} to restart training in this folder."
        )
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    complete = (path for path in folder.glob("*.ckpt") if not path.name.startswith("."))
    found = sorted(complete, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    yield from sorted((path for path in found if is_resumable(path)), key=lambda path: path.name != LAST)
    yield from (path for path in found if not is_resumable(path))


def remove_partial_files(run: str | os.PathLike[str]) -> None:
    """Remove temporary files of a killed process. No other process may train in the folder.

    Args:
        run: Run folder.
    """
    for folder, names in ((Path(run) / "checkpoints", "*.ckpt"), (Path(run), "metrics.csv"), (Path(run), "*.json")):
        for path in folder.glob(f".{names}.*"):
            path.unlink(missing_ok=True)


def is_resumable(path: Path) -> bool:
    """Return True if the name of a file is that of a checkpoint for resuming."""
    return path.name == LAST or (path.suffix == ".ckpt" and path.stem.startswith("last-"))
