"""Checkpoint files: whole or not there, and which of a run's to go on from."""

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
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says where there is no room: on the disk, in one's quota, in a file."""


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Write ``content`` to ``path``, whole or not at all: aside, on the disk, then renamed.

    The file beside it is of the same file system, so that the renaming is one step; both the file and the folder are
    synchronised, so that a machine that loses its power has the old checkpoint or the new one. Tensors are written as
    they come: there is no second copy in memory.

    Raises:
        OSError: it cannot be written; what stood at ``path`` still does, and nothing half written is left.
    """
    path = Path(path)
    with written_aside(path) as aside, aside.open("wb") as file:
        kept = _Kept(file)
        try:
            torch.save(content, kept)  # type: ignore[arg-type]
        except (OSError, RuntimeError) as error:  # torch says "unexpected pos", and not why
            raise (kept.error or error) from error
        file.flush()
        os.fsync(file.fileno())
    _synchronise(path.parent)


class _Kept:
    """A file that remembers why a write failed."""

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
    except OSError as error:  # some network file systems have no such thing
        logger.debug("%s: %s", folder, error)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Usable:
    """A checkpoint that was read: its path, its optimizer step and its epoch, both counted from 0."""

    path: Path
    step: int
    epoch: int


def find_usable(run: str | os.PathLike[str]) -> Usable | None:
    """The checkpoint that a run goes on from: its last one that can be read; ``None`` where it has none at all.

    The checkpoints that were written to go on from (``last.ckpt`` and those that it replaced, ``last-<step>.ckpt``)
    come first, newest first, then any other. One that was cut off is named in a warning, and the next is taken.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    folder = Path(run) / "checkpoints"
    refused: list[str] = []
    for path in _newest_first(folder):
        try:
            found = read_checkpoint(path)
        except UserError as error:
            refused.append(path.name)
            logger.warning("%s", error)
            continue
        if "loops" not in found or "optimizer_states" not in found:
            refused.append(path.name)
            logger.warning("%s holds weights alone: nothing goes on from it", path)
            continue
        return Usable(path, int(found["global_step"]), int(found["epoch"]))
    if refused:
        raise UserError(
            f"the run {Path(run)} cannot go on: none of its checkpoints can be used ({', '.join(refused)}). "
            f"Remove {folder} to begin anew in this folder."
        )
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    whole = (path for path in folder.glob("*.ckpt") if not path.name.startswith("."))
    there = sorted(whole, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    yield from sorted((path for path in there if is_resumable(path)), key=lambda path: path.name != LAST)
    yield from (path for path in there if not is_resumable(path))


def remove_unfinished(run: str | os.PathLike[str]) -> None:
    """Remove the files that a killed process was writing aside; call it where no other process trains in the folder."""
    for folder, names in ((Path(run) / "checkpoints", "*.ckpt"), (Path(run), "metrics.csv"), (Path(run), "*.json")):
        for path in folder.glob(f".{names}.*"):
            path.unlink(missing_ok=True)


def is_resumable(path: Path) -> bool:
    """Whether a file is by its name one of those that were written to go on from."""
    return path.name == LAST or (path.suffix == ".ckpt" and path.stem.startswith("last-"))
